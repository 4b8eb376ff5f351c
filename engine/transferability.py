"""How promising features look before any head is fitted: LogME and the H-score.

# n samples, D feature dim, K columns of targets, C classes, R rank

Both follow from one pass that sums the features of each class and one that sums their centred outer products.

LogME: the log evidence per sample of a Bayesian linear model y = F w + e, w ~ N(0, I / alpha), e ~ N(0, I / beta), at the
alpha and beta that make it largest; one model a class with one-hot targets, averaged. With F = U S V^T, z = U^T y,
sigma = s^2 and t = alpha / beta:

    gamma = sum_r sigma_r / (t + sigma_r)         |m|^2 = sum_r sigma_r z_r^2 / (t + sigma_r)^2
    |F m - y|^2 = sum_r t^2 z_r^2 / (t + sigma_r)^2 + (|y|^2 - |z|^2)
    alpha = gamma / |m|^2       beta = (n - gamma) / |F m - y|^2       until t stays the same
    n LogME = n/2 log(beta / 2 pi) - beta/2 |F m - y|^2 - alpha/2 |m|^2 - 1/2 sum_r log(1 + sigma_r / t)

Features are taken as they are, without an intercept, as its authors do.
Source: You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", equations 2 and 3; the
fixed point over the singular values: You et al. 2022, "Ranking and Tuning Pre-trained Models", algorithm 3.

H-score: tr(cov(f)^+ cov(E[f | y])), how much of the spread of the features lies between the classes; at most C - 1 and the
rank. Of covariances that are estimated from n samples, both with 1/n.
Source: Bao et al. 2019, "An Information-Theoretic Approach to Transferability in Task Transfer Learning", definition 2.

Shrunk H-score: tr((cov_a)^-1 (1 - a) cov(E[f | y])) with the covariance that Ledoit and Wolf 2004 shrink by a. Where D is
not far below n the plain score measures little but n and D.
Source: Ibrahim et al. 2021, "Newer is not always better: Rethinking transferability metrics", section 4.

In the basis of the eigenvectors v_r of the centred scatter (eigenvalues l_r), with q_r = sum_c (v_r . s_c)^2 / (n_c l_r) and
s_c the sum of the centred features of class c, they are sum_r q_r and sum_r (1 - a) l_r q_r / ((1 - a) l_r + a mean(l)).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError, ShapeError
from tle.heads.samples import Samples, as_targets, block_rows
from tle.heads.threads import blas_threads

# Eigenvalues below this part of the largest are rounding errors of float32 features, not directions that they span: noise of
# one part in 2^24 in the features is 2^-48 = 4e-15 in a single one, and summed over n of them stays below this.
RANK_CUTOFF = 1e-12
_ITERATIONS = 10_000
_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferability:
    """Scores of features for a task; higher is better, and only scores on the same samples can be compared.

    Attributes:
        logme: log evidence per sample, in nats.
        h_score: between 0 and C - 1; None unless the target is CLASS.
        h_score_shrunk: the same with a shrunk covariance; None unless the target is CLASS.
        shrinkage: the a of Ledoit and Wolf, from 0 to 1; None unless the target is CLASS.
        n: samples that it was computed on.
    """

    logme: float
    h_score: float | None
    h_score_shrunk: float | None
    shrinkage: float | None
    n: int


def measure_transferability(samples: Samples, target: Target, outputs: int) -> Transferability:
    """LogME and H-scores of some samples, streamed in blocks of rows, in float64.

    Args:
        samples: features and labels, at least two; features finite.
        target: CLASS, MULTILABEL (LogME over the labels) or REGRESSION (LogME of the values).
        outputs: columns K of the targets: C, or 1 for regression. Classes without a sample do not count.

    Returns:
        The scores.

    Raises:
        ShapeError: fewer than two samples, or a target without labels.
        HeadError: all features of all samples are the same number zero, so that nothing can be told.
    """
    n = len(samples)
    if n < 2 or target is Target.NONE:
        raise ShapeError(f"expected at least two labelled samples, got {n} of target {target}")
    target_NK = as_targets(samples.labels, target, outputs)
    target_NK = target_NK[:, target_NK.any(axis=0)]
    if not target_NK.shape[1]:
        raise ShapeError("expected targets that are not all zero")
    # Where there are fewer samples than features, the n x n products hold all there is.
    spread = _Wide(samples, target_NK) if n < samples.dim else _Tall(samples, target_NK)
    sigma_R, projected_RK = spread.raw()
    if not len(sigma_R):
        raise HeadError(f"all features of {n} samples are zero: the backbone gave nothing to learn from")
    logme = float(log_evidence(sigma_R, projected_RK, np.square(target_NK).sum(axis=0), n).mean())
    if target is not Target.CLASS:
        return Transferability(logme=logme, h_score=None, h_score_shrunk=None, shrinkage=None, n=n)
    values_R, between_R = spread.centred()
    shrinkage = spread.shrinkage()
    kept = (1 - shrinkage) * values_R
    mean = values_R.sum() / samples.dim
    with np.errstate(invalid="ignore"):  # features that are all the same: 0 / 0, which is no spread between classes
        shrunk = np.nan_to_num(kept * between_R / (kept + shrinkage * mean)).sum()
    return Transferability(
        logme=logme, h_score=float(between_R.sum()), h_score_shrunk=float(shrunk), shrinkage=shrinkage, n=n
    )


def log_evidence(
    sigma_R: NDArray[np.float64], projected_RK: NDArray[np.float64], square_K: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """The largest log evidence per sample of each column of targets.

    Args:
        sigma_R: squared singular values of the features, all above 0.
        projected_RK: z, the targets in the basis of the left singular vectors.
        square_K: |y|^2.
        n: samples.

    Returns:
        (K,) nats per sample.
    """
    z2_RK = np.square(projected_RK)
    beyond_K = (square_K - z2_RK.sum(axis=0)).clip(0.0)
    sigma_R1 = sigma_R[:, None]
    # alpha and beta may run to infinity (targets that the features fit exactly, or do not touch); the evidence then
    # approaches its limit long before these bounds of their ratio.
    scale = float(sigma_R.max())
    low, high = 1e-14 * scale, 1e14 * scale
    t_K = np.full(len(square_K), float(sigma_R.mean()))
    for _ in range(_ITERATIONS):
        gamma_K = (sigma_R1 / (t_K + sigma_R1)).sum(axis=0)
        m2_K, residual_K = _norms(sigma_R1, z2_RK, beyond_K, t_K)
        with np.errstate(divide="ignore", invalid="ignore"):
            new_K = np.nan_to_num(gamma_K / (n - gamma_K) * residual_K / m2_K, nan=low, posinf=high).clip(low, high)
        settled = np.abs(new_K - t_K) <= _TOLERANCE * t_K
        t_K = new_K
        if settled.all():
            break
    m2_K, residual_K = _norms(sigma_R1, z2_RK, beyond_K, t_K)
    # With t given, beta (|F m - y|^2 + t |m|^2) = n at the best beta; at the fixed point it is the beta above.
    energy_K = residual_K + t_K * m2_K
    log_beta_K = np.log(n) - np.log(np.maximum(energy_K, np.finfo(float).tiny))
    evidence_K = n / 2 * (log_beta_K - np.log(2 * np.pi) - 1) - np.log1p(sigma_R1 / t_K).sum(axis=0) / 2
    return np.asarray(evidence_K / n)


def _norms(
    sigma_R1: NDArray[np.float64], z2_RK: NDArray[np.float64], beyond_K: NDArray[np.float64], t_K: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|m|^2 and |F m - y|^2, each (K,)."""
    share_RK = z2_RK / np.square(t_K + sigma_R1)
    return (sigma_R1 * share_RK).sum(axis=0), np.square(t_K) * share_RK.sum(axis=0) + beyond_K


