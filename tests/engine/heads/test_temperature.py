"""The fitted temperature is the minimum, and stays sane where there is no error to learn from."""

import numpy as np
import pytest

from tle.enums import Target
from tle.heads.temperature import fit_temperature


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("true_t", [0.01, 1.0, 30.0])
def test_recovers_the_temperature_that_made_the_labels(true_t):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    labels = np.array([rng.choice(5, p=p) for p in _softmax(logits[:4000])])
    found = fit_temperature(logits[:4000] * true_t, labels, Target.CLASS, np.arange(5))
    assert found == pytest.approx(true_t, rel=0.06)


def test_recovers_a_sigmoid_temperature():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3000, 3)) * 2
    labels = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    assert fit_temperature(logits * 0.2, labels, Target.MULTILABEL, np.arange(3)) == pytest.approx(0.2, rel=0.06)


def test_a_perfect_validation_set_does_not_give_certainty():
    labels = np.arange(20) % 2
    scores = np.eye(2)[labels]
    t = fit_temperature(scores, labels, Target.CLASS, np.arange(2))
    sure = _softmax(scores / t).max()
    # Smoothing by a = 1 / (n + 2) spreads a over both classes: the optimum gives the true one 1 - a / 2.
    assert sure == pytest.approx(1 - 1 / 44, abs=1e-4)


def test_pictures_of_classes_that_have_no_column_are_passed_over():
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(300, 2)), rng.integers(0, 2, 300) * 2
    columns = np.array([0, 2])
    with_stranger = fit_temperature(
        np.concatenate([scores, [[5.0, -5.0]]]), np.append(labels, 1), Target.CLASS, columns
    )
    assert with_stranger == fit_temperature(scores, labels, Target.CLASS, columns)
    assert fit_temperature(scores[:1], np.array([1]), Target.CLASS, columns) == 1.0
