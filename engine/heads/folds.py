"""Folds of the train pictures: each is held out once, and the settings are tried on the others.

# n pictures
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tle.errors import UsageError
from tle.heads.samples import Samples

ALWAYS_TRAIN = -1


def check_folds(folds: int | None) -> int:
    """Number of folds; None and 0 mean none, and are returned as 0.

    Raises:
        UsageError: neither none nor at least 2.
    """
    if folds is None:
        return 0
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or folds < 0 or folds == 1:
        raise UsageError(f"folds (--folds) should be 2 or more, or 0 for none, got {folds!r}")
    return int(folds)


def deal_folds(labels_N: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Deal pictures into folds, as evenly as the classes allow.

    The pictures of a class, in a seeded order, go to one fold after the other, and the next class goes on where it ended:
    so both the folds and each class in them differ by at most one picture. A class with fewer pictures than folds is held
    out in some of them. The only picture of a class stays in train, since nothing could tell what it is.

    Args:
        labels_N: (n,) class of each picture; all the same where there are no classes, and then even a single picture
            of them is dealt.
        folds: at least 2.
        seed: seed of the order.

    Returns:
        (n,) int64 number of the fold that holds the picture out, or `ALWAYS_TRAIN`. With few pictures some fold may be
        empty.
    """
    fold_N = np.full(len(labels_N), ALWAYS_TRAIN, np.int64)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels_N))
    _, class_of, counts = np.unique(labels_N, return_inverse=True, return_counts=True)
    by_class = shuffled[np.argsort(class_of[shuffled], kind="stable")]
    dealt = by_class[counts[class_of[by_class]] > 1]
    fold_N[dealt] = np.arange(len(dealt)) % folds
    return fold_N


def split_folds(samples: Samples, fold_N: NDArray[np.int64]) -> tuple[tuple[Samples, Samples], ...]:
    """(train, val) of every fold that holds anything out, and leaves anything to fit on; val without random views."""
    parts = []
    for fold in range(int(fold_N.max(initial=ALWAYS_TRAIN)) + 1):
        held_out = fold_N == fold
        if held_out.any() and not held_out.all():
            parts.append((_take(samples, ~held_out), replace(_take(samples, held_out), views=())))
    return tuple(parts)


def _take(samples: Samples, chosen_N: NDArray[np.bool_]) -> Samples:
    return replace(samples, rows=samples.rows[chosen_N], labels=samples.labels[chosen_N])
