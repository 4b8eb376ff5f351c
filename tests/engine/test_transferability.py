"""LogME and H-scores against what their definitions say, in the slowest way."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tle.enums import Target
from tle.errors import HeadError, ShapeError
from tle.heads.samples import Samples
from tle.transferability import measure_transferability


@pytest.fixture(autouse=True)
def _one_thread():
    with threadpool_limits(1):
        yield


def problem(n, dim, n_classes=3, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    mix = rng.normal(size=(dim, dim)) * np.geomspace(1, 0.05, dim)  # correlated, of unequal spread
    x_ND = (rng.normal(size=(n_classes, dim))[labels] + spread * rng.normal(size=(n, dim))) @ mix + rng.normal(size=dim)
    return x_ND.astype(np.float32), labels.astype(np.int64)


def samples_of(x_ND, labels):
    return Samples(x_ND, np.arange(len(labels)), labels)


def logme_ref(x_ND, y_NK):
    """The log density of y ~ N(0, F F^T / alpha + I / beta), made largest by a search over both."""
    from scipy.optimize import minimize

    x_ND, n = x_ND.astype(np.float64), len(x_ND)
    gram_NN = x_ND @ x_ND.T
    found = []
    for y_N in y_NK.T:

        def loss(logs, y_N=y_N):
            covariance_NN = gram_NN * np.exp(-logs[0]) + np.eye(n) * np.exp(-logs[1])
            _, logdet = np.linalg.slogdet(covariance_NN)
            return (n * np.log(2 * np.pi) + logdet + y_N @ np.linalg.solve(covariance_NN, y_N)) / 2 / n

        starts = [(a, b) for a in (-2.0, 2.0, 6.0) for b in (0.0, 3.0)]
        options = {"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000}
        found.append(-min(minimize(loss, start, method="Nelder-Mead", options=options).fun for start in starts))
    return np.mean(found)


def h_scores_ref(x_ND, labels):
    from sklearn.covariance import ledoit_wolf

    x_ND = x_ND.astype(np.float64) - x_ND.astype(np.float64).mean(axis=0)
    means_ND = np.stack([x_ND[labels == label].mean(axis=0) for label in labels])
    between_DD = means_ND.T @ means_ND / len(x_ND)
    plain = np.trace(np.linalg.pinv(x_ND.T @ x_ND / len(x_ND), rcond=1e-11) @ between_DD)
    shrunk_DD, shrinkage = ledoit_wolf(x_ND, assume_centered=True)
    return plain, np.trace(np.linalg.inv(shrunk_DD) @ ((1 - shrinkage) * between_DD)), shrinkage


@pytest.mark.parametrize(("n", "dim"), [(60, 8), (40, 39), (40, 40), (25, 60), (30, 1)])
def test_logme_is_the_largest_evidence(n, dim):
    x_ND, labels = problem(n, dim, spread=2.0)
    found = measure_transferability(samples_of(x_ND, labels), Target.CLASS, 3)
    assert found.logme == pytest.approx(logme_ref(x_ND, np.eye(3)[labels]), rel=1e-5, abs=1e-6)


def test_logme_of_values_and_of_indicators():
    x_ND, labels = problem(50, 6)
    values = (x_ND @ np.arange(6) + np.random.default_rng(1).normal(size=50)).astype(np.float32)
    found = measure_transferability(samples_of(x_ND, values), Target.REGRESSION, 1)
    assert found.logme == pytest.approx(logme_ref(x_ND, values[:, None].astype(np.float64)), rel=1e-5)
    assert found.h_score is None
    assert found.h_score_shrunk is None
    several = np.stack([labels == 0, labels >= 1], axis=1).astype(np.uint8)
    found = measure_transferability(samples_of(x_ND, several), Target.MULTILABEL, 2)
    assert found.logme == pytest.approx(logme_ref(x_ND, several.astype(np.float64)), rel=1e-5)


@pytest.mark.parametrize(("n", "dim"), [(200, 10), (61, 30), (40, 40), (25, 60), (30, 1)])
def test_h_scores_are_the_formulas(n, dim):
    x_ND, labels = problem(n, dim)
    found = measure_transferability(samples_of(x_ND, labels), Target.CLASS, 3)
    plain, shrunk, shrinkage = h_scores_ref(x_ND, labels)
    assert found.h_score == pytest.approx(plain, rel=1e-6)
    assert found.h_score_shrunk == pytest.approx(shrunk, rel=1e-6)
    assert found.shrinkage == pytest.approx(shrinkage, rel=1e-6)
    assert 0 <= found.h_score <= 2 + 1e-9


def test_better_features_score_higher_and_scale_changes_nothing():
    good, bad = (
        measure_transferability(samples_of(*problem(300, 12, spread=spread)), Target.CLASS, 3) for spread in (0.3, 8.0)
    )
    assert good.logme > bad.logme
    assert good.h_score > bad.h_score
    assert good.h_score_shrunk > bad.h_score_shrunk
    x_ND, labels = problem(300, 12)
    one, thousand = (
        measure_transferability(samples_of(x_ND * np.float32(scale), labels), Target.CLASS, 3) for scale in (1, 1024)
    )
    for name in ("logme", "h_score", "h_score_shrunk"):
        assert getattr(one, name) == pytest.approx(getattr(thousand, name), rel=1e-9)


def test_rows_float16_and_absent_classes():
    x_ND, labels = problem(120, 9)
    rows = np.arange(1, 120, 2)
    half = measure_transferability(Samples(x_ND.astype(np.float16), rows, labels[rows]), Target.CLASS, 3)
    taken = x_ND[rows].astype(np.float16).astype(np.float32)
    assert half == measure_transferability(samples_of(taken, labels[rows]), Target.CLASS, 3)
    assert half.n == 60
    # a class that nobody has says nothing
    assert half == measure_transferability(samples_of(taken, labels[rows]), Target.CLASS, 7)


@pytest.mark.parametrize("n", [8, 40])
def test_odd_features_give_finite_scores(n):
    rng, labels = np.random.default_rng(0), np.arange(n) % 2
    noise = rng.normal(size=(n, 12)).astype(np.float32)
    noise[:, 3], noise[:, 4] = 0, noise[:, 5]
    exact = np.zeros((n, 12), np.float32)
    exact[np.arange(n), labels] = 1
    for x_ND in (noise, exact, np.ones((n, 12), np.float32)):
        found = measure_transferability(samples_of(x_ND, labels), Target.CLASS, 2)
        assert np.isfinite([found.logme, found.h_score, found.h_score_shrunk]).all()
    assert found.h_score == 0  # of the last: features that are all the same
    assert found.h_score_shrunk == 0


def test_what_cannot_be_scored_is_refused():
    x_ND, labels = problem(10, 3)
    with pytest.raises(HeadError, match="all features of 10 samples are zero"):
        measure_transferability(samples_of(x_ND * 0, labels), Target.CLASS, 3)
    with pytest.raises(ShapeError, match="at least two"):
        measure_transferability(samples_of(x_ND[:1], labels[:1]), Target.CLASS, 3)
    with pytest.raises(ShapeError, match="not all zero"):
        measure_transferability(samples_of(x_ND, np.zeros(10, np.float32)), Target.REGRESSION, 1)
