"""Decompositions of symmetric matrices, by SciPy's LAPACK, or by torch where the matrix is a tensor.

# D rows and columns, M right-hand sides
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from tle.heads.exact.device import cast, dtype_of, library, send

_TINY = 1e-30
_KEPT_FACTORS = 4


def eigh(matrix_DD: Any) -> tuple[Any, Any]:
    """Eigenvalues, largest first, and contiguous eigenvectors, (D,) and (D, D); the matrix may be overwritten.

    Raises:
        LinAlgError: NumPy's; the matrix is not finite.
    """
    if isinstance(matrix_DD, np.ndarray):
        values_D, basis_DD = linalg.eigh(matrix_DD, check_finite=False, overwrite_a=True, driver="evd")
        return values_D[::-1], np.ascontiguousarray(basis_DD[:, ::-1])
    xp = library(matrix_DD)
    try:
        values_D, basis_DD = xp.linalg.eigh(matrix_DD)
    except xp.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(str(error)) from error
    return xp.flip(values_D, (0,)), xp.flip(basis_DD, (1,)).contiguous()


def factorise(matrix_DD: Any, diagonal: NDArray[np.float64] | float) -> Any:
    """Lower Cholesky factor of a matrix of the curvature plus a diagonal, for `solve`.

    Sums carry the noise of their type: a ridge of that size keeps the factor from meeting it. Where there is more noise
    than that a larger ridge makes a worse guess, not a wrong answer.

    Raises:
        LinAlgError: NumPy's; the matrix is not finite.
    """
    largest = float(library(matrix_DD).diagonal(matrix_DD).max())
    if not np.isfinite(largest):
        raise np.linalg.LinAlgError("the matrix is not finite")
    noise = 4 * float(np.finfo(dtype_of(matrix_DD)).eps) * max(largest, _TINY)
    while (factor_DD := _cholesky(matrix_DD, np.full(len(matrix_DD), 1.0) * diagonal + noise)) is None:
        noise *= 8
    return factor_DD


def factor_of(factors: dict[float, Any], strength: float, matrix_DD: Any, diagonal: NDArray[np.float64] | float) -> Any:
    """What `factorise` gives for a strength, out of those that are there; they are the last few."""
    if strength not in factors:
        if len(factors) == _KEPT_FACTORS:
            factors.clear()
        factors[strength] = factorise(matrix_DD, diagonal)
    return factors[strength]


def solve(factor_DD: Any, right_DM: Any) -> Any:
    """The inverse of what was factorised times some columns, (D, M)."""
    if isinstance(factor_DD, np.ndarray):
        return linalg.cho_solve((factor_DD, True), right_DM, check_finite=False)
    return library(factor_DD).cholesky_solve(right_DM, factor_DD)


def _cholesky(matrix_DD: Any, diagonal_D: NDArray[np.float64]) -> Any:
    """The factor of the sum; None where that is not positive definite."""
    if isinstance(matrix_DD, np.ndarray):
        shifted_DD = matrix_DD.copy(order="F")
        shifted_DD[np.diag_indices(len(shifted_DD))] += diagonal_D.astype(matrix_DD.dtype)
        try:
            return linalg.cholesky(shifted_DD, lower=True, check_finite=False, overwrite_a=True)
        except linalg.LinAlgError:
            return None
    (added_D,) = send(matrix_DD, diagonal_D)
    shifted_DD = matrix_DD.clone()
    shifted_DD.diagonal().add_(cast(added_D, dtype_of(matrix_DD)))
    factor_DD, failed = library(matrix_DD).linalg.cholesky_ex(shifted_DD)
    return None if int(failed) else factor_DD
