"""Which pictures an epoch takes, and in which order: functions of seed and epoch, with no state between them.

# n pictures that are trained on
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tle.errors import UsageError

__all__ = ["Stream", "class_balanced_weights", "epoch_order", "n_batches"]


class Stream(IntEnum):
    """First number of a seed, so that draws for different ends are independent though seed and epoch are the same.

    ORDER: of an epoch's pictures. VIEW: of one picture's augmentation. MIX: of a batch.
    """

    ORDER = 0
    VIEW = 1
    MIX = 2


def class_balanced_weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights with which every class that occurs is drawn as often as every other.

    Args:
        labels: (n,) int64 class indices, 0 or more.

    Returns:
        (n,) float64, positive, of sum 1.

    Raises:
        UsageError: not one class a picture, no picture, or one without a label.
    """
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UsageError(
            "balanced sampling takes a class index for each of at least one picture, got "
            f"labels {labels.shape} {labels.dtype}: leave unlabelled pictures out, or do without"
        )
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1.0 / (len(counts) * counts[inverse])
    return weights


def epoch_order(n: int, *, seed: int, epoch: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    """The order in which an epoch takes its pictures.

    Args:
        n: how many pictures there are.
        seed: of the training, 0 or more.
        epoch: from 0 or 1, as the caller counts.
        weights: (n,) of sum 1: draw with replacement, each picture with its weight. None: every picture once.

    Returns:
        (n,) int64, from 0 to n - 1.

    Raises:
        UsageError: not a weight for each picture, a negative one, or a sum other than 1.
    """
    rng = np.random.default_rng([Stream.ORDER, seed, epoch])
    if weights is None:
        return rng.permutation(n)
    if weights.shape != (n,) or not (weights >= 0).all() or not np.isclose(weights.sum(), 1.0):
        raise UsageError(
            f"expected {n} weights, none negative, of sum 1, got {weights.shape} of sum {weights.sum():.6g}"
        )
    return rng.choice(n, n, p=weights)


def n_batches(n: int, batch_size: int, *, world: int = 1, drop_last: bool = False) -> int:
    """Batches of an epoch of `n` pictures over `world` processes that take `batch_size` each."""
    whole, rest = divmod(n, batch_size * world)
    return whole if drop_last or not rest else whole + 1
