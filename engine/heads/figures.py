"""Figures that settings are chosen by, each with its standard error.

# n validation pictures, C classes, P classes that are present

    mean over pictures of v:    s.e. = std(v) / sqrt(n)                        accuracy, top5, nll, mse, mae
    mean over classes of p_c:   s.e. = sqrt(sum_c p_c (1 - p_c) / n_c) / P     balanced accuracy
    mean over folds of f:       s.e. = std(f) / sqrt(folds)                    every figure

with standard deviations of n - 1 degrees of freedom. Macro F1, mAP and R2 have no such formula on one set of pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import UsageError
from tle.names import near_names

# The first of each is what settings are chosen by unless the user says otherwise.
METRICS = {
    Target.CLASS: ("accuracy", "balanced_accuracy", "macro_f1", "top5", "nll"),
    Target.MULTILABEL: ("mAP", "nll"),
    Target.REGRESSION: ("mse", "mae", "r2"),
}
LOWER_IS_BETTER = frozenset({"nll", "mse", "mae"})
WITHOUT_ERROR = frozenset({"macro_f1", "mAP", "r2"})
_TOP_K = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value.

    Attributes:
        value: the value; None where it is not defined on these pictures.
        se: its standard error; None where there is no formula, or too little to tell.
    """

    value: float | None
    se: float | None = None


def check_metric(metric: str | None, target: Target, n_classes: int) -> str:
    """The metric to choose by; None takes the default of the target.

    Raises:
        UsageError: unknown, or not a metric of this target.
    """
    valid = METRICS[target]
    if metric is None:
        return valid[0]
    if metric not in valid:
        known = sorted({name for names in METRICS.values() for name in names})
        if metric not in known:
            raise UsageError(f"unknown metric {metric!r}{near_names(metric, known)} (for {target}: {', '.join(valid)})")
        raise UsageError(f"metric {metric} does not belong to target {target}: take one of {', '.join(valid)}")
    if metric == "top5" and n_classes <= _TOP_K:
        raise UsageError(f"metric top5 is always 1 with {n_classes} classes: take accuracy")
    return metric


def measure_figures(
    target: Target, names: Sequence[str], scores_NK: NDArray[np.float32], labels: NDArray[Any]
) -> dict[str, Figure]:
    """Some figures of one set of pictures.

    Args:
        target: what the labels are.
        names: which of `METRICS`.
        scores_NK: finite; (n, C) probabilities, or (n, 1) values for regression.
        labels: (n,) or (n, C), n at least 1.

    Returns:
        Figures in the order of `names`.
    """
    if target is Target.REGRESSION:
        return {name: _regression_figure(name, scores_NK, labels) for name in names}
    if target is Target.MULTILABEL:
        return {name: _multilabel_figure(name, scores_NK, labels) for name in names}
    return {name: _class_figure(name, scores_NK, labels) for name in names}


def mean_figure(folds: Sequence[Figure]) -> Figure:
    """Mean over the folds in which the figure is defined, and its standard error; one fold is returned as it is."""
    if len(folds) == 1:
        return folds[0]
    values = np.array([fold.value for fold in folds if fold.value is not None], np.float64)
    return _mean(values) if len(values) else Figure(None)


def _mean(values_N: NDArray[Any]) -> Figure:
    values_N = np.asarray(values_N, np.float64)
    n = len(values_N)
    return Figure(float(values_N.mean()), float(values_N.std(ddof=1) / np.sqrt(n)) if n > 1 else None)


def picture_nll(scores_NC: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) -log p of the true class, or the mean binary cross-entropy of a picture's indicators; floored as in metrics."""
    from tle.metrics import NLL_FLOOR

    if labels.ndim == 1:
        p = scores_NC[np.arange(len(labels)), labels].astype(np.float64)
    else:
        p = np.where(labels.astype(bool), scores_NC.astype(np.float64), 1.0 - scores_NC.astype(np.float64))
    loss: NDArray[np.float64] = 0.0 - np.log(np.clip(p, NLL_FLOOR, 1.0))
    return loss if labels.ndim == 1 else loss.mean(axis=1)


def _class_figure(name: str, scores_NC: NDArray[np.float32], labels_N: NDArray[Any]) -> Figure:
    from tle.metrics import rank_of_truth

    if name == "nll":
        return _mean(picture_nll(scores_NC, labels_N))
    if name == "top5":
        return _mean(rank_of_truth(scores_NC, labels_N) < _TOP_K)
    predicted_N = scores_NC.argmax(axis=1)
    if name == "accuracy":
        return _mean(predicted_N == labels_N)
    n_classes = scores_NC.shape[1]
    true_C, predicted_C = (np.bincount(index_N, minlength=n_classes) for index_N in (labels_N, predicted_N))
    hit_C = np.bincount(labels_N[predicted_N == labels_N], minlength=n_classes)
    if name == "macro_f1":
        seen = true_C + predicted_C > 0
        return Figure(float((2 * hit_C[seen] / (true_C + predicted_C)[seen]).mean()))
    count_P = true_C[true_C > 0]
    recall_P = hit_C[true_C > 0] / count_P
    variance = (recall_P * (1 - recall_P) / count_P).sum()
    return Figure(float(recall_P.mean()), float(np.sqrt(variance) / len(recall_P)))


def _multilabel_figure(name: str, scores_NC: NDArray[np.float32], labels_NC: NDArray[Any]) -> Figure:
    from tle.metrics import mean_average_precision

    if name == "mAP":
        return Figure(mean_average_precision(scores_NC, labels_NC))
    return _mean(picture_nll(scores_NC, labels_NC))


def _regression_figure(name: str, scores_N1: NDArray[np.float32], labels_N: NDArray[Any]) -> Figure:
    y_N = labels_N.astype(np.float64)
    error_N = scores_N1[:, 0].astype(np.float64) - y_N
    if name == "r2":
        spread = float(np.square(y_N - y_N.mean()).sum())
        return Figure(float(1 - np.square(error_N).sum() / spread) if spread > 0 else None)
    return _mean(np.square(error_N) if name == "mse" else np.abs(error_N))
