"""Labelled rows of a cache, as every kind of head takes them.

# N rows of the cache, n rows taken, B rows of a block, D feature dim, C classes
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target

if TYPE_CHECKING:
    from tle.heads.views import ViewRows

# How scikit-learn's warning starts. It comes with every single fit; `tle.heads.fit` says it once, and what to do.
MANY_CLASSES_WARNING = "The number of unique classes is greater than 50%"
_BLOCK_VALUES = 2**24  # 64 MiB of float32


def block_rows(dim: int) -> int:
    """Rows of dimension `dim` that make a block of about 64 MiB in float32, at least one."""
    return max(1, _BLOCK_VALUES // max(dim, 1))


@dataclass(frozen=True, slots=True)
class Samples:
    """Some rows of a feature matrix with their labels; features stay where they are until they are asked for.

    Attributes:
        features: (N, D) float16 or float32, possibly memory-mapped; all rows of the cache.
        rows: (n,) int64, the rows that belong to these samples, ascending.
        labels: labels of those rows: (n,) int64, (n, C) uint8 or (n,) float32.
        views: random views of the same pictures, for heads that take them.
    """

    features: NDArray[Any]
    rows: NDArray[np.int64]
    labels: NDArray[Any]
    views: "tuple[ViewRows, ...]" = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Feature dimension D."""
        return int(self.features.shape[1])

    def gather(self, positions: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """Features at some positions within the samples, float32 (len(positions), D), a fresh array."""
        return np.asarray(self.features[self.rows[positions]], dtype=np.float32)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All features in order as (positions, float32 (B, D)), about 64 MiB at a time."""
        step = block_rows(self.dim)
        for start in range(0, len(self), step):
            positions = slice(start, min(start + step, len(self)))
            yield positions, self.gather(positions)


@dataclass(frozen=True)
class Task:
    """What a head is fitted on.

    Attributes:
        train: the samples to fit on while choosing.
        val: the samples to choose on; may be empty.
        target: what the labels are.
        classes: the C names that class and multi-label labels refer to; empty for regression.
        seed: seed of everything random.
    """

    train: Samples
    val: Samples
    target: Target
    classes: tuple[str, ...]
    seed: int

    @cached_property
    def both(self) -> Samples:
        """Train and val together, rows ascending."""
        if not len(self.val):
            return self.train
        rows = np.concatenate([self.train.rows, self.val.rows])
        labels = np.concatenate([self.train.labels, self.val.labels])
        order = np.argsort(rows, kind="stable")
        return replace(self.train, rows=rows[order], labels=labels[order])

    @property
    def outputs(self) -> int:
        """Columns K of the scores: C, or 1 for regression."""
        return 1 if self.target is Target.REGRESSION else len(self.classes)


def as_targets(labels: NDArray[Any], target: Target, outputs: int) -> NDArray[np.float64]:
    """Labels as the (n, K) float64 targets of a regression: one-hot rows, 0/1 indicators, or the values as a column."""
    if target is Target.CLASS:
        one_hot = np.zeros((len(labels), outputs))
        one_hot[np.arange(len(labels)), labels] = 1.0
        return one_hot
    return np.asarray(labels, dtype=np.float64).reshape(len(labels), outputs)
