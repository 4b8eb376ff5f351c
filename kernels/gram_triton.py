"""Triton kernel of `tle.kernels.gram`, for CUDA; imported only where it is used.

# N rows, D feature dim, S splits of the rows, B rows of a block, T columns of a tile

One program makes one (T, T) tile of the lower triangle from one of S equal splits of the rows: float32 products of a
block of B shifted rows ("ieee": TF32 would leave 10 bits), added up in float64. The splits are added by torch, in their
order, so that the same input gives the same sums. The diagonal tiles give the sums of the columns too.

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

# Not yet measured on a GPU: 4,096 float64 sums of a program are 32 for each of 128 threads.
TILE = 64
BLOCK_ROWS = 64
# Splits keep all processors busy where there are few tiles; each costs 8 D^2 bytes.
MAX_SPLITS = 8
LEAST_SPLIT_ROWS = 2048


@triton.jit
def _gram(x, shift, gram, sums, rows, dim, split_rows, tiles, BLOCK_ROWS: tl.constexpr, TILE: tl.constexpr):
    tile, split = tl.program_id(0), tl.program_id(1)
    across, down = tile % tiles, tile // tiles
    if across > down:
        return
    left_T, right_T = down * TILE + tl.arange(0, TILE), across * TILE + tl.arange(0, TILE)
    is_left_T, is_right_T = left_T < dim, right_T < dim
    left_shift_T = tl.load(shift + left_T, mask=is_left_T, other=0.0)
    right_shift_T = tl.load(shift + right_T, mask=is_right_T, other=0.0)
    total_TT = tl.zeros((TILE, TILE), tl.float64)
    sum_T = tl.zeros((TILE,), tl.float64)
    first = split.to(tl.int64) * split_rows
    last = tl.minimum(first + split_rows, rows)
    for start in range(first, last, BLOCK_ROWS):
        row_B = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        is_row_B = row_B < last
        is_left_BT = is_row_B[:, None] & is_left_T[None, :]
        is_right_BT = is_row_B[:, None] & is_right_T[None, :]
        left_BT = tl.load(x + row_B[:, None] * dim + left_T[None, :], mask=is_left_BT, other=0.0).to(tl.float32)
        right_BT = tl.load(x + row_B[:, None] * dim + right_T[None, :], mask=is_right_BT, other=0.0).to(tl.float32)
        left_BT = tl.where(is_left_BT, left_BT - left_shift_T[None, :], 0.0)
        right_BT = tl.where(is_right_BT, right_BT - right_shift_T[None, :], 0.0)
        total_TT += tl.dot(tl.trans(left_BT), right_BT, input_precision="ieee").to(tl.float64)
        sum_T += tl.sum(left_BT, axis=0).to(tl.float64)
    base = split.to(tl.int64) * dim
    is_TT = is_left_T[:, None] & is_right_T[None, :]
    tl.store(gram + (base + left_T[:, None]) * dim + right_T[None, :], total_TT, mask=is_TT)
    if across == down:
        tl.store(sums + base + left_T, sum_T, mask=is_left_T)


def gram_triton(x_ND: torch.Tensor, shift_D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `tle.kernels.gram.gram_ref` gives, for rows on CUDA.

    Args:
        x_ND: (N, D) float16 or float32, contiguous.
        shift_D: (D,) float32, on the same device.

    Returns:
        Float64 (D, D), both triangles, and (D,).

    Raises:
        ValueError: the shapes, types or layout are others, or the rows are not on CUDA and the interpreter is off.
    """
    if x_ND.ndim != 2 or shift_D.shape != x_ND.shape[1:] or not x_ND.is_contiguous():
        raise ValueError(f"expected contiguous rows (N, D) and a shift (D,), got {x_ND.shape} and {shift_D.shape}")
    if x_ND.dtype not in (torch.float16, torch.float32) or shift_D.dtype != torch.float32:
        raise ValueError(f"expected float16 or float32 rows and a float32 shift, got {x_ND.dtype} and {shift_D.dtype}")
    device = x_ND.device
    if device.type != "cuda" and isinstance(_gram, triton.JITFunction):
        raise ValueError(f"expected rows on cuda, got {device}: move them there, or take GramAccumulator")
    rows, dim = x_ND.shape
    splits = min(MAX_SPLITS, max(1, rows // LEAST_SPLIT_ROWS))
    gram_SDD = torch.zeros(splits, dim, dim, dtype=torch.float64, device=device)
    sums_SD = torch.zeros(splits, dim, dtype=torch.float64, device=device)
    if rows and dim:
        tiles = triton.cdiv(dim, TILE)
        split_rows = triton.cdiv(rows, splits)
        # Triton launches on the current device, which need not be the one of the rows.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            _gram[tiles * tiles, splits](
                x_ND, shift_D, gram_SDD, sums_SD, rows, dim, split_rows, tiles, BLOCK_ROWS=BLOCK_ROWS, TILE=TILE
            )
    lower_DD = gram_SDD.sum(dim=0).tril()
    return lower_DD + lower_DD.tril(-1).T, sums_SD.sum(dim=0)
