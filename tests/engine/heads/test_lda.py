"""LDA heads against scikit-learn's LinearDiscriminantAnalysis and ledoit_wolf."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

from tle.errors import HeadError, UsageError
from tle.heads import lda
from tle.heads.params import Params


def _refit(task, **params):
    params = Params("lda", params)
    return lda.refit(task, params, task.both, lda.default_settings(params), (), len(task.both))


@pytest.mark.parametrize("shrinkage", [1.0, 0.3, 0.01])
@pytest.mark.parametrize("scaler", ["standard", "none"])
@pytest.mark.parametrize("n", [400, 60])  # 60 samples of 64 features: the covariance is singular
def test_probabilities_equal_scikit_learn(make_task, digits, shrinkage, scaler, n):
    x_ND, y_N = digits[0][:n], digits[1][:n]
    model = _refit(make_task(x_ND, y_N), shrinkage=shrinkage, scaler=scaler).model
    z_ND = x_ND.astype(np.float64)
    assert (z_ND.std(axis=0) == 0).any()  # constant features have their share of the shrinkage there as here
    scaled = StandardScaler().fit(z_ND) if scaler == "standard" else None
    want = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(
        scaled.transform(z_ND) if scaled else z_ND, y_N
    )
    fresh = digits[0][450:].astype(np.float64)
    probabilities = want.predict_proba(scaled.transform(fresh) if scaled else fresh)
    np.testing.assert_allclose(model.scores(digits[0][450:]), probabilities, atol=2e-3)


def test_uniform_priors_move_only_the_intercepts(make_task, blobs):
    x_ND, y_N = blobs(300, 5, 3, spread=2.0)
    keep = (y_N != 0) | (np.arange(300) % 5 == 0)
    task = make_task(x_ND[keep], y_N[keep])
    counts = np.bincount(y_N[keep])
    plain, uniform = (_refit(task, shrinkage=0.1, priors=name).model for name in ("empirical", "uniform"))
    np.testing.assert_allclose(plain.weight_KD, uniform.weight_KD, atol=1e-6)
    shift = plain.bias_K - uniform.bias_K
    np.testing.assert_allclose(shift - shift[0], np.log(counts / counts[0]), atol=1e-5)


@pytest.mark.parametrize("n", [500, 60])
def test_auto_is_ledoit_and_wolf_within_classes(make_task, digits, n):
    x_ND, y_N = digits[0][:n], digits[1][:n]
    task = make_task(x_ND, y_N)
    z_ND = x_ND.astype(np.float64)
    for label in range(10):
        z_ND[y_N == label] -= z_ND[y_N == label].mean(axis=0)
    _, want = sklearn_ledoit_wolf(z_ND, assume_centered=True)
    shared = lda.discriminate(task, task.train, standard=False)
    assert lda.ledoit_wolf(task.train, shared) == pytest.approx(want, rel=1e-8)
    assert _refit(task, scaler="none").details["shrinkage_used"] == pytest.approx(want, rel=1e-8)


def test_attempts_are_strongest_first_and_share_one_decomposition(make_task, digits):
    task = make_task(*digits, n_val=200)
    tried = list(lda.attempts(task, Params("lda", {}), task.train, task.val))
    assert [attempt.settings["shrinkage"] for attempt in tried] == list(lda.GRID)
    for attempt in (tried[2], tried[-1]):
        np.testing.assert_allclose(attempt.scores, attempt.model.scores(digits[0][400:]), atol=1e-6)
    accuracy = [(attempt.scores.argmax(axis=1) == digits[1][400:]).mean() for attempt in tried]
    assert max(accuracy) > 0.9
    alone = lda.refit(task, Params("lda", {}), task.train, {"shrinkage": 0.5}, (), 400)
    np.testing.assert_allclose(alone.model.scores(digits[0][400:]), tried[3].model.scores(digits[0][400:]), atol=5e-2)


def test_absent_classes_stay_absent(make_task, blobs):
    x_ND, y_N = blobs(90, 6, 3)
    labels = np.where(y_N == 2, 4, y_N)
    scores = _refit(make_task(x_ND, labels, n_classes=6)).model.scores(x_ND)
    assert scores[:, [2, 3, 5]].max() < 1e-12
    assert (scores.argmax(axis=1) == labels).mean() > 0.8


def test_refusals(make_task):
    task = make_task(np.repeat(np.eye(2, dtype=np.float32), 3, axis=0), np.repeat([0, 1], 3))
    with pytest.raises(HeadError, match="pictures of a class hardly differ"):
        _refit(task, shrinkage=0.5)
    with pytest.raises(UsageError, match="at most 1, got 1.5"):
        _refit(task, shrinkage=1.5)
    with pytest.raises(UsageError, match="shrinkage of head lda"):
        _refit(task, shrinkage="strong")
    with pytest.raises(HeadError, match="2 values of shrinkage"):
        _refit(task, shrinkage=[0.1, 0.5])
