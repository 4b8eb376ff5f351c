"""Figures of merit from scores and labels, with bootstrap intervals.

# N pictures, C classes, B rows of a block, R resamples

Class targets. top1 and top5: the true class is the most probable, or among the five most probable (equal
probabilities: the lower class index first). Balanced accuracy: mean recall over the classes that have a picture. Macro
F1: mean over the classes that have a picture or a prediction. NLL: mean -log p of the true class, with p no smaller
than `NLL_FLOOR`. ECE: expected calibration error of the top probability over 15 bins of equal width (Guo et al. 2017,
equation 3). Confusion matrix: rows true, columns predicted.

Multi-label. mAP: mean over labels with a positive of the average precision as scikit-learn defines it (no
interpolation). Micro F1 at a threshold of 0.5. NLL: mean binary cross-entropy, floored likewise.

Regression. R2 and MAE.

Intervals are 95 % percentile bootstraps over pictures. A resample of N pictures out of N changes an accuracy only
through how often each kind of picture (its true class, right or wrong) was drawn, and these counts are multinomial: so
they are drawn instead, with the same distribution and without an index array.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import ShapeError

# Probabilities are float32, in which 1 - p is no smaller than this unless it is 0; scikit-learn's log_loss clips there.
NLL_FLOOR = float(np.finfo(np.float32).eps)
ECE_BINS = 15
RESAMPLES = 1000
LEVEL = 0.95
TOP_K = 5
# Beyond this a confusion matrix is no longer something to print or to keep as JSON (2,000 classes: 4 M entries).
MAX_CONFUSION_CLASSES = 2000
_BLOCK_VALUES = 2**22


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures by name, JSON-able; `NAME_interval` is [low, high] of `NAME`. A figure that is not defined is None.

    Attributes:
        values: the figures; `confusion`, where there is one, is a list of C rows.
        notes: one-line facts that belong to the figures: what is undefined and why, what was clipped.
    """

    values: dict[str, Any]
    notes: tuple[str, ...]


