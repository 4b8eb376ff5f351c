"""Moments of samples against numpy and against the scaler, whatever the blocks."""

import numpy as np
import pytest

from tle.enums import Target
from tle.heads.gram import measure_moments
from tle.heads.samples import Samples, as_targets
from tle.heads.scaler import fit_scaler


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("target", [Target.CLASS, Target.MULTILABEL, Target.REGRESSION])
@pytest.mark.parametrize("block_values", [37, 2**24])
def test_moments_equal_numpy(dtype, target, block_values, monkeypatch):
    monkeypatch.setattr("tle.heads.samples._BLOCK_VALUES", block_values)
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(400, 9)) * 2 + 30).astype(dtype)
    rows = np.sort(rng.permutation(400)[:301])
    labels = {
        Target.CLASS: rng.integers(0, 4, 301),  # class 4 of 5 is absent
        Target.MULTILABEL: rng.integers(0, 2, (301, 5)).astype(np.uint8),
        Target.REGRESSION: rng.normal(size=301).astype(np.float32),
    }[target]
    outputs = 1 if target is Target.REGRESSION else 5
    x_ND, y_NK = features[rows].astype(np.float64), as_targets(labels, target, outputs)
    centred_ND = x_ND - x_ND.mean(axis=0)
    for scatter in (True, False):
        found = measure_moments(Samples(features, rows, labels), target, outputs, scatter=scatter)
        np.testing.assert_allclose(found.mean_D, x_ND.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(found.variance_D, x_ND.var(axis=0), rtol=1e-11)
        np.testing.assert_allclose(found.target_mean_K, y_NK.mean(axis=0), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found.cross_KD, (y_NK - y_NK.mean(axis=0)).T @ centred_ND, atol=1e-9)
        assert (found.scatter_DD is not None) == scatter
        if scatter:
            np.testing.assert_allclose(found.scatter_DD, centred_ND.T @ centred_ND, atol=1e-9)
    if target is Target.CLASS:
        assert found.counts().tolist() == np.bincount(labels, minlength=5).tolist()
        means = [x_ND[labels == label].mean(axis=0) - x_ND.mean(axis=0) for label in (0, 3)]
        np.testing.assert_allclose(found.class_means(np.array([0, 3])), means, atol=1e-11)


@pytest.mark.parametrize("scatter", [True, False])
def test_the_scaler_is_that_of_one_pass_over_the_samples(scatter):
    rng = np.random.default_rng(1)
    x_ND = rng.normal(size=(3000, 6)).astype(np.float32)
    x_ND[:, 1] = 0.1  # constant
    x_ND[:, 2] = 1e6 + 0.5 * (np.arange(3000) == 2500)  # all but constant, and far away
    x_ND[:, 3] *= 1e-6  # floored
    samples = Samples(x_ND, np.arange(3000), np.zeros(3000, np.int64))
    want = fit_scaler(samples)
    found = measure_moments(samples, Target.CLASS, 1, scatter=scatter).scaler(standard=True)
    np.testing.assert_allclose(found.mean_D, want.mean_D, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.scale_D, want.scale_D, rtol=1e-7)
    assert found.n_floored == want.n_floored
    assert found.scale_D[1] == 1.0
