"""An upper bound of the curvature that holds everywhere: what steps are made with before a solution is known.

# m sampled rows, K outputs, D feature dim, L problems

    (I - 11^T / K) / 2 (x) G for a softmax, G / 4 for a sigmoid     G = sum_i v_i z_i z_i^T, about the mean

All classes have the same share of it, so that with lambda it is inverted by one Cholesky factor: 1,280 features took 0.03 s,
and the eigenvectors that curvature with shares of its own needs 0.2.

Source: Boehning 1992, "Multinomial logistic regression algorithm".
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.exact.device import cast, dtype_of, fetch, send, zeros
from tle.heads.exact.factors import factor_of, solve
from tle.heads.exact.preconditioner import weighted_gram


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """The inverse of the bound for any lambda.

    Attributes:
        centre_D: weighted mean of the rows, an array or a tensor; 0 without intercept.
        curvature_DD: G times the share of a class, likewise.
        share: that share.
        intercept: whether there is one.
        factors: the last few Cholesky factors by lambda, made when they are first needed.
    """

    centre_D: Any
    curvature_DD: Any
    share: float
    intercept: bool
    factors: dict[float, Any] = field(default_factory=dict)

    def apply(
        self, grad_LKD: NDArray[Any], grad_LK: NDArray[Any], lambda_L: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The inverse times a gradient, for each problem; of the type of the gradient."""
        dtype = dtype_of(self.curvature_DD)
        given = grad_LK.astype(np.float64, copy=False), grad_LKD.astype(dtype, copy=False)
        bias, right = send(self.curvature_DD, *given)
        if self.intercept:
            right = right - cast(bias[:, :, None], dtype) * self.centre_D
        step = zeros(tuple(right.shape), dtype, right)
        for strength in np.unique(lambda_L):
            (rows,) = send(right, np.flatnonzero(lambda_L == strength))
            columns_DM = right[rows].reshape(-1, right.shape[2]).T
            factor = factor_of(self.factors, float(strength), self.curvature_DD, float(strength))
            step[rows] = solve(factor, columns_DM).T.reshape(-1, *right.shape[1:])
        bias = bias / self.share if self.intercept else zeros(tuple(bias.shape), np.float64, bias)
        if right.shape[1] > 1:  # what moves all classes alike is not seen by a softmax
            step -= step.mean(axis=1, keepdims=True)
            bias = bias - bias.mean(axis=1, keepdims=True)
        if self.intercept:
            bias = bias - step @ self.centre_D
        bias, step = fetch(bias, step)
        return step.astype(grad_LKD.dtype, copy=False), bias


def bound(z_MD: Any, share_M: NDArray[np.float64], outputs: int, *, intercept: bool) -> Bound:
    """The bound, from a sample.

    Args:
        z_MD: sampled rows, an array or a tensor.
        share_M: what each stands for, sum 1.
        outputs: K.
        intercept: whether there is one.
    """
    share = 0.25 if outputs == 1 else 0.5
    centre_D, gram_DD = weighted_gram(z_MD, *send(z_MD, share_M), intercept=intercept)
    gram_DD *= share
    return Bound(centre_D, gram_DD, share, intercept)
