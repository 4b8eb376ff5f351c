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
from scipy import linalg

from tle.heads.exact.preconditioner import KEPT_FACTORS, factorise, weighted_gram


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """The inverse of the bound for any lambda.

    Attributes:
        centre_D: weighted mean of the rows; 0 without intercept.
        curvature_DD: G times the share of a class.
        share: that share.
        intercept: whether there is one.
        factors: the last few Cholesky factors by lambda, made when they are first needed.
    """

    centre_D: NDArray[Any]
    curvature_DD: NDArray[Any]
    share: float
    intercept: bool
    factors: dict[float, Any] = field(default_factory=dict)

    def apply(
        self, grad_LKD: NDArray[Any], grad_LK: NDArray[Any], lambda_L: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The inverse times a gradient, for each problem; of the type of the gradient."""
        given, dtype = grad_LKD.dtype, self.curvature_DD.dtype
        right = grad_LKD.astype(dtype, copy=False)
        if self.intercept:
            right = right - grad_LK[:, :, None].astype(dtype) * self.centre_D
        step = np.empty_like(right)
        for strength in np.unique(lambda_L):
            rows = lambda_L == strength
            if strength not in self.factors:
                if len(self.factors) == KEPT_FACTORS:
                    self.factors.clear()
                self.factors[strength] = factorise(self.curvature_DD, strength)
            columns_DM = right[rows].reshape(-1, right.shape[2]).T
            found = linalg.cho_solve(self.factors[strength], columns_DM, check_finite=False)
            step[rows] = found.T.reshape(-1, *right.shape[1:])
        bias_LK = grad_LK / self.share if self.intercept else np.zeros_like(grad_LK)
        if right.shape[1] > 1:  # what moves all classes alike is not seen by a softmax
            step -= step.mean(axis=1, keepdims=True)
            bias_LK = bias_LK - bias_LK.mean(axis=1, keepdims=True)
        if self.intercept:
            bias_LK = bias_LK - step @ self.centre_D
        return step.astype(given, copy=False), bias_LK


def bound(z_MD: NDArray[Any], share_M: NDArray[np.float64], outputs: int, *, intercept: bool) -> Bound:
    """The bound, from a sample.

    Args:
        z_MD: sampled rows.
        share_M: what each stands for, sum 1.
        outputs: K.
        intercept: whether there is one.
    """
    share = 0.25 if outputs == 1 else 0.5
    centre_D, gram_DD = weighted_gram(z_MD, share_M, intercept=intercept)
    gram_DD *= share
    return Bound(centre_D, gram_DD, share, intercept)
