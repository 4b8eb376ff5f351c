"""The paired bootstrap against resampling pictures one by one."""

import numpy as np
import pytest

from tle.bootstrap import percentile_interval, probability_above, resample_figures, sign_test
from tle.enums import Target
from tle.errors import ShapeError
from tle.heads.figures import METRICS, measure_figures

SEED, RESAMPLES = 3, 40


def models(target, n=60, n_classes=7, seed=0):
    """Labels, and the scores of two models that err on partly the same pictures."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=(n, n_classes))
    if target is Target.REGRESSION:
        labels = rng.normal(size=n).astype(np.float32)
        return labels, [(labels[:, None] + hard[:, :1] + rng.normal(size=(n, 1))).astype(np.float32) for _ in "ab"]
    if target is Target.MULTILABEL:
        labels = (rng.random((n, n_classes)) < 0.3).astype(np.uint8)
        signal = labels
    else:
        labels = rng.integers(0, n_classes, n)
        signal = np.eye(n_classes)[labels]
    logits = [2 * signal + hard + rng.normal(size=hard.shape) for _ in "ab"]
    if target is Target.MULTILABEL:
        return labels, [(1 / (1 + np.exp(-found))).round(1).astype(np.float32) for found in logits]  # with ties
    scores = [np.exp(found) / np.exp(found).sum(axis=1, keepdims=True) for found in logits]
    return labels, [found.astype(np.float32) for found in scores]


@pytest.mark.parametrize(
    ("target", "metric"), [(target, metric) for target, metrics in METRICS.items() for metric in metrics]
)
def test_every_figure_is_that_of_the_pictures_drawn(target, metric):
    labels, scores = models(target)
    found = resample_figures(metric, target, scores, labels, seed=SEED, resamples=RESAMPLES)
    rng = np.random.default_rng(SEED)
    for values in found:
        drawn = rng.integers(0, len(labels), len(labels))  # the same pictures for both models
        for value, scores_NK in zip(values, scores, strict=True):
            want = measure_figures(target, (metric,), scores_NK[drawn], labels[drawn])[metric].value
            assert value == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_blocks_change_nothing(monkeypatch):
    labels, scores = models(Target.CLASS)
    whole = resample_figures("macro_f1", Target.CLASS, scores, labels, resamples=23)
    monkeypatch.setattr("tle.bootstrap._BLOCK_VALUES", 5 * len(labels))
    np.testing.assert_array_equal(whole, resample_figures("macro_f1", Target.CLASS, scores, labels, resamples=23))


def test_pairing_sees_what_two_single_intervals_do_not():
    """Two models that differ on 30 of 1,000 pictures, always for the worse."""
    labels = np.zeros(1000, np.int64)
    right = np.tile([[0.9, 0.1]], (1000, 1)).astype(np.float32)
    right[:300] = [0.1, 0.9]
    worse = right.copy()
    worse[300:330] = [0.1, 0.9]
    values = resample_figures("accuracy", Target.CLASS, [right, worse], labels)
    (low, high), (other_low, other_high) = (percentile_interval(values[:, model]) for model in (0, 1))
    assert low < other_high
    assert other_low < high
    difference = values[:, 0] - values[:, 1]
    low, high = percentile_interval(difference)
    # the number of differing pictures drawn is binomial(1000, 0.03)
    assert (low, high) == (pytest.approx(0.020, abs=0.0015), pytest.approx(0.041, abs=0.0015))
    assert probability_above(difference) == 1


def test_undefined_resamples_are_left_out():
    labels = np.array([0.0, 0.0, 1.0], np.float32)
    scores = [labels[:, None] + np.float32(0.1)]
    values = resample_figures("r2", Target.REGRESSION, scores, labels, resamples=200)[:, 0]
    assert 0 < np.isnan(values).sum() < 200
    assert np.isfinite(percentile_interval(values)).all()
    assert percentile_interval(np.full(3, np.nan)) is None
    assert probability_above(np.full(3, np.nan)) is None


def test_a_tie_counts_half():
    assert probability_above(np.array([1.0, 0.0, 0.0, -1.0])) == 0.5
    assert probability_above(np.zeros(4)) == 0.5


def test_the_sign_test_is_the_exact_binomial():
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    for n, share in ((20, 0.5), (200, 0.9), (5000, 0.7)):
        first, second = rng.random(n) < share, rng.random(n) < 0.6
        wins = int((first & ~second).sum())
        want = binomtest(wins, int((first != second).sum())).pvalue
        assert sign_test(first, second) == pytest.approx(want, rel=1e-9)
        assert sign_test(second, first) == sign_test(first, second)
    assert sign_test(first, first) == 1
    assert sign_test(np.full(4, True), np.full(4, False)) == 0.125


def test_scores_of_other_pictures_are_refused():
    labels, scores = models(Target.CLASS)
    with pytest.raises(ShapeError, match="expected scores for 60 pictures"):
        resample_figures("accuracy", Target.CLASS, [scores[0], scores[1][:-1]], labels)
    with pytest.raises(ShapeError, match="at least one"):
        resample_figures("accuracy", Target.CLASS, [], labels[:0])
