"""Paired bootstrap: several models on the same pictures, resampled together.

# n pictures, M models, C classes, K columns of the scores, R resamples, B resamples of a block

A resample draws n of the n pictures with replacement, the same for every model, so that a difference between two models
keeps what their errors have in common. Each resample is n counts that say how often a picture was drawn; every figure is
computed from pictures that count as often as that.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import ShapeError
from tle.heads.figures import picture_nll
from tle.metrics import LEVEL, TOP_K, rank_of_truth

# The ends of a 95 % interval then lie on about 50 resamples.
RESAMPLES = 2000
# Figures that are a mean over pictures of what is right or wrong: two models can be compared by a sign test.
COUNTED = frozenset({"accuracy", "top5"})
_BLOCK_VALUES = 2**22

_Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # counts (B, n) -> figure (B,), NaN where undefined


def resample_figures(
    metric: str,
    target: Target,
    scores: Sequence[NDArray[np.float32]],
    labels: NDArray[Any],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """A figure of every model in every resample.

    Args:
        metric: one of `tle.heads.figures.METRICS` of the target.
        target: what the labels are.
        scores: of each model, (n, C) probabilities or (n, 1) values, for the same pictures in the same order.
        labels: (n,) class indices, (n, C) 0/1 indicators or (n,) values.
        seed: seed of the draws, which depend on nothing else but n.
        resamples: R.

    Returns:
        Float64 (R, M); NaN where a resample leaves the figure undefined.

    Raises:
        ShapeError: no picture, or scores of another number of pictures.
    """
    n = len(labels)
    if not n or any(len(scores_NK) != n for scores_NK in scores):
        raise ShapeError(f"expected scores for {n} pictures, at least one, got {[len(found) for found in scores]}")
    statistics = [_statistic(metric, target, scores_NK, labels) for scores_NK in scores]
    values_RM = np.empty((resamples, len(scores)))
    first = 0
    for counts_BN in _draws(n, resamples, seed):
        block = slice(first, first + len(counts_BN))
        for model, statistic in enumerate(statistics):
            values_RM[block, model] = statistic(counts_BN)
        first = block.stop
    return values_RM


def percentile_interval(values_R: NDArray[np.float64]) -> list[float] | None:
    """The central 95 % of the resamples in which the figure is defined; None where there is none."""
    defined = values_R[~np.isnan(values_R)]
    tail = (1 - LEVEL) / 2
    return [float(value) for value in np.quantile(defined, [tail, 1 - tail])] if len(defined) else None


def probability_above(values_R: NDArray[np.float64]) -> float | None:
    """Part of the resamples in which a difference is above 0; one of exactly 0 counts half."""
    defined = values_R[~np.isnan(values_R)]
    return float((defined > 0).mean() + (defined == 0).mean() / 2) if len(defined) else None


def sign_test(first_N: NDArray[np.bool_], second_N: NDArray[np.bool_]) -> float:
    """Two-sided p of the exact test that two models are right equally often, given on which pictures they differ.

    A bootstrap of few differing pictures is too sure of itself: where 4 differ, all in favour of one, it excludes 0, and
    this gives 0.125.

    Args:
        first_N: (n,) whether one model is right.
        second_N: (n,) whether the other is.

    Source: McNemar 1947, in its exact form.
    """
    from scipy.stats import binom

    differ = int((first_N != second_N).sum())
    fewer = min(int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum()))
    return min(1.0, 2 * float(binom.cdf(fewer, differ, 0.5))) if differ else 1.0


def is_right(metric: str, scores_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether a picture counts as right, for a metric of `COUNTED`."""
    if metric == "top5":
        return np.asarray(rank_of_truth(scores_NC, labels_N) < TOP_K)
    return np.asarray(scores_NC.argmax(axis=1) == labels_N)


def _draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each picture was drawn, (B, n) at a time, R in all."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK_VALUES // n)
    for start in range(0, resamples, step):
        counts_BN = np.empty((min(step, resamples - start), n))
        for row_N in counts_BN:
            row_N[:] = np.bincount(rng.integers(0, n, n), minlength=n)
        yield counts_BN


def _statistic(metric: str, target: Target, scores_NK: NDArray[np.float32], labels: NDArray[Any]) -> _Statistic:
    if metric in COUNTED:
        return _mean_of(is_right(metric, scores_NK, labels))
    if metric == "nll":
        return _mean_of(picture_nll(scores_NK, labels))
    if metric == "mAP":
        return _average_precision(scores_NK, labels)
    if target is Target.REGRESSION:
        y_N = labels.astype(np.float64)
        error_N = scores_NK[:, 0].astype(np.float64) - y_N
        if metric == "r2":
            return _r2(error_N, y_N)
        return _mean_of(np.square(error_N) if metric == "mse" else np.abs(error_N))
    return _recalls(scores_NK, labels) if metric == "balanced_accuracy" else _macro_f1(scores_NK, labels)


