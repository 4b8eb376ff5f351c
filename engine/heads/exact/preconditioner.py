"""The curvature of the loss as something that can be inverted: a Kronecker product, and a dense block where it matters.

# m sampled rows, K outputs, D feature dim, R leading directions, L problems

The Hessian of the loss is sum_i v_i (diag(p_i) - p_i p_i^T) (x) z_i z_i^T. Over all rows its mean factors as

    S (x) G     S = sum_i v_i (diag(p_i) - p_i p_i^T) / h        K x K, which classes are confused with which
                G = sum_i v_i h_i z_i z_i^T                      D x D, h_i = 1 - |p_i|^2 (how unsure row i is), h = sum v_i h_i

and with G = U a U^T, S = Q s Q^T its inverse for every lambda at once is Q U / (s a + lambda) U^T Q^T. What that misses
is that classes have covariances of their own. So in the R leading directions of U, which carry most of the curvature,
the Hessian is formed as it is, for all pairs of classes, and inverted by Cholesky. The intercept is one more
direction there, and eliminated by centring in the rest.

Both come from m rows drawn with probability proportional to h_i: on 20,000 rows of 1,280 features (10 classes, C = 0.01)
conjugate gradients with the Gram matrix took over 60 passes for two digits, with exact blocks for each class 10, with
the Kronecker product alone 32, with 256 dense directions 6, and with the same from 5,000 sampled rows 7.

Source: the Kronecker factors are those of Martens & Grosse 2015 (K-FAC) for one layer.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from tle.heads.exact.products import times

_MIN_DIRECTIONS = 3
KEPT_FACTORS = 4
_TINY = 1e-30


@dataclass(frozen=True, slots=True, eq=False)
class Preconditioner:
    """An approximate inverse Hessian for any lambda.

    Attributes:
        centre_D: weighted mean of the rows; 0 without intercept.
        basis_DD: U, by descending curvature.
        curvature_D: a.
        mixing_KK: Q.
        shares_K: s, 0 for the direction that a softmax does not see.
        dense: Hessian of the R leading directions and the intercept, (K (R + 1))^2, or None.
        directions: R.
        intercept: whether there is one.
        unit: what a share of 1 is worth for the intercept: h.
        factors: the last few Cholesky factors by lambda, made when they are first needed.
    """

    centre_D: NDArray[Any]
    basis_DD: NDArray[Any]
    curvature_D: NDArray[np.float64]
    mixing_KK: NDArray[Any]
    shares_K: NDArray[np.float64]
    dense: NDArray[np.float64] | None
    directions: int
    intercept: bool
    unit: float
    factors: dict[float, Any] = field(default_factory=dict)

    def apply(
        self, grad_LKD: NDArray[Any], grad_LK: NDArray[Any], lambda_L: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Approximate inverse Hessian times a gradient, for each problem; of the type of the gradient."""
        given, dtype = grad_LKD.dtype, self.basis_DD.dtype
        grad_LKD = grad_LKD.astype(dtype, copy=False)
        grad_LKD = grad_LKD - grad_LK[:, :, None].astype(dtype) * self.centre_D if self.intercept else grad_LKD
        problems, outputs, dim = grad_LKD.shape
        rotated = (grad_LKD.reshape(-1, dim) @ self.basis_DD).reshape(problems, outputs, dim)
        step = self.mixing_KK.T @ rotated
        denominator = self.shares_K[None, :, None] * self.curvature_D + lambda_L[:, None, None]
        step /= denominator.astype(dtype)
        step[:, self.shares_K == 0.0] = 0.0
        step = self.mixing_KK @ step
        bias_LK = np.zeros_like(grad_LK)
        if self.dense is not None:
            r = self.directions
            for index in range(problems):
                right = rotated[index, :, :r]
                if self.intercept:
                    right = np.concatenate([right, grad_LK[index, :, None].astype(dtype)], axis=1)
                found = linalg.cho_solve(self._factor(float(lambda_L[index])), right.reshape(-1), check_finite=False)
                found = found.reshape(outputs, -1)
                step[index, :, :r] = found[:, :r]
                if self.intercept:
                    bias_LK[index] = found[:, r]
        elif self.intercept:
            shares_K = np.where(self.shares_K > 0, self.shares_K, np.inf) * self.unit
            bias_LK[...] = (grad_LK @ self.mixing_KK / shares_K) @ self.mixing_KK.T
        step = times(self.basis_DD, np.ascontiguousarray(step.reshape(-1, dim).T)).T.reshape(problems, outputs, dim)
        if self.intercept:
            bias_LK -= step @ self.centre_D
        return step.astype(given, copy=False), bias_LK

    def _factor(self, strength: float) -> Any:
        """Cholesky factor of the dense block at one lambda, in the type of the basis."""
        if strength not in self.factors:
            assert self.dense is not None  # noqa: S101 - for the type checker
            width = self.directions + self.intercept
            diagonal = np.full((len(self.shares_K), width), strength)
            if self.intercept:
                diagonal[:, -1] = 0.0
            if len(self.factors) == KEPT_FACTORS:
                self.factors.clear()
            self.factors[strength] = factorise(self.dense.astype(self.basis_DD.dtype), diagonal.reshape(-1))
        return self.factors[strength]


