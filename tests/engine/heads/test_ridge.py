"""Ridge heads against scikit-learn's Ridge and RidgeCV, in both shapes of the problem."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifierCV, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tle.enums import Target
from tle.errors import UsageError
from tle.heads import ridge
from tle.heads.params import Params
from tle.heads.ridge_path import decompose


def _refit(task, samples=None, settings=None, carried=(), n_tried_on=None, **params):
    params = Params("ridge", params)
    samples = task.both if samples is None else samples
    settings = ridge.default_settings(params) if settings is None else settings
    return ridge.refit(task, params, samples, settings, carried, n_tried_on or len(samples))


def _attempts(task, **params):
    return list(ridge.attempts(task, Params("ridge", params), task.train, task.val))


def _regression(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    x_ND = (rng.normal(size=(n, dim)) * 3 + 7).astype(np.float32)
    return x_ND, (x_ND @ rng.normal(size=dim) + rng.normal(size=n) + 100).astype(np.float32)


def _alone(x_ND, targets_NK, alpha, *, scaled):
    """Mean squared error of every sample predicted by a fit without it: n fits, on features scaled by all samples."""
    z_ND = StandardScaler().fit_transform(x_ND.astype(np.float64)) if scaled else x_ND.astype(np.float64)
    errors = []
    for left in range(len(z_ND)):
        rest = np.arange(len(z_ND)) != left
        model = Ridge(alpha=alpha, solver="svd").fit(z_ND[rest], targets_NK[rest])
        errors.append(targets_NK[left] - model.predict(z_ND[left : left + 1])[0])
    return np.mean(np.square(errors))


@pytest.mark.parametrize(("n", "dim"), [(200, 12), (40, 120), (50, 50)])
@pytest.mark.parametrize("alpha", [0.1, 50.0])
def test_regression_equals_scikit_learn(make_task, n, dim, alpha):
    x_ND, y_N = _regression(n, dim)
    fitted = _refit(make_task(x_ND, y_N, target=Target.REGRESSION), alpha=alpha)
    want = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x_ND.astype(np.float64), y_N)
    np.testing.assert_allclose(fitted.model.scores(x_ND)[:, 0], want.predict(x_ND), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scaler", ["standard", "none"])
@pytest.mark.parametrize(("n", "dim"), [(30, 6), (12, 40), (20, 20), (21, 20)])
def test_leave_one_out_is_what_leaving_one_out_gives(make_task, n, dim, scaler):
    x_ND, y_N = _regression(n, dim, seed=n)
    targets = np.stack([y_N > 100, y_N > 95], axis=1).astype(np.uint8)
    task = make_task(x_ND, targets, target=Target.MULTILABEL)
    alphas = (30.0, 1.0, 0.01)
    found = decompose(task, task.train, standard=scaler == "standard").leave_one_out(alphas)
    for alpha, error in zip(alphas, found.mse_A, strict=True):
        assert error == pytest.approx(_alone(x_ND, targets.astype(float), alpha, scaled=scaler == "standard"), rel=1e-7)


@pytest.mark.parametrize(("n", "dim"), [(300, 64), (64, 64), (50, 64)])
def test_alpha_is_that_of_ridge_classifier_cv_with_the_same_curve(make_task, digits, n, dim):
    x_ND, y_N = digits[0][:n], digits[1][:n]
    alphas = np.logspace(-2, 5, 30)
    fitted = _refit(make_task(x_ND, y_N), alpha=alphas.tolist(), scaler="none")
    want = RidgeClassifierCV(alphas=alphas).fit(x_ND.astype(np.float64), y_N)
    assert fitted.details["alpha"] == want.alpha_
    curve = {point["alpha"]: point["mse"] for point in fitted.details["loo"]}
    one_hot = RidgeCV(alphas=alphas, store_cv_results=True).fit(x_ND.astype(np.float64), np.eye(10)[y_N])
    np.testing.assert_allclose([curve[alpha] for alpha in alphas], one_hot.cv_results_.mean(axis=(0, 1)), rtol=1e-6)
    np.testing.assert_array_equal(fitted.model.scores(x_ND).argmax(axis=1), want.predict(x_ND))


def test_blocks_and_float16_do_not_change_the_result(make_task, monkeypatch):
    x_ND, y_N = _regression(101, 9)
    x_ND = x_ND.astype(np.float16)
    whole = _refit(make_task(x_ND.astype(np.float32), y_N, target=Target.REGRESSION), select="loo")
    monkeypatch.setattr("tle.heads.samples._BLOCK_VALUES", 100)
    monkeypatch.setattr("tle.heads.leave_one_out._BLOCK_VALUES", 20)
    blocked = _refit(make_task(x_ND, y_N, target=Target.REGRESSION), select="loo")
    np.testing.assert_allclose(blocked.model.weight_KD, whole.model.weight_KD, rtol=1e-6)
    assert blocked.details["alpha"] == whole.details["alpha"]
    for found, want in zip(blocked.details["loo"], whole.details["loo"], strict=True):
        assert found == pytest.approx(want, rel=1e-9)


def test_attempts_are_ridge_fits_on_train_the_largest_alpha_first(make_task):
    x_ND, y_N = _regression(90, 60, seed=3)
    tried = _attempts(make_task(x_ND, y_N, n_val=30, target=Target.REGRESSION), alpha=[0.01, 10, 1000])
    assert [attempt.settings["alpha"] for attempt in tried] == [1000, 10, 0.01]
    for attempt in tried:
        want = make_pipeline(StandardScaler(), Ridge(alpha=attempt.settings["alpha"])).fit(x_ND[:60], y_N[:60])
        np.testing.assert_allclose(attempt.scores[:, 0], want.predict(x_ND[60:]), rtol=1e-3)
        np.testing.assert_allclose(attempt.scores, attempt.model.scores(x_ND[60:]), rtol=1e-4)


def test_the_refit_keeps_the_strength_for_each_sample(make_task):
    x_ND, y_N = _regression(90, 6)
    task = make_task(x_ND, y_N, n_val=30, target=Target.REGRESSION)
    fitted = _refit(task, settings={"alpha": 10.0}, n_tried_on=60)
    assert fitted.details["alpha_refit"] == pytest.approx(15.0)


def test_selecting_by_leave_one_out_with_val_pictures(make_task, digits):
    x_ND, y_N = digits
    task = make_task(x_ND, y_N, n_val=200)
    (attempt,) = _attempts(task, select="loo")
    assert attempt.settings == {"select": "loo"}
    alone = _refit(task, samples=task.train, select="loo")
    assert attempt.details["alpha"] == alone.details["alpha"]
    fitted = _refit(task, settings=attempt.settings, carried=[attempt.carry], n_tried_on=400, select="loo")
    assert len(fitted.details["loo"]) == len(ridge.GRID)
    assert fitted.details["temperature"] == pytest.approx(attempt.carry["temperature"])


def test_classes_are_ordered_as_by_one_hot_regression_and_are_probabilities(make_task, digits):
    x_ND, y_N = digits
    tried = _attempts(make_task(x_ND, y_N, n_val=200), alpha=100)[0]
    scores = tried.model.scores(x_ND)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(tried.scores, scores[400:], atol=1e-5)
    want = make_pipeline(StandardScaler(), Ridge(alpha=100)).fit(x_ND[:400].astype(np.float64), np.eye(10)[y_N[:400]])
    np.testing.assert_array_equal(scores.argmax(axis=1), want.predict(x_ND).argmax(axis=1))


def test_the_temperature_makes_validation_probabilities_honest(make_task, digits):
    x_ND, y_N = digits
    tried = _attempts(make_task(x_ND, y_N, n_val=300), alpha=100)[0]
    accuracy = (tried.scores.argmax(axis=1) == y_N[300:]).mean()
    assert 0 < tried.carry["temperature"] < 1  # one-hot scores lie in [0, 1]: T = 1 would be far too unsure
    assert tried.scores.max(axis=1).mean() == pytest.approx(accuracy, abs=0.05)


def test_without_val_the_temperature_is_honest_too_and_how_is_said(make_task, digits):
    x_ND, y_N = digits
    fitted = _refit(make_task(x_ND[:300], y_N[:300]), alpha=1)
    assert any("leave-one-out scores" in note for note in fitted.notes)
    fresh = fitted.model.scores(x_ND[300:])
    accuracy = (fresh.argmax(axis=1) == y_N[300:]).mean()
    assert fresh.max(axis=1).mean() == pytest.approx(accuracy, abs=0.05)


def test_absent_classes_and_constant_features(make_task, blobs):
    x_ND, y_N = blobs(90, 6, 3)
    x_ND[:, 3] = 5.5
    labels = np.where(y_N == 2, 4, y_N)
    task = make_task(x_ND, labels, n_val=30, n_classes=6)
    tried = _attempts(task)[-1]
    for scores in (tried.scores, tried.model.scores(x_ND), _refit(task).model.scores(x_ND)):
        assert scores[:, [2, 3, 5]].max() < 1e-12
    assert (tried.model.scores(x_ND).argmax(axis=1) == labels).mean() > 0.8
    assert np.abs(tried.model.weight_KD[:, 3]).max() < 1e-10


def test_multilabel(make_task, blobs):
    x_ND, y_N = blobs(300, 8, 3, spread=0.7)
    labels_NC = np.stack([y_N == 0, y_N >= 1, np.zeros(300)], axis=1).astype(np.uint8)
    task = make_task(x_ND, labels_NC, n_val=100, target=Target.MULTILABEL)
    for model in (_attempts(task, alpha=1)[0].model, _refit(task).model):
        scores = model.scores(x_ND)
        assert ((scores[:, :2] > 0.5) == labels_NC[:, :2]).mean() > 0.9
        assert scores[:, 2].max() < 0.5


def test_two_samples_and_one_feature(make_task):
    task = make_task(np.array([[1.0], [2.0]], np.float32), np.array([0, 1]))
    assert np.isfinite(_refit(task).model.scores(np.array([[1.5]], np.float32))).all()


def test_settings_are_checked(make_task, blobs):
    task = make_task(*blobs(30, 4, 3), n_val=10)
    with pytest.raises(UsageError, match="select of head ridge is val or loo"):
        _attempts(task, select="test")
    with pytest.raises(UsageError, match="scaler of head ridge is standard or none"):
        _attempts(task, scaler="l2")