def _mean_of(value_N: NDArray[Any]) -> _Statistic:
    value_N = value_N.astype(np.float64)
    return lambda counts_BN: np.asarray(counts_BN @ value_N / len(value_N))


def _by_class(index_N: NDArray[np.int64], kept_N: NDArray[np.bool_], n_classes: int) -> Any:
    """Sparse (n, C) matrix that adds up the counts of the pictures of each class that are kept."""
    from scipy.sparse import csr_array

    rows = np.flatnonzero(kept_N)
    return csr_array((np.ones(len(rows)), (rows, index_N[rows])), shape=(len(index_N), n_classes))


def _recalls(scores_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> _Statistic:
    """Mean recall over the classes that were drawn."""
    n_classes = scores_NC.shape[1]
    true = _by_class(labels_N, np.full(len(labels_N), True), n_classes)
    hit = _by_class(labels_N, is_right("accuracy", scores_NC, labels_N), n_classes)

    def statistic(counts_BN: NDArray[np.float64]) -> NDArray[np.float64]:
        true_BC, hit_BC = counts_BN @ true, counts_BN @ hit
        return np.asarray((hit_BC / np.maximum(true_BC, 1)).sum(axis=1) / (true_BC > 0).sum(axis=1))

    return statistic


def _macro_f1(scores_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> _Statistic:
    """Mean F1 over the classes that were drawn or predicted."""
    n_classes, everyone = scores_NC.shape[1], np.full(len(labels_N), True)
    predicted_N = scores_NC.argmax(axis=1)
    hit = _by_class(labels_N, predicted_N == labels_N, n_classes)
    true, predicted = _by_class(labels_N, everyone, n_classes), _by_class(predicted_N, everyone, n_classes)

    def statistic(counts_BN: NDArray[np.float64]) -> NDArray[np.float64]:
        seen_BC = counts_BN @ true + counts_BN @ predicted
        f1_BC = 2 * (counts_BN @ hit) / np.maximum(seen_BC, 1)
        return np.asarray(f1_BC.sum(axis=1) / (seen_BC > 0).sum(axis=1))

    return statistic


def _r2(error_N: NDArray[np.float64], y_N: NDArray[np.float64]) -> _Statistic:
    """1 - sum e^2 / sum (y - mean)^2; undefined where one value of y was drawn alone."""
    n, y_N = len(y_N), y_N - y_N.mean()  # centred: the difference of sums below loses nothing to a large mean
    whole = float(np.square(y_N).sum())

    def statistic(counts_BN: NDArray[np.float64]) -> NDArray[np.float64]:
        spread_B = counts_BN @ np.square(y_N) - np.square(counts_BN @ y_N) / n
        spread_B[spread_B <= 1e-12 * whole] = np.nan
        return np.asarray(1 - counts_BN @ np.square(error_N) / spread_B)

    return statistic


def _average_precision(scores_NC: NDArray[np.float32], labels_NC: NDArray[Any]) -> _Statistic:
    """Mean over the labels with a drawn positive of the average precision, as scikit-learn defines it."""
    orders = np.argsort(-scores_NC, axis=0, kind="stable")

    def statistic(counts_BN: NDArray[np.float64]) -> NDArray[np.float64]:
        total_B, defined_B = np.zeros(len(counts_BN)), np.zeros(len(counts_BN))
        for label in np.flatnonzero(labels_NC.any(axis=0)):
            order_N = orders[:, label]
            ranked_N = scores_NC[order_N, label]
            # One threshold takes all pictures of equal score: only the last of them is a point of the curve.
            ends = np.append(np.flatnonzero(np.diff(ranked_N)), len(ranked_N) - 1)
            ordered_BN = counts_BN[:, order_N]
            found_BT = np.cumsum(ordered_BN * labels_NC[order_N, label], axis=1)[:, ends]
            taken_BT = np.cumsum(ordered_BN, axis=1)[:, ends]
            gained_BT = np.diff(found_BT, axis=1, prepend=0.0)
            positives_B = found_BT[:, -1]
            precision_B = (gained_BT * found_BT / np.maximum(taken_BT, 1)).sum(axis=1)
            total_B += precision_B / np.maximum(positives_B, 1)
            defined_B += positives_B > 0
        return np.where(defined_B > 0, total_B / np.maximum(defined_B, 1), np.nan)

    return statistic
