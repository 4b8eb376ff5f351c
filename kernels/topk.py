"""The k largest inner products of each query with a bank, in bounded memory.

# Q queries, N bank rows, D feature dim, K = min(k, N) results, B rows of a block

    S = query_QD @ bank_ND.T                     (Q, N), float32 accumulation
    values_QK, indices_QK = the K largest of each row of S, descending; equal values: the lower index first

For unit vectors S is the cosine similarity. S itself is never held: it is made one (B, B') tile at a time, and each
tile is merged into the K best so far.

A value and its index are merged as one unsigned 64-bit key, so that one partial selection settles both the value and
the tie rule. IEEE floats order like sign-magnitude integers: flipping all bits of a negative and the sign bit of a
non-negative gives an unsigned integer of the same order. The key is that integer in the high half and the complement
of the index in the low half; keys are unique, and the larger key is the larger value or else the lower index.

Least I/O: 4 (Q D + N D) bytes read, 12 Q K written; the blocked version reads the bank once for each block of queries.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A tile of 256 x 8,192 is 8 MiB of float32 similarities and 16 MiB of keys. Of 256..4,096 x 2,048..65,536 on two cores
# (4,096 queries, 65,536 rows, k = 200, D = 512 and 1,280) it is within 5 % of the fastest, and the smallest: 1.5 to 2.2
# times one product `query @ bank.T` that holds everything.
QUERY_BLOCK = 256
BANK_BLOCK = 8192
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
    for start in range(0, n_queries, query_block):
        rows = slice(start, start + query_block)
        query_BD = np.ascontiguousarray(query_QD[rows], dtype=np.float32)
        keys_BK = _best_keys(query_BD, bank_ND, k, bank_block)
        keys_BK = np.sort(keys_BK, axis=1)[:, ::-1]
        values_QK[rows], indices_QK[rows] = _from_keys(keys_BK)
    return values_QK, indices_QK


def _best_keys(
    query_BD: NDArray[np.float32], bank_ND: NDArray[np.floating[Any]], k: int, bank_block: int
) -> NDArray[np.uint64]:
    """(B, k) uint64 keys of the k largest similarities of each query, in no order."""
    best_BK = np.empty((len(query_BD), 0), np.uint64)
    for start in range(0, len(bank_ND), bank_block):
        bank_BD = bank_ND[start : start + bank_block].astype(np.float32, copy=False)
        sims_BB = query_BD @ bank_BD.T
        if not np.isfinite(sims_BB).all():
            raise ValueError("a similarity is NaN or infinite: query and bank must be finite and of moderate size")
        if best_BK.shape[1] < k:
            keys_BB = np.concatenate([best_BK, _to_keys(sims_BB, start)], axis=1)
            best_BK = _largest(keys_BB, k)
            continue
        # Most tiles of a long bank change few queries: only rows whose best beats their k-th so far are merged. An
        # equal value cannot enter, since its index is higher.
        kth_B = _from_keys(best_BK.min(axis=1))[0]
        changed = np.flatnonzero(sims_BB.max(axis=1) > kth_B)
        if len(changed):
            keys_BB = np.concatenate([best_BK[changed], _to_keys(sims_BB[changed], start)], axis=1)
            best_BK[changed] = _largest(keys_BB, k)
    return best_BK


def _largest(keys_BN: NDArray[np.uint64], k: int) -> NDArray[np.uint64]:
    """The k largest of each row, in no order; all of a shorter row."""
    if keys_BN.shape[1] <= k:
        return keys_BN
    cut = keys_BN.shape[1] - k
    keys_BN.partition(cut, axis=1)
    return keys_BN[:, cut:].copy()  # a view would keep the whole tile alive


def _to_keys(sims_BN: NDArray[np.float32], first: int) -> NDArray[np.uint64]:
    """Keys of similarities whose columns are bank rows first, first + 1, ..."""
    bits = (sims_BN + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0: they are equal and must tie
    sign = np.uint32(0x80000000)
    ordered = np.where(bits & sign, ~bits, bits | sign)
    complement = np.uint64(0xFFFFFFFF) - np.arange(first, first + sims_BN.shape[1], dtype=np.uint64)
    return (ordered.astype(np.uint64) << np.uint64(32)) | complement


def _from_keys(keys: NDArray[np.uint64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Values and indices of keys, in the same shape."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    sign = np.uint32(0x80000000)
    values = np.where(ordered & sign, ordered ^ sign, ~ordered).view(np.float32)
    indices = np.uint64(0xFFFFFFFF) - (keys & np.uint64(0xFFFFFFFF))
    return values, indices.astype(np.int64)
