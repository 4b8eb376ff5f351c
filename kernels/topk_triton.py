"""Triton kernel of `tle.kernels.topk`, for CUDA; imported only where it is used.

# Q queries, N bank rows, D feature dim, B queries of a block, T bank rows of a tile, P = the power of two above K

One program makes the (B, T) similarities of one tile, turns them into signed 64-bit keys (value in the high half, the
complement of the index in the low half, as `tle.kernels.topk` explains) and writes the P largest of each query. The
similarities themselves are never written. The K best of all tiles are then taken by torch; keys are unique, so there
are no ties left to break.

Products are float32 ("ieee"), float16 inputs are converted first. Keys of a chunk of tiles take 8 Q P N / T bytes, so
queries come in chunks too.

Not yet measured on a GPU. The interpreter (TRITON_INTERPRET=1 before triton is imported) runs the same kernel on CPU
tensors, slowly.
"""

# Triton has no type stubs, and what a kernel takes has no types of Python's.
# mypy: disable-error-code="import-untyped,import-not-found"
# mypy: allow-untyped-defs, allow-incomplete-defs, disallow-untyped-decorators=false

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

# Not yet measured on a GPU: 8,192 keys of a program are 64 for each of 128 threads, and the sort holds them all.
BLOCK_QUERIES = 16
TILE = 512
BLOCK_DIM = 32
QUERY_CHUNK = 4096
_MAX_BANK = 2**32 - 1


@triton.jit
def _tile_keys(
    query, bank, keys, queries, rows, dim, tiles,
    BLOCK_QUERIES: tl.constexpr, TILE: tl.constexpr, BLOCK_DIM: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    block, tile = tl.program_id(0), tl.program_id(1)
    query_B = block * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    row_T = tile * TILE + tl.arange(0, TILE)
    is_query_B, is_row_T = query_B < queries, row_T < rows
    sims_BT = tl.zeros((BLOCK_QUERIES, TILE), tl.float32)
    for start in range(0, dim, BLOCK_DIM):
        column_D = start + tl.arange(0, BLOCK_DIM)
        is_column_D = column_D < dim
        query_BD = tl.load(
            query + query_B[:, None].to(tl.int64) * dim + column_D[None, :],
            mask=is_query_B[:, None] & is_column_D[None, :],
            other=0.0,
        ).to(tl.float32)
        bank_TD = tl.load(
            bank + row_T[:, None].to(tl.int64) * dim + column_D[None, :],
            mask=is_row_T[:, None] & is_column_D[None, :],
            other=0.0,
        ).to(tl.float32)
        sims_BT += tl.dot(query_BD, tl.trans(bank_TD), input_precision="ieee")
    # + 0 turns -0.0 into 0.0. Of a negative all bits but the sign are flipped: signed integers in the order of the floats.
    bits_BT = (sims_BT + 0.0).to(tl.int32, bitcast=True)
    ordered_BT = tl.where(bits_BT < 0, bits_BT ^ 0x7FFFFFFF, bits_BT).to(tl.int64)
    key_BT = ordered_BT * 4294967296 + (4294967295 - row_T[None, :].to(tl.int64))
    key_BT = tl.where(is_row_T[None, :], key_BT, -9223372036854775807)
    best_BP = tl.topk(key_BT, KEEP)
    place_P = tl.arange(0, KEEP)
    target_BP = keys + (query_B[:, None].to(tl.int64) * tiles + tile) * KEEP + place_P[None, :]
    tl.store(target_BP, best_BP, mask=is_query_B[:, None])


def topk_triton(
    query_QD: torch.Tensor, bank_ND: torch.Tensor, k: int, *, tile: int = TILE
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `tle.kernels.topk.topk_similarity` gives, for tensors on CUDA.

    Args:
        query_QD: (Q, D) float16 or float32, contiguous.
        bank_ND: (N, D) likewise, on the same device.
        k: how many to keep, at least 1; all N where k is larger, and no more than `tile`.
        tile: bank rows of a program, a power of two of at least 16.

    Returns:
        Float32 (Q, K) similarities, descending, and int64 (Q, K) rows of the bank; of equal ones the lower row first.

    Raises:
        ValueError: shapes, types or layout are others, k is out of range, a similarity is NaN or infinite, or the tensors
            are not on CUDA and the interpreter is off.
    """
    device = query_QD.device
    if query_QD.ndim != 2 or bank_ND.ndim != 2 or query_QD.shape[1] != bank_ND.shape[1]:
        raise ValueError(f"expected query (Q, D) and bank (N, D), got {query_QD.shape} and {bank_ND.shape}")
    for tensor in (query_QD, bank_ND):
        if tensor.dtype not in (torch.float16, torch.float32) or not tensor.is_contiguous() or tensor.device != device:
            raise ValueError("expected contiguous float16 or float32 tensors on one device")
    if device.type != "cuda" and isinstance(_tile_keys, triton.JITFunction):
        raise ValueError(f"expected tensors on cuda, got {device}: move them there, or call topk_similarity")
    (queries, dim), rows = query_QD.shape, len(bank_ND)
    kept = min(k, rows)
    if k < 1 or kept > tile or rows > _MAX_BANK:
        raise ValueError(f"expected k from 1 to {tile} and at most {_MAX_BANK} bank rows, got {k} and {rows}")
    keep, tiles = triton.next_power_of_2(max(kept, 1)), triton.cdiv(rows, tile)
    values = torch.empty(queries, kept, device=device)
    indices = torch.empty(queries, kept, dtype=torch.int64, device=device)
    for start in range(0, queries if kept else 0, QUERY_CHUNK):
        chunk = query_QD[start : start + QUERY_CHUNK]
        keys = torch.empty(len(chunk), tiles * keep, dtype=torch.int64, device=device)
        # Triton launches on the current device, which need not be the one of the tensors.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            _tile_keys[triton.cdiv(len(chunk), BLOCK_QUERIES), tiles](
                chunk, bank_ND, keys, len(chunk), rows, dim, tiles,
                BLOCK_QUERIES=BLOCK_QUERIES, TILE=tile, BLOCK_DIM=BLOCK_DIM, KEEP=keep,
            )  # fmt: skip
        best = torch.topk(keys, kept, dim=1).values
        ordered = (best >> 32).to(torch.int32)
        values[start : start + len(chunk)] = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32)
        indices[start : start + len(chunk)] = 0xFFFFFFFF - (best & 0xFFFFFFFF)
    if not torch.isfinite(values).all():
        raise ValueError("a similarity is NaN or infinite: query and bank must be finite and of moderate size")
    return values, indices