def two_level(
    z_MD: NDArray[Any], share_M: NDArray[np.float64], p_MK: NDArray[Any], unknowns: int, *, intercept: bool
) -> Preconditioner:
    """The preconditioner of the header at probabilities `p_MK` of sampled rows that stand for `share_M` each.

    Args:
        z_MD: sampled rows.
        share_M: what each stands for, sum 1.
        p_MK: probabilities.
        unknowns: of the dense block, at most.
        intercept: whether there is one.
    """
    outputs, dim = p_MK.shape[1], z_MD.shape[1]
    p_MK = p_MK.astype(np.float64)
    unsure_M = p_MK[:, 0] * (1 - p_MK[:, 0]) if outputs == 1 else (p_MK * (1 - p_MK)).sum(axis=1)
    weight_M = share_M * unsure_M
    total = float(weight_M.sum())
    centre_D, gram_DD = weighted_gram(z_MD, weight_M, intercept=intercept)
    values_D, basis_DD = linalg.eigh(gram_DD, check_finite=False, overwrite_a=True, driver="evd")
    basis_DD = np.ascontiguousarray(basis_DD[:, ::-1])
    curvature_D = values_D[::-1].astype(np.float64).clip(0.0) * total
    if outputs == 1:
        shares_K, mixing_KK = np.ones(1), np.ones((1, 1))
    else:
        confusion_KK = (np.diag(share_M @ p_MK) - (p_MK * share_M[:, None]).T @ p_MK) / total
        shares_K, mixing_KK = np.linalg.eigh(confusion_KK)
        shares_K = np.where(shares_K > 1e-9 * shares_K.max(), shares_K, 0.0)
    dense, r = None, 0
    if outputs <= unknowns // (_MIN_DIRECTIONS + 1):
        r = min(dim, unknowns // outputs - 1)
        dense = _dense(z_MD, centre_D, basis_DD[:, :r], share_M, p_MK, intercept=intercept)
    return Preconditioner(centre_D, basis_DD, curvature_D, mixing_KK.astype(z_MD.dtype), shares_K, dense, r, intercept,
                          total)  # fmt: skip


def weighted_gram(
    z_MD: NDArray[Any], weight_M: NDArray[np.float64], *, intercept: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weighted mean of some rows, or 0 without an intercept, and their weighted mean square about it, (D,) and (D, D)."""
    dtype = z_MD.dtype
    share_M = weight_M / max(float(weight_M.sum()), float(np.finfo(np.float64).tiny))
    centre_D = (share_M.astype(dtype) @ z_MD) if intercept else np.zeros(z_MD.shape[1], dtype)
    scaled_MD = (z_MD - centre_D) * np.sqrt(share_M).astype(dtype)[:, None]
    return centre_D, scaled_MD.T @ scaled_MD


def factorise(matrix: NDArray[Any], diagonal: NDArray[np.float64] | float) -> tuple[NDArray[Any], bool]:
    """Cholesky factor, for `scipy.linalg.cho_solve`, of a matrix of the curvature plus a diagonal.

    Sums carry the noise of their type: a ridge of that size keeps the factor from meeting it. Where there is more noise
    than that a larger ridge makes a worse guess, not a wrong answer.
    """
    noise = 4 * np.finfo(matrix.dtype).eps * max(float(np.diag(matrix).max()), _TINY)
    while True:
        shifted = matrix.copy(order="F")
        shifted[np.diag_indices(len(shifted))] += np.asarray(diagonal + noise, matrix.dtype)
        try:
            return linalg.cholesky(shifted, lower=True, check_finite=False, overwrite_a=True), True
        except linalg.LinAlgError:
            noise *= 8


def _dense(
    z_MD: NDArray[Any],
    centre_D: NDArray[Any],
    basis_DR: NDArray[Any],
    share_M: NDArray[np.float64],
    p_MK: NDArray[np.float64],
    *,
    intercept: bool,
) -> NDArray[np.float64]:
    """The Hessian on the leading directions: blockdiag_k(T^T diag(v p_k) T) - F^T F with rows f_i = sqrt(v_i) p_i (x) t_i."""
    dtype, outputs = z_MD.dtype, p_MK.shape[1]
    t_MR = (z_MD - centre_D) @ basis_DR
    if intercept:
        t_MR = np.concatenate([t_MR, np.ones((len(t_MR), 1), dtype)], axis=1)
    width = t_MR.shape[1]
    root_M = np.sqrt(share_M)
    if outputs == 1:
        scaled = t_MR * (root_M * np.sqrt(p_MK[:, 0] * (1 - p_MK[:, 0]))).astype(dtype)[:, None]
        return np.asarray(scaled.T @ scaled, np.float64)
    stacked = ((root_M[:, None] * p_MK).astype(dtype)[:, :, None] * t_MR[:, None, :]).reshape(len(t_MR), -1)
    dense = -(stacked.T @ stacked).astype(np.float64)
    blocks = dense.reshape(outputs, width, outputs, width)
    for index in range(outputs):
        scaled = t_MR * (root_M * np.sqrt(p_MK[:, index])).astype(dtype)[:, None]
        blocks[index, :, index] += scaled.T @ scaled
    # The direction in which all classes move together is not seen by a softmax and never asked for: made stiff, it
    # cannot spoil the factor.
    stiff = float(np.diag(dense).mean()) / outputs
    blocks += stiff * np.eye(width)[None, :, None, :]
    return np.asarray(dense, np.float64)
