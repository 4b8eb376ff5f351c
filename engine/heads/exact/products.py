"""Products of many rows with few columns; by NumPy in pieces that a BLAS multiplies without packing them first.

# B rows, D feature dim, M columns

A general product copies both matrices into panels before it multiplies; with 10 columns the copy of the rows is most of
the work. OpenBLAS has kernels without it on processors with AVX-512, for products of up to 10**6 multiply-adds
(OpenMathLib/OpenBLAS#3335), on one thread. There, 4,000 x 1,280 rows by 10 columns took 1.65 ms in pieces and 3.2 as
a whole in float32, 3.0 and 8.0 in float64; by 40 columns 4.9 and 6.3, 9.0 and 13.4. On other processors pieces are
slower (1.1 times the time of a pass), and not made.
"""

from functools import cache
from typing import Any

import numpy as np

from tle.heads.exact.device import library
from tle.heads.threads import blas_architecture, blas_thread_count

_SMALL = 10**6
_ARCHITECTURES = ("SkylakeX", "Cooperlake", "SapphireRapids")
# Fewer rows than these in a piece: the calls cost more than the packing.
_LEAST_TIMES = 16
_LEAST_ADD = 39


def times(z_BD: Any, columns_DM: Any, out: Any = None) -> Any:
    """`z_BD @ columns_DM`, (B, M), arrays or tensors of the same type, into `out` where it is given."""
    if not isinstance(z_BD, np.ndarray):
        return library(z_BD).matmul(z_BD, columns_DM, out=out)
    piece = _piece(z_BD.shape[1], columns_DM.shape[1])
    if piece < _LEAST_TIMES or piece >= len(z_BD):
        return np.matmul(z_BD, columns_DM, out=out)
    if out is None:
        out = np.empty((len(z_BD), columns_DM.shape[1]), np.result_type(z_BD, columns_DM))
    for start in range(0, len(z_BD), piece):
        np.matmul(z_BD[start : start + piece], columns_DM, out=out[start : start + piece])
    return out


def add_outer(sum_MD: Any, r_BM: Any, z_BD: Any) -> None:
    """Add `r_BM.T @ z_BD` to `sum_MD` in place; arrays or tensors, all of one type."""
    if not isinstance(z_BD, np.ndarray):
        sum_MD.addmm_(r_BM.T, z_BD)
        return
    piece = _piece(z_BD.shape[1], r_BM.shape[1])
    if piece < _LEAST_ADD or z_BD.dtype != np.float32:
        sum_MD += r_BM.T @ z_BD
        return
    part_MD = np.empty_like(sum_MD)
    for start in range(0, len(z_BD), piece):
        np.matmul(r_BM[start : start + piece].T, z_BD[start : start + piece], out=part_MD)
        sum_MD += part_MD


def _piece(dim: int, columns: int) -> int:
    """Rows of a product that has no need of packing; 0 where packing is what there is."""
    return _SMALL // max(dim * columns, 1) if _has_small_kernels() and blas_thread_count() == 1 else 0


@cache
def _has_small_kernels() -> bool:
    return blas_architecture() in _ARCHITECTURES
