"""A temperature found again, measured on pictures that did not choose it, and what applying it does."""

import numpy as np
import pytest

from tle.enums import Target
from tle.heads.affine import ABSENT_LOGIT, Affine, Link
from tle.heads.calibration import apply_temperature, calibrate, own_temperature
from tle.heads.estimator import log_probability
from tle.heads.fit import fit_head


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _layer(dim, outputs, link):
    rng = np.random.default_rng(2)
    return Affine(rng.normal(size=(outputs, dim)).astype(np.float32), np.zeros(outputs, np.float32), link)


@pytest.mark.parametrize("t", [0.3, 4.0])
def test_scores_that_are_too_sure_by_t_are_mended(make_task, t):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 2
    labels = np.array([rng.choice(5, p=p) for p in _softmax(logits)])
    task = make_task(np.zeros((4000, 2), np.float32), labels)
    scores = _softmax(logits * t).astype(np.float32)
    model = _layer(2, 5, Link.SOFTMAX)
    found = calibrate(task, scores, labels, np.arange(5), source="val", model=model)
    assert found.temperature == pytest.approx(t, rel=0.08)
    assert found.nll_after < found.nll_before - 0.05
    assert found.ece_after < 0.03 < found.ece_before
    mended = _softmax(np.log(scores) / found.temperature)
    assert found.nll_after == pytest.approx(-np.log(mended[np.arange(4000), labels]).mean(), abs=2e-3)


def test_multilabel(make_task):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 3))
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    task = make_task(np.zeros((3000, 2), np.float32), labels, target=Target.MULTILABEL)
    scores = (1 / (1 + np.exp(-5 * logits))).astype(np.float32)
    found = calibrate(task, scores, labels, np.arange(3), source="folds", model=_layer(2, 3, Link.SIGMOID))
    assert found.temperature == pytest.approx(5, rel=0.1)
    assert found.ece_after < 0.03 < found.ece_before


def test_noise_is_not_called_an_improvement(make_task):
    """What T of 12 pictures does on the very same 12 is always good; by halves it is not."""
    gains = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(12, 3))
        labels = np.array([rng.choice(3, p=p) for p in _softmax(logits)])
        task = make_task(np.zeros((12, 2), np.float32), labels, n_classes=3, seed=seed)
        model = _layer(2, 3, Link.SOFTMAX)
        found = calibrate(task, _softmax(logits).astype(np.float32), labels, np.arange(3), source="val", model=model)
        gains.append(found.nll_before - found.nll_after)
    assert np.mean(gains) < 0


def test_where_there_is_nothing_to_calibrate(make_task):
    x = np.zeros((8, 2), np.float32)
    regression = make_task(x, np.arange(8.0), target=Target.REGRESSION)
    model = _layer(2, 2, Link.SOFTMAX)
    assert calibrate(regression, x[:, :1], np.arange(8.0), np.arange(1), source="val", model=model) is None
    labels = np.array([0, 1, 0])
    assert calibrate(make_task(x[:3], labels), x[:3], labels, np.arange(2), source="val", model=model) is None


def test_zeros_of_votes_stay_finite(make_task):
    labels = np.arange(40) % 2
    scores = np.eye(2, dtype=np.float32)[np.where(np.arange(40) < 30, labels, 1 - labels)]
    found = calibrate(make_task(scores, labels), scores, labels, np.arange(2), source="val", model=object())
    assert found.temperature > 5
    assert found.nll_after < found.nll_before
    assert np.isfinite(log_probability(scores, Target.CLASS)).all()
    assert np.isfinite(log_probability(scores, Target.MULTILABEL)).all()


def test_a_layer_takes_the_temperature_and_absent_classes_stay_absent():
    layer = _layer(4, 3, Link.SOFTMAX)
    layer.weight_KD[1], layer.bias_K[1] = 0.0, ABSENT_LOGIT
    task_found = own_temperature([2.0, 8.0], 10)
    assert task_found.temperature == pytest.approx(4.0)
    mended, found, notes = apply_temperature(layer, task_found, "logistic")
    np.testing.assert_allclose(mended.weight_KD, layer.weight_KD / 4, rtol=1e-6)
    assert mended.bias_K[1] == ABSENT_LOGIT
    assert found.applied
    assert notes == ()


def test_a_layer_on_rows_of_unit_length_stays_one(make_cache, blobs):
    cache = make_cache(*blobs(90, 6, 3, spread=2.0))
    plain, tempered = (
        fit_head(cache, params={"C": 0.1, "scale": "l2"}, calibrate=calibrated).head for calibrated in (False, True)
    )
    assert tempered.fit["calibration"]["applied"]
    x_ND = np.asarray(cache.features)
    logits = np.log(plain.predict(x_ND).astype(np.float64)) / tempered.fit["calibration"]["temperature"]
    np.testing.assert_allclose(tempered.predict(x_ND), _softmax(logits), atol=1e-5)
