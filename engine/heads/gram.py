"""Moments of samples in one pass over row blocks: all that ridge, lda and prototype need of the features.

# n samples, D feature dim, K outputs (C classes), B rows of a block

    mean_D        mean of the features
    scatter_DD    sum_i (x_i - mean)(x_i - mean)^T
    cross_KD      sum_i (y_i - mean y)(x_i - mean)^T       y: one-hot classes, 0/1 indicators, or a value

For classes the rows of `cross_KD` are n_k (class mean - mean), so that the class means come from them, and what is left
of the scatter without them is the scatter within classes.

The features stay where they are: float16 caches on disk are read once, in order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.heads.samples import Samples, as_targets, block_rows
from tle.heads.scaler import FLOOR, Scaler
from tle.heads.threads import ONE_THREAD_BELOW, blas_threads
from tle.kernels.gram import BLOCK, GramAccumulator

# Rows of a matrix up to which its eigendecomposition has one thread.
ONE_THREAD_EIGH = 2048


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over samples.

    Attributes:
        n: how many samples.
        mean_D: float64 (D,).
        variance_D: float64 (D,), population form.
        target_mean_K: float64 (K,); for classes the share of each.
        cross_KD: float64 (K, D).
        scatter_DD: float64 (D, D); None where it was not asked for.
    """

    n: int
    mean_D: NDArray[np.float64]
    variance_D: NDArray[np.float64]
    target_mean_K: NDArray[np.float64]
    cross_KD: NDArray[np.float64]
    scatter_DD: NDArray[np.float64] | None

    def counts(self) -> NDArray[np.int64]:
        """Samples of each class, or positives of each label; int64 (K,)."""
        return np.rint(self.target_mean_K * self.n).astype(np.int64)

    def class_means(self, present_P: NDArray[np.int64]) -> NDArray[np.float64]:
        """Means of the classes that have samples, less the mean of all; float64 (P, D)."""
        return self.cross_KD[present_P] / self.counts()[present_P, None]

    def scaler(self, *, standard: bool) -> Scaler:
        """The scaler that `tle.heads.scaler.fit_scaler` would measure; without `standard` it only centres."""
        if not standard:
            return Scaler(self.mean_D, np.ones_like(self.mean_D))
        scale_D = np.sqrt(self.variance_D)
        # scikit-learn's bound on the variance that rounding alone gives a constant feature.
        eps = np.finfo(np.float64).eps
        varying = self.variance_D > self.n * eps * self.variance_D + (self.n * self.mean_D * eps) ** 2
        scale_D[~varying] = 1.0
        floor = FLOOR * np.median(scale_D[varying]) if varying.any() else 0.0
        low = varying & (scale_D < floor)
        scale_D[low] = floor
        return Scaler(self.mean_D, scale_D, int(low.sum()))


def measure_moments(samples: Samples, target: Target, outputs: int, *, scatter: bool) -> Moments:
    """One pass over the samples.

    Args:
        samples: at least one.
        target: CLASS, MULTILABEL or REGRESSION.
        outputs: K.
        scatter: whether to accumulate the D x D scatter, by far the most work.

    Returns:
        The moments, in float64.
    """
    # The mean of the first block is near that of all, and exact where a feature is constant.
    first_BD = samples.gather(slice(0, min(len(samples), BLOCK)))
    shift_D = first_BD.mean(axis=0, dtype=np.float64)
    accumulator = GramAccumulator(shift_D)
    target_mean_K = mean_targets(samples.labels, target, outputs)
    cross_KD = np.zeros((outputs, samples.dim))
    sum_D, square_D = np.zeros(samples.dim), np.zeros(samples.dim)
    for positions, raw_BD in raw_blocks(samples):
        for start in range(0, len(raw_BD), BLOCK):
            z_BD = accumulator.shifted(raw_BD[start : start + BLOCK])
            if scatter:
                accumulator.add_shifted(z_BD)
            else:
                square_D += np.einsum("nd,nd->d", z_BD, z_BD)
            sum_D += z_BD.sum(axis=0)
            first = positions.start + start
            cross_KD += target_sums(samples.labels[first : first + len(z_BD)], z_BD, target, outputs)
    # sum_i y_i (x_i - s)  =  sum_i (y_i - mean y)(x_i - mean)  +  mean y sum_i (x_i - s)
    cross_KD -= np.outer(target_mean_K, sum_D)
    offset_D = sum_D / len(samples)
    scatter_DD = None
    if scatter:
        scatter_DD = accumulator.gram()
        scatter_DD -= np.outer(sum_D, offset_D)
        square_D = np.diag(scatter_DD).copy()
    else:
        square_D -= sum_D * offset_D
    variance_D = square_D.clip(0) / len(samples)
    return Moments(len(samples), shift_D + offset_D, variance_D, target_mean_K, cross_KD, scatter_DD)


def raw_blocks(samples: Samples) -> Iterator[tuple[slice, NDArray[Any]]]:
    """All features in order in their own type, as (positions, (B, D)), about 64 MiB of float32 at a time."""
    step = block_rows(samples.dim)
    for start in range(0, len(samples), step):
        positions = slice(start, min(start + step, len(samples)))
        yield positions, np.asarray(samples.features[samples.rows[positions]])


def mean_targets(labels: NDArray[Any], target: Target, outputs: int) -> NDArray[np.float64]:
    """Mean of the targets, float64 (K,)."""
    if target is Target.CLASS:
        return np.bincount(labels, minlength=outputs) / len(labels)
    mean_K: NDArray[np.float64] = np.asarray(labels, np.float64).reshape(len(labels), outputs).mean(axis=0)
    return mean_K


def target_sums(labels_B: NDArray[Any], z_BD: NDArray[np.float64], target: Target, outputs: int) -> NDArray[np.float64]:
    """Float64 (K, D): sum_b y_b z_b. For classes a sparse product: each row is added once, however many classes."""
    if target is not Target.CLASS:
        return np.asarray(as_targets(labels_B, target, outputs).T @ z_BD)
    from scipy.sparse import csr_array

    n = len(labels_B)
    one_hot = csr_array((np.ones(n), (labels_B, np.arange(n))), shape=(outputs, n))
    return np.asarray(one_hot @ z_BD)


def decompose_symmetric(matrix_RR: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues, ascending and not below 0, and eigenvectors in columns, of a positive semidefinite matrix.

    LAPACK's reduction is thousands of small products, between which threads wait for each other: of 1,280 x 1,280 one
    thread makes 0.3 s, and two make as much as 9 where somebody else is using the second core. So up to a size where a
    second thread can be worth it there is one.
    """
    with blas_threads(0 if len(matrix_RR) <= ONE_THREAD_EIGH else ONE_THREAD_BELOW):
        values_R, vectors_RR = np.linalg.eigh(matrix_RR)
    return values_R.clip(0), vectors_RR