def _eigh(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues and eigenvectors; on one thread, since most of it is small products."""
    with blas_threads(0):
        values, vectors = np.linalg.eigh(matrix)
    return values, vectors


def _kept(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Eigenvalues that are no rounding errors."""
    return np.asarray(values > RANK_CUTOFF * max(values.max(initial=0.0), 0.0))


class _Tall:
    """At least as many samples as features: everything from the D x D scatter."""

    def __init__(self, samples: Samples, target_NK: NDArray[np.float64]) -> None:
        """Two passes: sums of features by column of targets, then the centred scatter."""
        self._n = len(samples)
        self._count_K = target_NK.sum(axis=0)
        self._cross_DK = np.zeros((samples.dim, target_NK.shape[1]))
        sum_D = np.zeros(samples.dim)
        for positions, x_BD in _blocks(samples):
            self._cross_DK += x_BD.T @ target_NK[positions]
            sum_D += x_BD.sum(axis=0)
        self._mean_D = sum_D / self._n
        self._scatter_DD = np.zeros((samples.dim, samples.dim))
        self._fourth = 0.0
        for _, x_BD in _blocks(samples):
            x_BD -= self._mean_D
            self._scatter_DD += x_BD.T @ x_BD
            self._fourth += float(np.square(np.square(x_BD).sum(axis=1)).sum())

    def raw(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues (R,) of F^T F, and z (R, K)."""
        values, vectors = _eigh(self._scatter_DD + self._n * np.outer(self._mean_D, self._mean_D))
        kept = _kept(values)
        return values[kept], (vectors[:, kept].T @ self._cross_DK) / np.sqrt(values[kept])[:, None]

    def centred(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues l (R,) of the centred scatter, and q (R,)."""
        values, vectors = _eigh(self._scatter_DD)
        kept = _kept(values)
        sums_DK = self._cross_DK - np.outer(self._mean_D, self._count_K)
        within_RK = np.square(vectors[:, kept].T @ sums_DK) / self._count_K
        return values[kept], within_RK.sum(axis=1) / values[kept]

    def shrinkage(self) -> float:
        """The a of Ledoit and Wolf."""
        return _shrinkage(
            self._fourth, float(np.square(self._scatter_DD).sum()), float(np.trace(self._scatter_DD)),
            self._n, len(self._scatter_DD),
        )  # fmt: skip


class _Wide:
    """Fewer samples than features: the same from the n x n products of the samples."""

    def __init__(self, samples: Samples, target_NK: NDArray[np.float64]) -> None:
        """The products of all pairs; features are held once, in float64."""
        self._dim, self._target_NK = samples.dim, target_NK
        x_ND = samples.gather().astype(np.float64)
        self._gram_NN = x_ND @ x_ND.T
        x_ND -= x_ND.mean(axis=0)
        self._centred_NN = x_ND @ x_ND.T

    def raw(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues (R,) of F F^T, and z (R, K)."""
        values, vectors = _eigh(self._gram_NN)
        kept = _kept(values)
        return values[kept], vectors[:, kept].T @ self._target_NK

    def centred(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues l (R,) of the centred scatter, and q (R,)."""
        values, vectors = _eigh(self._centred_NN)
        kept = _kept(values)
        within_RK = np.square(vectors[:, kept].T @ self._target_NK) / self._target_NK.sum(axis=0)
        return values[kept], within_RK.sum(axis=1)

    def shrinkage(self) -> float:
        """The a of Ledoit and Wolf."""
        diagonal_N = np.diagonal(self._centred_NN)
        fourth, squares = float(np.square(diagonal_N).sum()), float(np.square(self._centred_NN).sum())
        return _shrinkage(fourth, squares, float(diagonal_N.sum()), len(diagonal_N), self._dim)


def _shrinkage(fourth: float, squares: float, trace: float, n: int, dim: int) -> float:
    """How far Ledoit and Wolf 2004 shrink a covariance towards the identity, from 0 to 1.

    Args:
        fourth: sum over samples of |x|^4, x centred.
        squares: sum of the squared entries of the scatter.
        trace: of the scatter.
        n: samples.
        dim: features D.
    """
    # |S - m I|^2 of S = scatter / n, and the mean squared distance of a sample's own product from S.
    distance = squares / n**2 - (trace / n) ** 2 / dim
    noise = (fourth / n - squares / n**2) / n
    return float(np.clip(noise / distance, 0.0, 1.0)) if distance > 0 else 0.0


def _blocks(samples: Samples) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """All features in order as (positions, float64 (B, D)), about 64 MiB at a time."""
    step = block_rows(2 * samples.dim)
    for start in range(0, len(samples), step):
        positions = slice(start, min(start + step, len(samples)))
        yield positions, samples.gather(positions).astype(np.float64)
