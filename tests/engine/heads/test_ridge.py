"""Ridge heads against scikit-learn's Ridge, in both shapes of the problem."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tle.enums import Target
from tle.heads import ridge
from tle.heads.params import Params


def _fit(task, **settings):
    return ridge.fit(task, Params("ridge", settings))


def _regression(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    x_ND = (rng.normal(size=(n, dim)) * 3 + 7).astype(np.float32)
    return x_ND, (x_ND @ rng.normal(size=dim) + rng.normal(size=n) + 100).astype(np.float32)


@pytest.mark.parametrize(("n", "dim"), [(200, 12), (40, 120), (50, 50)])
@pytest.mark.parametrize("alpha", [0.1, 50.0])
def test_regression_equals_scikit_learn(make_task, n, dim, alpha):
    x_ND, y_N = _regression(n, dim)
    fitted = _fit(make_task(x_ND, y_N, target=Target.REGRESSION), alpha=alpha)
    want = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x_ND.astype(np.float64), y_N)
    np.testing.assert_allclose(fitted.model.scores(x_ND)[:, 0], want.predict(x_ND), rtol=1e-4, atol=1e-3)


def test_blocks_do_not_change_the_result(make_task, monkeypatch):
    x_ND, y_N = _regression(101, 9)
    whole = _fit(make_task(x_ND, y_N, target=Target.REGRESSION), alpha=1).model
    monkeypatch.setattr("tle.heads.samples._BLOCK_VALUES", 100)
    blocked = _fit(make_task(x_ND, y_N, target=Target.REGRESSION), alpha=1).model
    np.testing.assert_allclose(blocked.weight_KD, whole.weight_KD, rtol=1e-6)


def test_alpha_is_chosen_on_val_and_scaled_for_the_refit(make_task):
    x_ND, y_N = _regression(90, 60, seed=3)
    fitted = _fit(make_task(x_ND, y_N, n_val=30, target=Target.REGRESSION), alpha=[0.01, 10, 1000])
    errors = {
        alpha: np.mean(
            (make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x_ND[:60], y_N[:60]).predict(x_ND[60:]) - y_N[60:])
            ** 2
        )
        for alpha in (0.01, 10, 1000)
    }
    assert fitted.chosen["alpha"] == min(errors, key=errors.get)
    assert fitted.chosen["alpha_refit"] == pytest.approx(fitted.chosen["alpha"] * 90 / 60)
    for trial in fitted.trials:
        assert trial["mse"] == pytest.approx(errors[trial["alpha"]], rel=1e-3)


def test_classes_are_ordered_as_by_one_hot_regression_and_are_probabilities(make_task, digits):
    x_ND, y_N = digits
    fitted = _fit(make_task(x_ND, y_N, n_val=200), alpha=[10, 100])
    scores = fitted.model.scores(x_ND)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-5)
    alpha = fitted.chosen["alpha_refit"]
    want = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x_ND.astype(np.float64), np.eye(10)[y_N])
    np.testing.assert_array_equal(scores.argmax(axis=1), want.predict(x_ND).argmax(axis=1))


def test_the_temperature_makes_validation_probabilities_honest(make_task, digits):
    x_ND, y_N = digits
    fitted = _fit(make_task(x_ND, y_N, n_val=300), alpha=100)
    confidence = fitted.val_scores.max(axis=1).mean()
    accuracy = (fitted.val_scores.argmax(axis=1) == y_N[300:]).mean()
    assert 0 < fitted.chosen["temperature"] < 1  # one-hot scores lie in [0, 1]: T = 1 would be far too unsure
    assert confidence == pytest.approx(accuracy, abs=0.05)


def test_without_val_the_temperature_is_from_train_and_that_is_said(make_task, blobs):
    fitted = _fit(make_task(*blobs(60, 5, 3)))
    assert fitted.chosen["alpha"] == ridge.DEFAULT_ALPHA
    assert any("temperature was fitted on train itself" in note for note in fitted.notes)


def test_absent_classes_and_constant_features(make_task, blobs):
    x_ND, y_N = blobs(90, 6, 3)
    x_ND[:, 3] = 5.5
    fitted = _fit(make_task(x_ND, np.where(y_N == 2, 4, y_N), n_val=30, n_classes=6))
    scores = fitted.model.scores(x_ND)
    assert scores[:, [2, 3, 5]].max() < 1e-12
    assert (scores.argmax(axis=1) == np.where(y_N == 2, 4, y_N)).mean() > 0.8
    assert np.abs(fitted.model.weight_KD[:, 3]).max() < 1e-12


def test_multilabel(make_task, blobs):
    x_ND, y_N = blobs(300, 8, 3, spread=0.7)
    labels_NC = np.stack([y_N == 0, y_N >= 1, np.zeros(300)], axis=1).astype(np.uint8)
    fitted = _fit(make_task(x_ND, labels_NC, n_val=100, target=Target.MULTILABEL), alpha=1)
    scores = fitted.model.scores(x_ND)
    assert ((scores[:, :2] > 0.5) == labels_NC[:, :2]).mean() > 0.9
    assert scores[:, 2].max() < 0.5
