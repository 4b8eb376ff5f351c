"""Exact leave-one-out of ridge regression, for a whole grid of alphas from one eigendecomposition.

# n samples, D feature dim, K targets, A alphas, R eigenvalues, B rows of a block

Without sample i, the prediction for it is off by

    e_i = (y_i - f_i) / (1 - h_i)        f: the prediction of the fit on all n,  h_i: the i-th diagonal of the hat matrix

    n > D:   h_i(alpha) = 1/n + sum_r p_ir^2 / (l_r + alpha)          P = Z V, of Z^T Z = V L V^T
    n <= D:  1 - h_i(alpha) = alpha sum_r u_ir^2 / (l_r + alpha)      of Z Z^T = U L U^T, without the vector of ones
             y_i - f_i      = alpha sum_r u_ir (U^T y)_r / (l_r + alpha)

The 1/n is the intercept's. The second form has no difference of nearly equal numbers, which n <= D and a small alpha would
make of the first. All alphas share the products: P once, P^2 with an (R, A) matrix, P with an (R, A K) one, a block of
rows at a time; nothing of n x R x A is ever made. Scaler and mean are those of all samples, as everywhere where a scaler
stands in front of `RidgeCV`.

Source: Golub, Heath and Wahba 1979, "Generalized cross-validation as a method for choosing a good ridge parameter".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Below this, 1 - h_i is rounding: a sample that alone decides its own prediction says nothing of a strength.
LEAST = 1e-10
_BLOCK_VALUES = 2**21  # 16 MiB of float64 for all alphas and targets of a block


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """Errors of every alpha, each sample predicted without itself.

    Attributes:
        alphas_A: float64 (A,).
        mse_A: float64 (A,), mean over samples and targets of the squared error.
        rest_nA: float32 (n, A), 1 - h.
    """

    alphas_A: NDArray[np.float64]
    mse_A: NDArray[np.float64]
    rest_nA: NDArray[np.float32]

    @property
    def best(self) -> int:
        """Index of the alpha of the least error; of equal ones the largest alpha, whatever their order."""
        return int(np.lexsort((-self.alphas_A, self.mse_A))[0])

    def curve(self) -> list[dict[str, float]]:
        """JSON-able, in the order of the alphas."""
        return [{"alpha": float(a), "mse": float(e)} for a, e in zip(self.alphas_A, self.mse_A, strict=True)]


class Collector:
    """Takes blocks of rows in the basis of the eigenvectors and adds up their errors.

    Args:
        values_R: eigenvalues, none negative.
        projected_RK: V^T Z^T Y, or U^T Y.
        alphas_A: strengths, above 0.
        n: how many samples there are.
        complement: whether the rows are those of U (n <= D), else of P.
    """

    def __init__(
        self,
        values_R: NDArray[np.float64],
        projected_RK: NDArray[np.float64],
        alphas_A: NDArray[np.float64],
        n: int,
        *,
        complement: bool,
    ) -> None:
        self._alphas_A, self._n, self._complement = alphas_A, n, complement
        self._inverse_RA = 1.0 / (values_R[:, None] + alphas_A)
        if complement:
            self._inverse_RA *= alphas_A
        self._projected_RK = projected_RK
        self._square_A = np.zeros(len(alphas_A))
        self._rest_nA = np.empty((n, len(alphas_A)), np.float32)

    def add(self, start: int, basis_BR: NDArray[np.float64], target_BK: NDArray[np.float64]) -> None:
        """Add rows start, start + 1, ... of P or U; the targets are centred."""
        rest_BA = np.square(basis_BR) @ self._inverse_RA
        if not self._complement:
            rest_BA = (1.0 - 1.0 / self._n) - rest_BA
        rest_BA = rest_BA.clip(LEAST)
        self._rest_nA[start : start + len(rest_BA)] = rest_BA
        n_rows, n_targets = target_BK.shape
        # As many alphas at a time as fit: their products share one pass over the block.
        step = max(1, _BLOCK_VALUES // max(1, n_rows * n_targets))
        for first in range(0, len(self._alphas_A), step):
            alphas = slice(first, first + step)
            coefficient_RAK = self._inverse_RA[:, alphas, None] * self._projected_RK[:, None, :]
            product = basis_BR @ coefficient_RAK.reshape(len(coefficient_RAK), -1)
            error_BAK = product.reshape(n_rows, -1, n_targets)
            if not self._complement:
                np.subtract(target_BK[:, None, :], error_BAK, out=error_BAK)
            error_BAK /= rest_BA[:, alphas, None]
            self._square_A[alphas] += np.einsum("bak,bak->a", error_BAK, error_BAK)

    def result(self) -> LeaveOneOut:
        """The errors of all samples."""
        mse_A = self._square_A / (self._n * self._projected_RK.shape[1])
        return LeaveOneOut(self._alphas_A, mse_A, self._rest_nA)