def measure(scores: NDArray[np.float32], labels: NDArray[Any], target: Target, *, seed: int = 0) -> Metrics:
    """All figures for a target.

    Args:
        scores: (N, C) probabilities, or (N,) values for regression; finite.
        labels: (N,) class indices from 0 to C - 1, (N, C) 0/1 indicators, or (N,) values.
        target: CLASS, MULTILABEL or REGRESSION.
        seed: seed of the bootstrap.

    Returns:
        The figures.

    Raises:
        ShapeError: shapes that do not belong together, no picture at all, or a score or label out of range.
    """
    expected = labels.shape if target is not Target.CLASS else (*labels.shape, scores.shape[-1])
    if not len(labels) or scores.shape != expected:
        raise ShapeError(f"expected scores {expected} for labels {labels.shape}, at least one, got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ShapeError("expected finite scores, got NaN or infinity")
    rng = np.random.default_rng(seed)
    if target is Target.CLASS:
        if labels.min() < 0 or labels.max() >= scores.shape[1]:
            raise ShapeError(f"expected labels from 0 to {scores.shape[1] - 1}, got {labels.min()} to {labels.max()}")
        return _measure_classes(scores, labels, rng)
    if target is Target.MULTILABEL:
        return _measure_multilabel(scores, labels)
    return _measure_regression(scores.astype(np.float64), labels.astype(np.float64), rng)


def mean_nll(scores_NC: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Mean -log p of the true class, or mean binary cross-entropy of indicators; p no smaller than `NLL_FLOOR`."""
    # A probability may pass 1 by a rounding error. Subtracted from 0, not negated: -0.0 is nothing to print.
    p = np.clip(_true_probability(scores_NC, labels), NLL_FLOOR, 1.0)
    return 0.0 - float(np.log(p).mean())


def mean_average_precision(scores_NC: NDArray[np.float32], labels_NC: NDArray[Any]) -> float | None:
    """Mean over labels with at least one positive of the average precision; None where no label has one."""
    from sklearn.metrics import average_precision_score

    columns = np.flatnonzero(labels_NC.any(axis=0))
    if not len(columns):
        return None
    return float(np.mean([average_precision_score(labels_NC[:, column], scores_NC[:, column]) for column in columns]))


def confusion_matrix(predicted_N: NDArray[np.int64], labels_N: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Int64 (C, C) counts; rows true, columns predicted."""
    pairs = labels_N.astype(np.int64) * n_classes + predicted_N
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def rank_of_truth(scores_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) how many classes come before the true one: those of higher score, and those of equal score and lower index."""
    ranks = np.empty(len(labels_N), np.int64)
    step = max(1, _BLOCK_VALUES // scores_NC.shape[1])
    index_C = np.arange(scores_NC.shape[1])
    for start in range(0, len(labels_N), step):
        rows = slice(start, start + step)
        label_B1 = labels_N[rows, None]
        truth_B1 = np.take_along_axis(scores_NC[rows], label_B1, axis=1)
        before = (scores_NC[rows] > truth_B1) | ((scores_NC[rows] == truth_B1) & (index_C < label_B1))
        ranks[rows] = before.sum(axis=1)
    return ranks


def calibration_error(scores_NC: NDArray[np.float32], correct_N: NDArray[np.bool_], bins: int = ECE_BINS) -> float:
    """Expected calibration error: sum over bins (low, high] of the top probability of n_b / N |accuracy - confidence|."""
    confidence = scores_NC.max(axis=1).astype(np.float64)
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, correct_N - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def _measure_classes(scores_NC: NDArray[np.float32], labels_N: NDArray[np.int64], rng: np.random.Generator) -> Metrics:
    n, n_classes = scores_NC.shape
    ranks = rank_of_truth(scores_NC, labels_N)
    correct = ranks == 0
    predicted = scores_NC.argmax(axis=1)
    true_C = np.bincount(labels_N, minlength=n_classes)
    hit_C = np.bincount(labels_N[correct], minlength=n_classes)
    predicted_C = np.bincount(predicted, minlength=n_classes)
    present, seen = true_C > 0, true_C + predicted_C > 0
    values: dict[str, Any] = {"n": n, "top1": float(correct.mean())}
    drawn_R, balanced_R = _resample_classes(true_C[present], hit_C[present], rng)
    values["top1_interval"] = _interval(drawn_R)
    notes = _exact_bound("top1", int(correct.sum()), n)
    if n_classes > TOP_K:
        hits = int((ranks < TOP_K).sum())
        values["top5"] = hits / n
        values["top5_interval"] = _interval(rng.binomial(n, hits / n, RESAMPLES) / n)
        notes += _exact_bound("top5", hits, n)
    values["balanced_accuracy"] = float((hit_C[present] / true_C[present]).mean())
    values["balanced_accuracy_interval"] = _interval(balanced_R)
    # F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (true + predicted)
    values["macro_f1"] = float((2 * hit_C[seen] / (true_C + predicted_C)[seen]).mean())
    values["nll"] = mean_nll(scores_NC, labels_N)
    notes += _clipped(_true_probability(scores_NC, labels_N))
    values["ece"] = calibration_error(scores_NC, correct)
    if absent := int((~present).sum()):
        notes.append(f"{absent} of {n_classes} classes have no picture here and do not enter balanced_accuracy")
    if n_classes <= MAX_CONFUSION_CLASSES:
        values["confusion"] = confusion_matrix(predicted, labels_N, n_classes).tolist()
    else:
        values["confusion"] = None
        notes.append(f"no confusion matrix: {n_classes} classes, {MAX_CONFUSION_CLASSES} at most")
    return Metrics(values, tuple(notes))


def _measure_multilabel(scores_NC: NDArray[np.float32], labels_NC: NDArray[Any]) -> Metrics:
    truth, predicted = labels_NC.astype(bool), scores_NC >= 0.5
    notes = []
    positives = int(truth.any(axis=0).sum())
    if positives < truth.shape[1]:
        notes.append(
            f"{truth.shape[1] - positives} of {truth.shape[1]} labels have no positive here, they are not in mAP"
        )
    total = int(truth.sum() + predicted.sum())
    if not total:
        notes.append("micro_f1 is undefined: no label is true and none is predicted")
    values = {
        "n": len(truth),
        "mAP": mean_average_precision(scores_NC, labels_NC),
        "micro_f1": 2 * int((truth & predicted).sum()) / total if total else None,
        "nll": mean_nll(scores_NC, labels_NC),
    }
    return Metrics(values, tuple(notes + _clipped(_true_probability(scores_NC, labels_NC))))


def _measure_regression(
    predicted_N: NDArray[np.float64], labels_N: NDArray[np.float64], rng: np.random.Generator
) -> Metrics:
    n = len(labels_N)
    # Centred first: R2 = 1 - sum e^2 / (sum y^2 - (sum y)^2 / n) then loses nothing to a large mean.
    y, error = labels_N - labels_N.mean(), labels_N - predicted_N
    stats_N4 = np.stack([error**2, np.abs(error), y, y**2], axis=1)
    values: dict[str, Any] = {"n": n, "r2": None, "r2_interval": None}
    notes = []
    if n < 2 or labels_N.min() == labels_N.max():
        notes.append(f"r2 is undefined: {'a single picture' if n < 2 else 'all labels are equal'}")
        return Metrics({**values, "mae": float(stats_N4[:, 1].mean()), "mae_interval": None}, tuple(notes))
    values["r2"] = float(1 - stats_N4[:, 0].sum() / stats_N4[:, 3].sum())
    sums_R4 = _resample_sums(stats_N4, rng)
    spread_R = sums_R4[:, 3] - sums_R4[:, 2] ** 2 / n
    # A resample that drew one label value only has no R2; the bound is far below any real spread.
    defined_R = spread_R > 1e-12 * stats_N4[:, 3].sum()
    values["r2_interval"] = _interval(1 - sums_R4[defined_R, 0] / spread_R[defined_R])
    if lost := int((~defined_R).sum()):
        notes.append(f"r2_interval leaves out {lost} of {RESAMPLES} resamples in which all labels were equal")
    values |= {"mae": float(stats_N4[:, 1].mean()), "mae_interval": _interval(sums_R4[:, 1] / n)}
    return Metrics(values, tuple(notes))


def _true_probability(scores_NC: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float64]:
    """The probability given to what is true: (N,), or (N, C) for indicators."""
    found: NDArray[np.float64]
    if labels.ndim == 1:
        found = scores_NC[np.arange(len(labels)), labels].astype(np.float64)
        return found
    scores = scores_NC.astype(np.float64)
    found = np.where(labels.astype(bool), scores, 1.0 - scores)
    return found


def _clipped(true_probability: NDArray[np.float64]) -> list[str]:
    count = int((true_probability < NLL_FLOOR).sum())
    return (
        [f"nll counts {count} of {true_probability.size} probabilities of the truth as {NLL_FLOOR:.1e}"]
        if count
        else []
    )


def _resample_classes(
    true_P: NDArray[np.int64], hit_P: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy and balanced accuracy of R resamples, from pictures and hits of the P classes that are present."""
    n = int(true_P.sum())
    cells_2P = np.concatenate([hit_P, true_P - hit_P])
    filled = np.flatnonzero(cells_2P)
    accuracy, balanced = np.empty(RESAMPLES), np.empty(RESAMPLES)
    step = max(1, _BLOCK_VALUES // len(cells_2P))
    for start in range(0, RESAMPLES, step):
        stop = min(start + step, RESAMPLES)
        drawn = np.zeros((stop - start, len(cells_2P)), np.int64)
        drawn[:, filled] = rng.multinomial(n, cells_2P[filled] / n, size=stop - start)
        hits, misses = drawn[:, : len(true_P)], drawn[:, len(true_P) :]
        total = hits + misses
        accuracy[start:stop] = hits.sum(axis=1) / n
        recall = hits / np.maximum(total, 1)  # a class that was not drawn counts neither as hit nor as class
        balanced[start:stop] = recall.sum(axis=1) / (total > 0).sum(axis=1)
    return accuracy, balanced


def _resample_sums(stats_NS: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(R, S) sums of the rows of R resamples."""
    n, n_stats = stats_NS.shape
    sums = np.empty((RESAMPLES, n_stats))
    step = max(1, _BLOCK_VALUES // (n * n_stats))
    for start in range(0, RESAMPLES, step):
        stop = min(start + step, RESAMPLES)
        sums[start:stop] = stats_NS[rng.integers(0, n, (stop - start, n))].sum(axis=1)
    return sums


def _interval(resampled: NDArray[np.float64]) -> list[float]:
    tail = (1 - LEVEL) / 2
    return [float(value) for value in np.quantile(resampled, [tail, 1 - tail])]


def _exact_bound(name: str, hits: int, n: int) -> list[str]:
    """Where all or none are right a bootstrap has no width; then the exact (Clopper-Pearson) bound is said."""
    bound = ((1 - LEVEL) / 2) ** (1 / n)
    if hits == n:
        return [f"{name}: all {n} are right, so the bootstrap has no width; the exact interval is [{bound:.4f}, 1]"]
    if hits == 0:
        return [
            f"{name}: none of {n} is right, so the bootstrap has no width; the exact interval is [0, {1 - bound:.4f}]"
        ]
    return []
