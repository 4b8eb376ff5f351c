"""The k largest inner products of each query with a bank, in bounded memory.

# Q queries, N bank rows, D feature dim, K = min(k, N) results, B rows of a block, R rows of a block that change
# M candidates of a block, of all its rows together; C = the most of any one row

    S = query_QD @ bank_ND.T                     (Q, N), float32 accumulation
    values_QK, indices_QK = the K largest of each row of S, descending; equal values: the lower index first

For unit vectors S is the cosine similarity. S itself is never held: it is made one (B, B') tile at a time, and each
tile is merged into the K best so far.

A tile costs its product and little else. What can enter is what is above the K-th best of its row so far, which one
comparison finds; after the first tiles those are few, and only they are merged. In the first tile the K-th largest value
of the tile itself stands in for it, ties with it included.

A value and its index are merged as one unsigned 64-bit key, so that one partial selection settles both the value and
the tie rule. IEEE floats order like sign-magnitude integers: flipping all bits of a negative and the sign bit of a
non-negative gives an unsigned integer of the same order. The key is that integer in the high half and the complement
of the index in the low half; keys are unique, and the larger key is the larger value or else the lower index. The key 0
belongs to no number and fills rows up.

Least I/O: 4 (Q D + N D) bytes read, 12 Q K written; the blocked version reads the bank once for each block of queries,
and converts a float16 bank that often, into one buffer.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.kernels.gram import copy_rows

# A tile of 512 x 4,096 is 8 MiB of float32 similarities. On one core with D = 1,280 and k = 20 its product takes 55 ms
# (99 GFLOP/s, what larger products reach too), and finding what can enter below 1 ms.
QUERY_BLOCK = 512
BANK_BLOCK = 4096
# From where on the way by 8-bit products is taken: below, its conversions and its single float32 products cost more.
INT8_QUERIES = 256
INT8_BANK = 8192
INT8_BANK_PER_K = 100
INT8_DIM = 64
_MAX_BANK = 2**32 - 1


def topk_bytes(queries: int, bank: int, dim: int, k: int) -> int:
    """Least bytes that a top-k of float32 inputs moves: both inputs once, and (float32, int64) results."""
    return 4 * dim * (queries + bank) + 12 * queries * min(k, bank)


def topk_similarity_ref(
    query_QD: NDArray[np.floating[Any]], bank_ND: NDArray[np.floating[Any]], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The definition: the whole similarity matrix and a stable sort. Takes and returns what `topk_similarity` does."""
    sims_QN = query_QD.astype(np.float32) @ bank_ND.astype(np.float32).T
    order_QK = np.argsort(-sims_QN, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(sims_QN, order_QK, axis=1), order_QK.astype(np.int64)


def topk_similarity(
    query_QD: NDArray[np.floating[Any]],
    bank_ND: NDArray[np.floating[Any]],
    k: int,
    *,
    query_block: int = QUERY_BLOCK,
    bank_block: int = BANK_BLOCK,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k bank rows of largest inner product with each query.

    Args:
        query_QD: (Q, D) float16, float32 or float64, finite; computed in float32.
        bank_ND: (N, D) likewise; N below 2**32.
        k: how many to keep, at least 1; all N where k is larger.
        query_block: queries of a tile.
        bank_block: bank rows of a tile.

    Returns:
        values_QK, float32 (Q, K), descending; indices_QK, int64 (Q, K), rows of the bank; K = min(k, N). Of equal
        values the one with the lower index comes first, and is kept first.

    Raises:
        ValueError: the shapes do not match, k or a block is below 1, the bank is too long, or a similarity is NaN or
            infinite.
    """
    if query_QD.ndim != 2 or bank_ND.ndim != 2 or query_QD.shape[1] != bank_ND.shape[1]:
        raise ValueError(f"expected query (Q, D) and bank (N, D), got {query_QD.shape} and {bank_ND.shape}")
    if min(k, query_block, bank_block) < 1:
        raise ValueError(f"k and the blocks must be at least 1, got {k}, {query_block} and {bank_block}")
    n_queries, n_bank = len(query_QD), len(bank_ND)
    if n_bank > _MAX_BANK:
        raise ValueError(f"the bank may have at most {_MAX_BANK} rows, got {n_bank}")
    k = min(k, n_bank)
    values_QK = np.empty((n_queries, k), np.float32)
    indices_QK = np.empty((n_queries, k), np.int64)
    if not n_bank:
        return values_QK, indices_QK
    if (found := _by_int8(query_QD, bank_ND, k)) is not None:
        return found
    tile = _Tile(query_block, bank_ND, min(bank_block, n_bank))
    for start in range(0, n_queries, query_block):
        rows = slice(start, start + query_block)
        query_BD = np.ascontiguousarray(query_QD[rows], dtype=np.float32)
        keys_BK = _best_keys(query_BD, tile, k)
        keys_BK = np.sort(keys_BK, axis=1)[:, ::-1]
        values_QK[rows], indices_QK[rows] = from_keys(keys_BK)
    return values_QK, indices_QK


def _by_int8(
    query_QD: NDArray[np.floating[Any]], bank_ND: NDArray[np.floating[Any]], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """The same by 8-bit products, where the machine has them and there is enough to find; see `tle.kernels.topk_int8`."""
    pays = len(query_QD) >= INT8_QUERIES and len(bank_ND) >= max(INT8_BANK, INT8_BANK_PER_K * k)
    if not pays or query_QD.shape[1] < INT8_DIM or bank_ND.dtype not in (np.float16, np.float32):
        return None
    import torch

    # The capability and not a timing, so that the same machine gives the same bits.
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not hasattr(torch, "_int_mm"):
        return None
    from tle.kernels.topk_int8 import topk_int8

    return topk_int8(np.ascontiguousarray(query_QD, dtype=np.float32), bank_ND, k)


class _Tile:
    """The tiles of the similarities, one after the other in the same memory.

    A fresh array a tile would cost a page fault for every 4 KiB of it; numpy's own conversion of float16 runs at
    1 GB/s, torch's at 12 to 30.
    """

    def __init__(self, query_block: int, bank_ND: NDArray[np.floating[Any]], bank_block: int) -> None:
        self._bank_ND = bank_ND
        self._step = bank_block
        self._sims = np.empty(query_block * bank_block, np.float32)
        self._zeros_N = np.zeros(bank_block, np.float32)
        direct = bank_ND.dtype == np.float32 and bank_ND.flags.c_contiguous
        self._rows_BD = None if direct else np.empty((bank_block, bank_ND.shape[1]), np.float32)

    def similarities(self, query_BD: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(First bank row, (B, B') similarities) of every tile, in order; valid until the next is asked for."""
        for start in range(0, len(self._bank_ND), self._step):
            bank_BD = self._float32(self._bank_ND[start : start + self._step])
            sims_BB = self._sims[: len(query_BD) * len(bank_BD)].reshape(len(query_BD), len(bank_BD))
            with np.errstate(over="ignore", invalid="ignore"):  # said just below
                np.matmul(query_BD, bank_BD.T, out=sims_BB)
                check_B = sims_BB @ self._zeros_N[: len(bank_BD)]  # 0 times NaN or infinity is NaN, and numbers give 0
            if np.isnan(check_B).any():
                raise ValueError("a similarity is NaN or infinite: query and bank must be finite and of moderate size")
            yield start, sims_BB

    def _float32(self, rows_BD: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        if self._rows_BD is None:
            return np.asarray(rows_BD, np.float32)  # they are
        into_BD = self._rows_BD[: len(rows_BD)]
        copy_rows(rows_BD, into_BD)
        return into_BD


def _best_keys(query_BD: NDArray[np.float32], tile: _Tile, k: int) -> NDArray[np.uint64]:
    """(B, k) uint64 keys of the k largest similarities of each query, in no order."""
    best_BK = np.zeros((len(query_BD), k), np.uint64)
    full = False  # whether k similarities have been seen
    for start, sims_BB in tile.similarities(query_BD):
        if full:
            # An equal value cannot enter, since its index is higher.
            enters_BB = sims_BB > from_keys(best_BK.min(axis=1))[0][:, None]
        elif sims_BB.shape[1] > k:
            enters_BB = sims_BB >= np.partition(sims_BB, -k, axis=1)[:, -k, None]
        else:
            enters_BB = np.ones(sims_BB.shape, bool)
        entering_M = np.flatnonzero(enters_BB)
        row_M, column_M = np.divmod(entering_M, sims_BB.shape[1])
        merge_keys(best_BK, row_M, to_keys(sims_BB.reshape(-1)[entering_M], start + column_M))
        full = full or start + sims_BB.shape[1] >= k
    return best_BK


def merge_keys(best_BK: NDArray[np.uint64], row_M: NDArray[np.int64], keys_M: NDArray[np.uint64]) -> None:
    """Put keys into the best of their rows, in place.

    Args:
        best_BK: the K best of each row, in no order; 0 where there are fewer.
        row_M: ascending, the row that each key belongs to.
        keys_M: what may enter.
    """
    if not len(row_M):
        return
    k = best_BK.shape[1]
    rows_R, starts_R, counts_R = np.unique(row_M, return_index=True, return_counts=True)
    keys_RC = np.zeros((len(rows_R), k + int(counts_R.max())), np.uint64)
    keys_RC[:, :k] = best_BK[rows_R]
    position_M = np.arange(len(row_M)) - np.repeat(starts_R, counts_R)
    keys_RC[np.repeat(np.arange(len(rows_R)), counts_R), k + position_M] = keys_M
    cut = keys_RC.shape[1] - k
    keys_RC.partition(cut, axis=1)
    best_BK[rows_R] = keys_RC[:, cut:]


def to_keys(sims_M: NDArray[np.float32], index_M: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Keys of similarities and the bank rows that they belong to."""
    bits = (sims_M + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0: they are equal and must tie
    sign = np.uint32(0x80000000)
    ordered = np.where(bits & sign, ~bits, bits | sign)
    return (ordered.astype(np.uint64) << np.uint64(32)) | (np.uint64(0xFFFFFFFF) - index_M.astype(np.uint64))


def from_keys(keys: NDArray[np.uint64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Values and indices of keys, in the same shape."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    sign = np.uint32(0x80000000)
    values = np.where(ordered & sign, ordered ^ sign, ~ordered).view(np.float32)
    indices = np.uint64(0xFFFFFFFF) - (keys & np.uint64(0xFFFFFFFF))
    return values, indices.astype(np.int64)
