"""The k largest inner products, found by 8-bit products and settled by float32 ones: exact, for CPUs with 8-bit units.

# Q queries, N bank rows, D feature dim, B rows of a block, K results, M candidates of a block, m of one query

    q = theta q8 + e_q,  b = beta b8 + e_b           q8, b8: whole numbers from -127 to 127

    | q . b  -  theta beta (q8 . b8) |  <=  |q| |e_b| + |e_q| |b - e_b|         (Cauchy and Schwarz)

The right side, its maximum over a tile of the bank, is known before any product. A bank row whose approximate product is
more than that below what k others are sure to have cannot be among the k best; what is left, on features of networks
about twice k rows of a bank of 20,000, is computed in float32. Rounding of float32 is in the bound. So the result is that of
`tle.kernels.topk` up to the rounding of the similarities; equal bank rows give equal similarities, hence exact ties.

The bank is the outer loop: each of its tiles is converted once for all queries, and no copy of the bank is kept.

On one core with AVX512-VNNI (512 x 4,096, D = 1,280) an 8-bit product runs at 418 GOP/s, a float32 one at 91 to 105.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tle.kernels.gram import as_tensor, copy_rows

QUERY_BLOCK = 512
BANK_BLOCK = 4096
# Rows that are left for float32, as a share of all: where the bound does not separate, plain float32 is faster.
MOST_LEFT = 0.05
# Bank rows that are gathered at a time for their float32 products.
_GATHERED = 2048
_EPSILON = float(np.finfo(np.float32).eps)


class _Rows:
    """Rows as 8-bit numbers, each with its own step.

    Attributes:
        whole_ND: int8 (N, D).
        step_N: float32 (N,).
        error_N: float32 (N,), length of what the whole numbers miss, at least.
        length_N: float32 (N,), length of the row, at least.
    """

    def __init__(self, x_ND: torch.Tensor, scratch_ND: torch.Tensor) -> None:
        """Convert rows; the scratch, of their shape, is overwritten."""
        peak_N1 = torch.abs(x_ND, out=scratch_ND).amax(dim=1, keepdim=True)  # a fifth of the time of torch.aminmax
        step_N1 = torch.where(peak_N1 > 0, peak_N1 / 127, 1.0)
        torch.mul(x_ND, 1 / step_N1, out=scratch_ND)
        self.whole_ND = scratch_ND.round_().to(torch.int8)
        self.step_N = step_N1[:, 0].numpy()
        slack = 1 + 2 * _EPSILON * x_ND.shape[1]  # the lengths are sums that are rounded too
        self.length_N = torch.linalg.vector_norm(x_ND, dim=1).mul_(slack).numpy()
        torch.addcmul(x_ND, scratch_ND, step_N1, value=-1, out=scratch_ND)
        self.error_N = torch.linalg.vector_norm(scratch_ND, dim=1).mul_(slack).numpy()


def topk_int8(
    query_QD: NDArray[np.float32], bank_ND: NDArray[np.floating[Any]], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """The k best bank rows of each query, as `tle.kernels.topk.topk_similarity` gives them.

    Args:
        query_QD: (Q, D), contiguous, finite.
        bank_ND: (N, D) float16 or float32, finite.
        k: at most N.

    Returns:
        Values and indices; None where the bound leaves more than `MOST_LEFT` of the bank, or something is not finite.
    """
    from tle.kernels.topk import from_keys, merge_keys, to_keys

    n_queries, (n_bank, dim) = len(query_QD), bank_ND.shape
    blocks = [slice(start, min(start + QUERY_BLOCK, n_queries)) for start in range(0, n_queries, QUERY_BLOCK)]
    scratch_ND = torch.empty(max(QUERY_BLOCK, BANK_BLOCK), dim)
    queries = [_Rows(as_tensor(query_QD[block]), scratch_ND[: block.stop - block.start]) for block in blocks]
    if not all(np.isfinite(own.length_N + own.error_N).all() for own in queries):
        return None
    best = [np.zeros((block.stop - block.start, k), np.uint64) for block in blocks]  # keys of lower bounds
    found: list[list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]] = [[] for _ in blocks]
    budget = MOST_LEFT * n_bank * n_queries
    # Fresh arrays of this size would cost a page fault for every 4 KiB.
    products, approximate = (
        torch.empty(QUERY_BLOCK * BANK_BLOCK, dtype=torch.int32),
        torch.empty(QUERY_BLOCK * BANK_BLOCK),
    )
    rows_BD = np.empty((min(BANK_BLOCK, n_bank), dim), np.float32)
    for first in range(0, n_bank, BANK_BLOCK):
        tile_BD = bank_ND[first : first + BANK_BLOCK]
        if tile_BD.dtype != np.float32 or not (tile_BD.flags.c_contiguous and tile_BD.flags.writeable):
            copy_rows(tile_BD, rows_BD[: len(tile_BD)])
            tile_BD = rows_BD[: len(tile_BD)]
        bank = _Rows(torch.from_numpy(tile_BD), scratch_ND[: len(tile_BD)])
        most_missed, most_length = float(bank.error_N.max()), float(bank.length_N.max())
        if not np.isfinite(most_missed + most_length):
            return None
        for number, own in enumerate(queries):
            shape = (len(own.step_N), len(tile_BD))
            whole_BB, sims_BB = (
                products[: shape[0] * shape[1]].view(shape),
                approximate[: shape[0] * shape[1]].view(shape),
            )
            torch._int_mm(own.whole_ND, bank.whole_ND.t(), out=whole_BB)
            # Converted first: a product of both types takes three times as long.
            sims_BB.copy_(whole_BB).mul_(torch.from_numpy(bank.step_N))
            sims = sims_BB.numpy()
            # In units of the query's step, as the approximate products are.
            own_length_B, own_error_B = own.length_N / own.step_N, own.error_N / own.step_N
            rounding_B = 4 * _EPSILON * dim * own_length_B * most_length
            bound_B = own_length_B * most_missed + own_error_B * (most_length + most_missed) + rounding_B
            if first:
                least_B = from_keys(best[number].min(axis=1))[0] - bound_B
            elif len(tile_BD) > k:
                least_B = torch.topk(sims_BB, k, dim=1, sorted=False).values.amin(dim=1).numpy() - 2 * bound_B
            else:
                return None
            entering_M = np.flatnonzero(sims >= least_B[:, None])
            budget -= len(entering_M) if first else 0
            if budget < 0:
                return None
            row_M, column_M = np.divmod(entering_M, len(tile_BD))
            value_M = sims.reshape(-1)[entering_M]
            # Of those that enter each has a bound of its own, which is less.
            missed_M, length_M = bank.error_N[column_M], bank.length_N[column_M]
            bound_M = own_length_B[row_M] * missed_M + own_error_B[row_M] * (length_M + missed_M) + rounding_B[row_M]
            merge_keys(best[number], row_M, to_keys(value_M - bound_M, first + column_M))
            found[number].append((row_M, first + column_M, value_M + bound_M))
    values_QK, indices_QK = np.empty((n_queries, k), np.float32), np.empty((n_queries, k), np.int64)
    for block, keys_BK, parts in zip(blocks, best, found, strict=True):
        row_M, index_M, upper_M = (np.concatenate(part) for part in zip(*parts, strict=True))
        left = upper_M >= from_keys(keys_BK.min(axis=1))[0][row_M]
        row_M, index_M = row_M[left], index_M[left]
        order_M = np.argsort(row_M, kind="stable")
        row_M, index_M = row_M[order_M], index_M[order_M]
        ends_B = np.cumsum(np.bincount(row_M, minlength=len(keys_BK)))
        keys_M = to_keys(_products(bank_ND, index_M, query_QD[block], ends_B), index_M)
        keys_M = keys_M[np.lexsort((keys_M, row_M))]
        values_QK[block], indices_QK[block] = from_keys(keys_M[ends_B[:, None] - np.arange(1, k + 1)])
    return (values_QK, indices_QK) if np.isfinite(values_QK).all() else None


def _products(
    bank_ND: NDArray[np.floating[Any]],
    index_M: NDArray[np.int64],
    query_BD: NDArray[np.float32],
    ends_B: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Products of each query with bank rows of its own, each summed in the same order: equal rows, equal products.

    Args:
        bank_ND: bank.
        index_M: the rows of the first query, of the second, and so on.
        query_BD: queries.
        ends_B: where in `index_M` those of each query end.
    """
    bank, index = as_tensor(bank_ND), torch.from_numpy(index_M)
    products_M, starts_B = np.empty(len(index_M), np.float32), np.concatenate([[0], ends_B])
    # One piece of memory for all of them: fresh ones would cost a page fault for every 4 KiB.
    scratch_MD = torch.empty(max(_GATHERED, int(np.diff(starts_B).max())), bank.shape[1], dtype=bank.dtype)
    first, last, rows_MD = 0, 0, query_BD
    for query, (start, end) in enumerate(pairwise(starts_B)):
        if end > last:  # many queries' rows at once: by all threads
            first, last = start, max(end, starts_B[np.searchsorted(starts_B, start + _GATHERED, side="right") - 1])
            gathered_MD = scratch_MD[: last - first]
            torch.index_select(bank, 0, index[first:last], out=gathered_MD)
            rows_MD = gathered_MD.float().numpy()
        products_M[start:end] = np.einsum("md,d->m", rows_MD[start - first : end - first], query_BD[query])
    return products_M
