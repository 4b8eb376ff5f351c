import numpy as np
import pytest

from tle.metrics import calibration_error
from tle.reporting.reliability import reliability_bins


def test_the_error_is_the_one_that_metrics_gives():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([0.4] * 5, 400).astype(np.float32)
    labels = rng.integers(0, 5, 400)
    right = scores.argmax(1) == labels
    bins = reliability_bins(scores.max(1), right)
    assert bins.error == pytest.approx(calibration_error(scores, right), abs=1e-12)
    assert bins.count.sum() == 400


def test_bins_hold_their_upper_edge_and_intervals_are_wilsons():
    bins = reliability_bins(np.array([0.2, 0.2, 0.2, 1.0], np.float32), np.array([True, False, True, True]), bins=5)
    assert bins.count.tolist() == [0, 3, 0, 0, 1]  # float32 0.2 lies above 1/5
    assert np.isnan(bins.accuracy[0])
    assert bins.accuracy[1] == pytest.approx(2 / 3)
    # scipy.stats.binomtest(2, 3).proportion_ci(method="wilson")
    assert (bins.low[1], bins.high[1]) == pytest.approx((0.20765960, 0.93850806), abs=1e-6)
