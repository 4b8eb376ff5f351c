"""Figures against scikit-learn's and against plain computations; intervals against brute force."""

import json
import re
import warnings

import numpy as np
import pytest
import sklearn.metrics as sk

from tle.enums import Target
from tle.errors import ShapeError
from tle.metrics import (
    NLL_FLOOR,
    calibration_error,
    confusion_matrix,
    mean_average_precision,
    measure,
    rank_of_truth,
)


def _problem(n=400, n_classes=8, seed=0, sharpness=1.5):
    """Probabilities that are better than chance, float32 rows that sum to 1, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + sharpness * np.eye(n_classes)[labels]
    p = np.exp(logits)
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32), labels


def test_class_figures_equal_scikit_learn():
    p, y = _problem()
    values = measure(p, y, Target.CLASS).values
    predicted, exact = p.argmax(axis=1), p.astype(np.float64)
    assert values["n"] == 400
    assert values["top1"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert values["top5"] == pytest.approx(sk.top_k_accuracy_score(y, p, k=5))
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, predicted))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    assert values["nll"] == pytest.approx(sk.log_loss(y, exact / exact.sum(axis=1, keepdims=True)), abs=1e-6)
    assert values["confusion"] == sk.confusion_matrix(y, predicted).tolist()
    json.dumps(values, allow_nan=False)


def test_classes_without_pictures_do_not_count_as_wrong():
    p, y = _problem(n_classes=7)
    keep = np.isin(y, [0, 2, 5])
    found = measure(p[keep], y[keep], Target.CLASS)
    predicted = p[keep].argmax(axis=1)
    assert set(predicted) - {0, 2, 5}  # some predictions are of absent classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of those predictions
        assert found.values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y[keep], predicted))
        assert found.values["macro_f1"] == pytest.approx(sk.f1_score(y[keep], predicted, average="macro"))
    assert np.array(found.values["confusion"]).shape == (7, 7)
    assert "4 of 7 classes have no picture here and do not enter balanced_accuracy" in found.notes


def test_top5_only_where_there_are_more_than_five_classes():
    assert "top5" not in measure(*_problem(n_classes=5), Target.CLASS).values
    assert "top5" in measure(*_problem(n_classes=6), Target.CLASS).values


def test_ranks_with_ties_go_to_the_lower_index(monkeypatch):
    p = np.float32([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.4, 0.1], [0.0, 0.0, 0.0, 1.0]])
    monkeypatch.setattr("tle.metrics._BLOCK_VALUES", 4)
    assert rank_of_truth(p, np.array([2, 2, 1])).tolist() == [2, 1, 2]
    assert rank_of_truth(p, p.argmax(axis=1)).tolist() == [0, 0, 0]


def test_a_certain_mistake_is_floored_and_said():
    p = np.float32([[1.0, 0.0], [0.0, 1.0]])
    found = measure(p, np.array([1, 1]), Target.CLASS)
    assert found.values["nll"] == pytest.approx(-np.log(NLL_FLOOR) / 2)
    assert "nll counts 1 of 2 probabilities of the truth as 1.2e-07" in found.notes


def test_calibration_error_by_hand():
    p = np.float32([[0.9, 0.1], [0.95, 0.05], [0.3, 0.7], [0.6, 0.4]])
    right = np.array([True, False, True, False])
    # Bins of 1/15: 0.9 lies in (13/15, 14/15], 0.95 in (14/15, 1], 0.7 in (10/15, 11/15], 0.6 in (8/15, 9/15].
    assert calibration_error(p, right) == pytest.approx((0.1 + 0.95 + 0.3 + 0.6) / 4, abs=1e-6)
    both = np.float32([[0.8, 0.2], [0.8, 0.2]])
    assert calibration_error(both, np.array([True, False])) == pytest.approx(0.3, abs=1e-6)
    assert calibration_error(np.float32([[1.0, 0.0]]), np.array([True])) == 0.0


def test_confusion_matrix_has_true_rows():
    assert confusion_matrix(np.array([1, 1, 0]), np.array([0, 0, 0]), 2).tolist() == [[1, 2], [0, 0]]


def test_huge_confusion_matrices_are_left_out_and_that_is_said(monkeypatch):
    monkeypatch.setattr("tle.metrics.MAX_CONFUSION_CLASSES", 5)
    found = measure(*_problem(), Target.CLASS)
    assert found.values["confusion"] is None
    assert "no confusion matrix: 8 classes, 5 at most" in found.notes


def _brute_force(p, y, figure, resamples=4000):
    rng = np.random.default_rng(1)
    draws = rng.integers(0, len(y), (resamples, len(y)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.quantile([figure(p[draw], y[draw]) for draw in draws], [0.025, 0.975])


def test_intervals_equal_resampling_pictures_one_by_one():
    p, y = _problem(n=60, n_classes=6, sharpness=1.0)
    y[y == 5] = 4
    y[:2] = 5  # a rare class is often not drawn at all
    values = measure(p, y, Target.CLASS).values
    figures = {
        "top1": lambda p, y: (p.argmax(axis=1) == y).mean(),
        "top5": lambda p, y: (rank_of_truth(p, y) < 5).mean(),
        "balanced_accuracy": lambda p, y: np.mean([(p[y == c].argmax(axis=1) == c).mean() for c in np.unique(y)]),
    }
    for name, figure in figures.items():
        np.testing.assert_allclose(values[f"{name}_interval"], _brute_force(p, y, figure), atol=0.02)
        assert values[f"{name}_interval"][0] <= values[name] <= values[f"{name}_interval"][1]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        right = rng.random(150) < 0.8
        p = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9]).astype(np.float32)
        low, high = measure(p, np.zeros(150, np.int64), Target.CLASS, seed=trial).values["top1_interval"]
        covered += low <= 0.8 <= high
    assert 175 <= covered <= 199


def test_the_seed_decides_and_memory_is_bounded_by_blocks(monkeypatch):
    p, y = _problem()
    first = measure(p, y, Target.CLASS, seed=1).values
    assert first == measure(p, y, Target.CLASS, seed=1).values
    assert first["top1_interval"] != measure(p, y, Target.CLASS, seed=2).values["top1_interval"]
    monkeypatch.setattr("tle.metrics._BLOCK_VALUES", 300)
    blocked = measure(p, y, Target.CLASS, seed=1).values
    np.testing.assert_allclose(blocked["balanced_accuracy_interval"], first["balanced_accuracy_interval"], atol=0.02)


@pytest.mark.parametrize(
    ("right", "text"), [(True, "all 3 are right.*\\[0.2924, 1\\]"), (False, "none of 3.*\\[0, 0.7076\\]")]
)
def test_an_interval_without_width_comes_with_the_exact_bound(right, text):
    p = np.float32([[0.9, 0.1]] * 3)
    found = measure(p, np.full(3, 0 if right else 1), Target.CLASS)
    assert found.values["top1_interval"] == [float(right)] * 2
    assert any(re.search(text, note) for note in found.notes)


def test_multilabel_figures_equal_scikit_learn():
    rng = np.random.default_rng(0)
    y = (rng.random((300, 5)) < 0.3).astype(np.uint8)
    p = np.clip(0.5 * y + 0.6 * rng.random(y.shape), 0, 1).astype(np.float32)
    values = measure(p, y, Target.MULTILABEL).values
    assert values["mAP"] == pytest.approx(sk.average_precision_score(y, p, average="macro"))
    assert values["micro_f1"] == pytest.approx(sk.f1_score(y, p >= 0.5, average="micro"))
    mean_loss = np.mean(
        [sk.log_loss(y[:, c], p[:, c].astype(np.float64).clip(NLL_FLOOR, 1 - NLL_FLOOR)) for c in range(5)]
    )
    assert values["nll"] == pytest.approx(mean_loss, abs=1e-5)


def test_labels_without_positives_are_left_out_of_map_and_said():
    y = np.array([[1, 0], [0, 0], [1, 0]], np.uint8)
    p = np.float32([[0.9, 0.1], [0.2, 0.1], [0.8, 0.2]])
    found = measure(p, y, Target.MULTILABEL)
    assert found.values["mAP"] == 1.0
    assert "1 of 2 labels have no positive here, they are not in mAP" in found.notes
    nothing = measure(np.full((2, 2), 0.1, np.float32), np.zeros((2, 2), np.uint8), Target.MULTILABEL)
    assert nothing.values["mAP"] is None
    assert nothing.values["micro_f1"] is None
    assert "micro_f1 is undefined: no label is true and none is predicted" in nothing.notes
    assert mean_average_precision(p, np.zeros_like(y)) is None


def test_regression_figures_equal_scikit_learn_even_far_from_zero():
    rng = np.random.default_rng(0)
    y = (1e4 + rng.normal(size=200)).astype(np.float32)
    predicted = (y + 0.5 * rng.normal(size=200)).astype(np.float32)
    values = measure(predicted, y, Target.REGRESSION).values
    assert values["r2"] == pytest.approx(sk.r2_score(y.astype(np.float64), predicted), abs=1e-6)
    assert values["mae"] == pytest.approx(sk.mean_absolute_error(y, predicted), abs=1e-4)

    def r2(predicted, y):
        return sk.r2_score(y.astype(np.float64), predicted)

    np.testing.assert_allclose(values["r2_interval"], _brute_force(predicted, y, r2, 1000), atol=0.03)


@pytest.mark.parametrize(("labels", "why"), [([3.0], "a single picture"), ([2.0, 2.0, 2.0], "all labels are equal")])
def test_an_undefined_r2_is_none_and_said(labels, why):
    y = np.float32(labels)
    found = measure(y + 1, y, Target.REGRESSION)
    assert found.values["r2"] is None
    assert found.values["mae"] == 1.0
    assert found.notes == (f"r2 is undefined: {why}",)


def test_resamples_of_one_value_are_left_out_of_the_interval_and_said():
    found = measure(np.float32([1, 2.5]), np.float32([1, 2]), Target.REGRESSION)
    assert np.isfinite(found.values["r2_interval"]).all()
    assert "resamples in which all labels were equal" in found.notes[0]


@pytest.mark.parametrize(
    ("scores", "labels", "target"),
    [
        (np.zeros((0, 3), np.float32), np.zeros(0, np.int64), Target.CLASS),
        (np.zeros((2, 3), np.float32), np.zeros(3, np.int64), Target.CLASS),
        (np.zeros((2, 3), np.float32), np.array([0, 3]), Target.CLASS),
        (np.zeros((2, 3), np.float32), np.array([0, -1]), Target.CLASS),
        (np.full((2, 3), np.nan, np.float32), np.array([0, 1]), Target.CLASS),
        (np.zeros((2, 3), np.float32), np.zeros((2, 2), np.uint8), Target.MULTILABEL),
        (np.zeros((2, 1), np.float32), np.zeros(2, np.float32), Target.REGRESSION),
    ],
)
def test_what_does_not_belong_together_is_refused(scores, labels, target):
    with pytest.raises(ShapeError, match="expected"):
        measure(scores, labels, target)


@pytest.mark.parametrize("top", [1.0, np.nextafter(np.float32(1), np.float32(2))])
def test_certainty_gives_no_negative_zero(top):
    scores = np.array([[top, 0.0], [0.0, top]], np.float32)
    for labels, target in ((np.array([0, 1]), Target.CLASS), (np.eye(2, dtype=np.uint8), Target.MULTILABEL)):
        assert f"{measure(scores, labels, target).values['nll']:.4f}" == "0.0000"
