"""The eigendecomposition that gives a ridge solution for every alpha, and its leave-one-out errors.

# n samples, D feature dim, K outputs, A alphas, R eigenvalues, B rows of a block

    n > D:   Z^T Z = V L V^T            W^T = V (L + alpha)^-1 V^T Z^T Y
    n <= D:  Z Z^T = U L U^T            W^T = Z^T U (L + alpha)^-1 U^T Y

Z is centred, and standardised unless that is switched off. The first form reads the features once for the Gram matrix
and once more for leave-one-out; no more than a block of them is in memory. The second holds Z, which is small there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.heads.gram import decompose_symmetric, mean_targets, measure_moments, raw_blocks
from tle.heads.leave_one_out import Collector, LeaveOneOut
from tle.heads.samples import Samples, Task, as_targets
from tle.heads.scaler import Scaler
from tle.heads.threads import blas_threads
from tle.kernels.gram import BLOCK, copy_rows

Solution = tuple[NDArray[np.float64], NDArray[np.float64]]  # weights (K, D) and intercepts (K,) on raw features


@dataclass(frozen=True, slots=True)
class RidgePath:
    """What every alpha shares.

    Attributes:
        samples: what was decomposed.
        target: what the labels are.
        scaler: what stands before the solution.
        basis_DR: what the solution is spanned by: V, or Z^T U.
        rows_nR: U where n <= D, else None.
        values_R: eigenvalues L, none negative.
        projected_RK: V^T Z^T Y, or U^T Y, of the centred targets.
        mean_K: mean of the targets.
    """

    samples: Samples
    target: Target
    scaler: Scaler
    basis_DR: NDArray[np.float64]
    rows_nR: NDArray[np.float64] | None
    values_R: NDArray[np.float64]
    projected_RK: NDArray[np.float64]
    mean_K: NDArray[np.float64]

    def solve(self, alpha: float) -> Solution:
        """Weights (K, D) and intercepts (K,) on raw features."""
        with blas_threads(self.basis_DR.size * self.projected_RK.shape[1]):
            weight_DK = self.basis_DR @ (self.projected_RK / (self.values_R + alpha)[:, None])
        return self.scaler.fold(weight_DK.T, self.mean_K)

    def leave_one_out(self, alphas: Sequence[float]) -> LeaveOneOut:
        """Exact errors of every alpha; see `tle.heads.leave_one_out`."""
        n = len(self.samples)
        alphas_A = np.asarray(alphas, np.float64)
        collector = Collector(self.values_R, self.projected_RK, alphas_A, n, complement=self.rows_nR is not None)
        if self.rows_nR is None:
            # P = (X - mean) S V, with the scale S taken into V.
            basis_DR = self.basis_DR / self.scaler.scale_D[:, None]
            for start, x_BD in _centred(self.samples, self.scaler):
                collector.add(start, x_BD @ basis_DR, self._targets(start, len(x_BD)))
        else:
            for start in range(0, n, BLOCK):
                rows_BR = self.rows_nR[start : start + BLOCK]
                collector.add(start, rows_BR, self._targets(start, len(rows_BR)))
        return collector.result()

    def left_out_scores(self, solution: Solution, rest_n: NDArray[np.floating]) -> NDArray[np.float64]:
        """What each sample is given by the solution without it, float64 (n, K).

        Args:
            solution: of one alpha.
            rest_n: its 1 - h.
        """
        weight_KD, bias_K = solution
        scores_nK = np.empty((len(self.samples), len(bias_K)))
        for start, x_BD in _centred(self.samples, self.scaler):
            rows = slice(start, start + len(x_BD))
            target_BK = self._targets(start, len(x_BD)) + self.mean_K
            error_BK = target_BK - (x_BD @ weight_KD.T + (bias_K + weight_KD @ self.scaler.mean_D))
            scores_nK[rows] = target_BK - error_BK / rest_n[rows, None]
        return scores_nK

    def _targets(self, start: int, rows: int) -> NDArray[np.float64]:
        """Centred targets of some rows."""
        labels = self.samples.labels[start : start + rows]
        return as_targets(labels, self.target, len(self.mean_K)) - self.mean_K


def decompose(task: Task, samples: Samples, *, standard: bool) -> RidgePath:
    """One pass over the features, and one eigendecomposition of the smaller side.

    Args:
        task: target and outputs.
        samples: at least one.
        standard: whether features are standardised, else only centred.
    """
    if len(samples) <= samples.dim:
        return _decompose_rows(task, samples, standard=standard)
    moments = measure_moments(samples, task.target, task.outputs, scatter=True)
    scaler = moments.scaler(standard=standard)
    gram_DD = moments.scatter_DD
    assert gram_DD is not None  # noqa: S101 - asked for just above; for the type checker
    gram_DD /= scaler.scale_D
    gram_DD /= scaler.scale_D[:, None]
    cross_DK = (moments.cross_KD / scaler.scale_D).T
    values_R, vectors_DR = decompose_symmetric(gram_DD)
    projected_RK = vectors_DR.T @ cross_DK
    mean_K = moments.target_mean_K
    return RidgePath(samples, task.target, scaler, vectors_DR, None, values_R, projected_RK, mean_K)


def _decompose_rows(task: Task, samples: Samples, *, standard: bool) -> RidgePath:
    """The n x n form, without the vector of ones: the intercept has it."""
    n = len(samples)
    moments = measure_moments(samples, task.target, task.outputs, scatter=False)
    scaler = moments.scaler(standard=standard)
    z_ND = scaler.load(samples)
    z_ND -= z_ND.mean(axis=0)
    gram_NN = z_ND @ z_ND.T
    # Z Z^T has the vector of ones among its null vectors, mixed with any others. Above all other eigenvalues it is alone,
    # and last.
    gram_NN += (1.0 + 2.0 * np.trace(gram_NN)) / n
    values_N, vectors_NN = decompose_symmetric(gram_NN)
    values_R, vectors_NR = values_N[:-1], vectors_NN[:, :-1]
    mean_K = mean_targets(samples.labels, task.target, task.outputs)
    target_NK = as_targets(samples.labels, task.target, task.outputs) - mean_K
    return RidgePath(
        samples, task.target, scaler, z_ND.T @ vectors_NR, vectors_NR, values_R, vectors_NR.T @ target_NK, mean_K
    )


def _centred(samples: Samples, scaler: Scaler) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """(First position, float64 (B, D) features less their mean); valid until the next is asked for."""
    buffer_BD = np.empty((min(BLOCK, len(samples)), samples.dim))
    for positions, raw_BD in raw_blocks(samples):
        for start in range(0, len(raw_BD), BLOCK):
            rows_BD = raw_BD[start : start + BLOCK]
            x_BD = buffer_BD[: len(rows_BD)]
            copy_rows(rows_BD, x_BD)
            x_BD -= scaler.mean_D
            yield positions.start + start, x_BD
