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

Where the rows are on a device so is their curvature: gradients go there and steps come back, each in one transfer.

Source: the Kronecker factors are those of Martens & Grosse 2015 (K-FAC) for one layer.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.exact.device import cast, dtype_of, fetch, library, send, zeros
from tle.heads.exact.factors import eigh, factor_of, solve
from tle.heads.exact.products import times

_MIN_DIRECTIONS = 3
# Classes up to which a matrix of them is decomposed: 4,000 took 18 s, and with each eight times as many operations.
MOST_COUPLED = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Preconditioner:
    """An approximate inverse Hessian for any lambda.

    Attributes, all arrays or all tensors:
        centre_D: weighted mean of the rows; 0 without intercept.
        basis_DD: U, by descending curvature.
        curvature_D: a, float64.
        mixing_KK: Q; None for 1, where the classes are too many for a matrix of them.
        shares_K: s, float64; 0 for the direction that a softmax does not see.
        dense: Hessian of the R leading directions and the intercept, (K (R + 1))^2, in the type of U, or None.
        directions: R.
        intercept: whether there is one.
        unit: what a share of 1 is worth for the intercept: h.
        factors: the last few Cholesky factors by lambda, made when they are first needed.
    """

    centre_D: Any
    basis_DD: Any
    curvature_D: Any
    mixing_KK: Any
    shares_K: Any
    dense: Any
    directions: int
    intercept: bool
    unit: float
    factors: dict[float, Any] = field(default_factory=dict)

    def apply(
        self, grad_LKD: NDArray[Any], grad_LK: NDArray[Any], lambda_L: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Approximate inverse Hessian times a gradient, for each problem; of the type of the gradient."""
        dtype = dtype_of(self.basis_DD)
        given = grad_LK.astype(np.float64, copy=False), lambda_L, grad_LKD.astype(dtype, copy=False)
        bias, strengths, grad = send(self.basis_DD, *given)
        if self.intercept:
            grad = grad - cast(bias[:, :, None], dtype) * self.centre_D
        problems, outputs, dim = grad.shape
        rotated = (grad.reshape(-1, dim) @ self.basis_DD).reshape(problems, outputs, dim)
        step = 1.0 * rotated if self.mixing_KK is None else self.mixing_KK.T @ rotated
        step /= cast(self.shares_K[None, :, None] * self.curvature_D + strengths[:, None, None], dtype)
        step[:, self.shares_K == 0.0] = 0.0
        step = step if self.mixing_KK is None else self.mixing_KK @ step
        step_bias = zeros((problems, outputs), np.float64, step)
        if self.dense is not None:
            r = self.directions
            for index, strength in enumerate(lambda_L):
                right = zeros((outputs, r + self.intercept), dtype, step)
                right[:, :r] = rotated[index, :, :r]
                if self.intercept:
                    right[:, r] = bias[index]
                found = solve(self._factor(float(strength)), right.reshape(-1, 1)).reshape(outputs, -1)
                step[index, :, :r] = found[:, :r]
                if self.intercept:
                    step_bias[index] = found[:, r]
        elif self.intercept:
            shares_K = library(step).where(self.shares_K > 0, self.shares_K, np.inf) * self.unit
            if self.mixing_KK is None:
                step_bias[...] = bias / shares_K
            else:
                mixing_KK = cast(self.mixing_KK, np.float64)
                step_bias[...] = (bias @ mixing_KK / shares_K) @ mixing_KK.T
        step = _times_transposed(step.reshape(-1, dim), self.basis_DD).reshape(problems, outputs, dim)
        if self.intercept:
            step_bias -= step @ self.centre_D
        step_bias, step = fetch(step_bias, step)
        return step.astype(grad_LKD.dtype, copy=False), step_bias

    def _factor(self, strength: float) -> Any:
        """Cholesky factor of the dense block at one lambda."""
        diagonal = np.full((len(self.shares_K), self.directions + self.intercept), strength)
        if self.intercept:
            diagonal[:, -1] = 0.0
        return factor_of(self.factors, strength, self.dense, diagonal.reshape(-1))


def _times_transposed(rows_MD: Any, basis_DD: Any) -> Any:
    """`rows_MD @ basis_DD.T`, (M, D), with few rows; by NumPy as a product of many rows with few columns."""
    if not isinstance(rows_MD, np.ndarray):
        return rows_MD @ basis_DD.T
    return times(basis_DD, np.ascontiguousarray(rows_MD.T)).T


def two_level(z_MD: Any, share_M: NDArray[np.float64], p_MK: Any, unknowns: int, *, intercept: bool) -> Preconditioner:
    """The preconditioner of the header at probabilities `p_MK` of sampled rows that stand for `share_M` each.

    Args:
        z_MD: sampled rows, an array or a tensor.
        share_M: what each stands for, sum 1.
        p_MK: probabilities, like the rows.
        unknowns: of the dense block, at most.
        intercept: whether there is one.
    """
    outputs, dim = p_MK.shape[1], z_MD.shape[1]
    (share_M,), p_MK, xp = send(z_MD, share_M), cast(p_MK, np.float64), library(z_MD)
    unsure_M = p_MK[:, 0] * (1 - p_MK[:, 0]) if outputs == 1 else (p_MK * (1 - p_MK)).sum(axis=1)
    weight_M = share_M * unsure_M
    total = float(weight_M.sum())
    centre_D, gram_DD = weighted_gram(z_MD, weight_M, intercept=intercept)
    values_D, basis_DD = eigh(gram_DD)
    curvature_D = cast(values_D, np.float64).clip(0.0) * total
    mixing_KK = None
    if outputs == 1:
        shares_K = zeros(1, np.float64, z_MD) + 1.0
    elif outputs > MOST_COUPLED:
        shares_K = share_M @ (p_MK * (1 - p_MK)) / total
    else:
        confusion_KK = (xp.diag(share_M @ p_MK) - (p_MK * share_M[:, None]).T @ p_MK) / total
        shares_K, mixing_KK = eigh(confusion_KK)
        shares_K = xp.where(shares_K > 1e-9 * shares_K.max(), shares_K, 0.0)
    dense, r = None, 0
    if outputs <= unknowns // (_MIN_DIRECTIONS + 1):
        r = min(dim, unknowns // outputs - 1)
        dense = cast(_dense(z_MD, centre_D, basis_DD[:, :r], share_M, p_MK, intercept=intercept), dtype_of(z_MD))
    mixing_KK = None if mixing_KK is None else cast(mixing_KK, dtype_of(z_MD))
    return Preconditioner(centre_D, basis_DD, curvature_D, mixing_KK, shares_K, dense, r, intercept, total)


def weighted_gram(z_MD: Any, weight_M: Any, *, intercept: bool) -> tuple[Any, Any]:
    """Weighted mean of some rows, or 0 without an intercept, and their weighted mean square about it, (D,) and (D, D)."""
    dtype = dtype_of(z_MD)
    share_M = weight_M / max(float(weight_M.sum()), float(np.finfo(np.float64).tiny))
    centre_D = cast(share_M, dtype) @ z_MD if intercept else zeros(z_MD.shape[1], dtype, z_MD)
    scaled_MD = (z_MD - centre_D) * cast(library(z_MD).sqrt(share_M), dtype)[:, None]
    return centre_D, scaled_MD.T @ scaled_MD


def _dense(z_MD: Any, centre_D: Any, basis_DR: Any, share_M: Any, p_MK: Any, *, intercept: bool) -> Any:
    """The Hessian on the leading directions: blockdiag_k(T^T diag(v p_k) T) - F^T F with rows f_i = sqrt(v_i) p_i (x) t_i."""
    dtype, outputs, xp = dtype_of(z_MD), p_MK.shape[1], library(z_MD)
    width = basis_DR.shape[1] + intercept
    t_MR = zeros((len(z_MD), width), dtype, z_MD)
    t_MR[:, : basis_DR.shape[1]] = (z_MD - centre_D) @ basis_DR
    if intercept:
        t_MR[:, -1] = 1.0
    root_M = xp.sqrt(share_M)
    if outputs == 1:
        scaled = t_MR * cast(root_M * xp.sqrt(p_MK[:, 0] * (1 - p_MK[:, 0])), dtype)[:, None]
        return cast(scaled.T @ scaled, np.float64)
    stacked = (cast(root_M[:, None] * p_MK, dtype)[:, :, None] * t_MR[:, None, :]).reshape(len(t_MR), -1)
    dense = -cast(stacked.T @ stacked, np.float64)
    blocks = dense.reshape(outputs, width, outputs, width)
    for index in range(outputs):
        scaled = t_MR * cast(root_M * xp.sqrt(p_MK[:, index]), dtype)[:, None]
        blocks[index, :, index] += scaled.T @ scaled
    # The direction in which all classes move together is not seen by a softmax and never asked for: made stiff, it
    # cannot spoil the factor.
    stiff = float(xp.diagonal(dense).mean()) / outputs
    blocks += stiff * xp.diag(zeros(width, np.float64, dense) + 1.0)[None, :, None, :]
    return dense
