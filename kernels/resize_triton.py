"""Triton kernels of `tle.kernels.resize`, for CUDA; imported only where they are used.

# B pictures, H, W kept size, L = 3 W lanes (column, channel) of a kept row, P tiles, M source rows that are read
# R rows of a block, X lanes of a block

Two launches, with the pixels after the pass across in between, as 8 bits:

    across: source rows that the kept rows read    (M, W, 3)     one program per (R source rows, X lanes)
    down:   kept rows, normalised if asked         (B, H, W, 3)  one program per (R kept rows, X lanes)

Both passes have a row's bytes side by side in their lanes, so that stores, and the loads of the pass down, are
contiguous. M differs between pictures: the pass across runs over a list of tiles, none of which is empty. A lane makes
its weights as it goes and divides by their sum at the end, so nothing of the size of a filter is stored. Positions are
float64 (one per lane, not per tap), because float32 is off by more than 1/256 of a pixel beyond column 65,536; weights
and sums are float32.

The interpreter (TRITON_INTERPRET=1 before triton is imported) runs the same kernels on CPU tensors, slowly.
"""

# Triton has no type stubs, and what a kernel takes has no types of Python's.
# mypy: disable-error-code="import-untyped,import-not-found"
# mypy: allow-untyped-defs, allow-incomplete-defs, disallow-untyped-decorators=false

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from tle.kernels.resize import HALF_WIDTHS, RaggedBatch, check_request, source_ranges

# Not yet measured on a GPU: 1,024 sums of a program are 8 for each of 128 threads.
BLOCK_ROWS = 8
BLOCK_LANES = 128

# What the kernels know of a picture: a row of int64 in the table.
_OFFSET, _HEIGHT, _WIDTH = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_RESIZED_HEIGHT, _RESIZED_WIDTH = tl.constexpr(3), tl.constexpr(4)
_TOP, _LEFT = tl.constexpr(5), tl.constexpr(6)
_FIRST_ROW, _LAST_ROW = tl.constexpr(7), tl.constexpr(8)  # source rows that are read, the last exclusive
_MIDDLE_ROW = tl.constexpr(9)  # where the first of them is in the middle buffer
_COLUMNS = tl.constexpr(10)


@triton.jit
def _weight(x, CUBIC: tl.constexpr):
    """The filter at x, in units of its stretched pixels."""
    x = tl.abs(x)
    if CUBIC:
        near = (1.5 * x - 2.5) * x * x + 1.0
        far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
        return tl.where(x < 1.0, near, tl.where(x < 2.0, far, 0.0))
    else:
        return tl.maximum(1.0 - x, 0.0)


@triton.jit
def _taps(sample, kept, size, resized, first, last, CUBIC: tl.constexpr):
    """First tap, number of taps, position of the first in stretched pixels, and the step, of samples of an axis.

    Taps are within first <= tap < last, which the caller has made room for: rounding differs between machines.
    """
    scale = size.to(tl.float64) / resized.to(tl.float64)
    stretch = tl.maximum(scale, 1.0)
    support = stretch * 2.0 if CUBIC else stretch
    centre = (sample.to(tl.float64) + 0.5) * scale
    low = tl.maximum((centre - support + 0.5).to(tl.int64), first)
    high = tl.minimum((centre + support + 0.5).to(tl.int64), last)
    step = (1.0 / stretch).to(tl.float32)
    position = (low.to(tl.float64) - centre + 0.5).to(tl.float32) * step
    count = tl.where(kept, high - low, 0).to(tl.int32)
    return low, count, position, step


@triton.jit
def _to_8_bit(total, weights):
    """Weighted means, rounded half up and clipped to 0..255, as float32; 0 where there are no weights."""
    mean = tl.div_rn(total, tl.where(weights == 0.0, 1.0, weights))  # `/` is inexact, and sums that end in a half occur
    return tl.minimum(tl.maximum(tl.floor(mean + 0.5), 0.0), 255.0)


@triton.jit
def _across(
    pixels, table, tiles, middle, lanes, pitch, CUBIC: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_LANES: tl.constexpr
):
    tile = tl.program_id(0)
    entry = table + tl.load(tiles + 2 * tile) * _COLUMNS
    row_R = tl.load(tiles + 2 * tile + 1) + tl.arange(0, BLOCK_ROWS)  # of those that are read
    lane_X = tl.program_id(1) * BLOCK_LANES + tl.arange(0, BLOCK_LANES)
    first_row, width = tl.load(entry + _FIRST_ROW), tl.load(entry + _WIDTH)
    resized_width = tl.load(entry + _RESIZED_WIDTH)
    sample_X = tl.load(entry + _LEFT) + lane_X // 3
    kept_X = (lane_X < lanes) & (sample_X >= 0) & (sample_X < resized_width)
    is_row_R = row_R < tl.load(entry + _LAST_ROW) - first_row
    low_X, count_X, position_X, step = _taps(sample_X, kept_X, width, resized_width, 0, width, CUBIC)

    row_start_R = tl.load(entry + _OFFSET) + (first_row + row_R) * (3 * width)
    byte_X = low_X * 3 + lane_X % 3
    total_RX = tl.zeros((BLOCK_ROWS, BLOCK_LANES), tl.float32)
    weights_X = tl.zeros((BLOCK_LANES,), tl.float32)
    for tap in range(0, tl.max(count_X, axis=0)):
        is_tap_X = tap < count_X
        weight_X = tl.where(is_tap_X, _weight(position_X + tap * step, CUBIC), 0.0)
        pointer_RX = pixels + row_start_R[:, None] + byte_X[None, :]
        pixel_RX = tl.load(pointer_RX, mask=is_row_R[:, None] & is_tap_X[None, :], other=0)
        total_RX += weight_X[None, :] * pixel_RX.to(tl.float32)
        weights_X += weight_X
        byte_X += 3

    # Lanes beyond the crop or the picture are stored too, as the zeros they are: the stores stay wide, and the pass down
    # finds the padding black.
    value_RX = _to_8_bit(total_RX, weights_X[None, :]).to(tl.uint8)
    middle_row_R = tl.load(entry + _MIDDLE_ROW) + row_R
    stored_RX = is_row_R[:, None] & (lane_X < pitch)[None, :]
    tl.store(middle + middle_row_R[:, None] * pitch + lane_X[None, :], value_RX, stored_RX)


@triton.jit
def _down(
    middle,
    table,
    out,
    crop_height,
    lanes,
    pitch,
    scale_0,
    scale_1,
    scale_2,
    shift_0,
    shift_1,
    shift_2,
    CUBIC: tl.constexpr,
    NORMALISE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_LANES: tl.constexpr,
):
    blocks = tl.cdiv(crop_height, BLOCK_ROWS)
    image = tl.program_id(0) // blocks
    entry = table + image * _COLUMNS
    row_R = (tl.program_id(0) % blocks) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    lane_X = tl.program_id(1) * BLOCK_LANES + tl.arange(0, BLOCK_LANES)
    first_row, last_row = tl.load(entry + _FIRST_ROW), tl.load(entry + _LAST_ROW)
    resized_height = tl.load(entry + _RESIZED_HEIGHT)
    sample_R = tl.load(entry + _TOP) + row_R
    # A picture of which no column is kept has no rows in the middle: first_row = last_row, so no taps.
    kept_R = (row_R < crop_height) & (sample_R >= 0) & (sample_R < resized_height) & (first_row < last_row)
    height = tl.load(entry + _HEIGHT)
    low_R, count_R, position_R, step = _taps(sample_R, kept_R, height, resized_height, first_row, last_row, CUBIC)

    row_start_R = (tl.load(entry + _MIDDLE_ROW) + low_R - first_row) * pitch
    total_RX = tl.zeros((BLOCK_ROWS, BLOCK_LANES), tl.float32)
    weights_R = tl.zeros((BLOCK_ROWS,), tl.float32)
    for tap in range(0, tl.max(count_R, axis=0)):
        is_tap_R = tap < count_R
        weight_R = tl.where(is_tap_R, _weight(position_R + tap * step, CUBIC), 0.0)
        pointer_RX = middle + row_start_R[:, None] + lane_X[None, :]
        pixel_RX = tl.load(pointer_RX, mask=is_tap_R[:, None] & (lane_X < pitch)[None, :], other=0)
        total_RX += weight_R[:, None] * pixel_RX.to(tl.float32)
        weights_R += weight_R
        row_start_R += pitch

    value_RX = _to_8_bit(total_RX, weights_R[:, None])
    if NORMALISE:
        channel_X = lane_X % 3
        scale_X = tl.where(channel_X == 0, scale_0, tl.where(channel_X == 1, scale_1, scale_2))
        shift_X = tl.where(channel_X == 0, shift_0, tl.where(channel_X == 1, shift_1, shift_2))
        value_RX = value_RX * scale_X[None, :] + shift_X[None, :]
    out_row_R = image.to(tl.int64) * crop_height + row_R
    is_out_RX = (row_R < crop_height)[:, None] & (lane_X < lanes)[None, :]
    tl.store(out + out_row_R[:, None] * lanes + lane_X[None, :], value_RX.to(out.dtype.element_ty), is_out_RX)


def ragged_resize_crop_triton(
    batch: RaggedBatch,
    crop: tuple[int, int],
    *,
    interpolation: str = "bilinear",
    dtype: torch.dtype | None = None,
    scale_3: Sequence[float] = (1.0, 1.0, 1.0),
    shift_3: Sequence[float] = (0.0, 0.0, 0.0),
) -> torch.Tensor:
    """Takes and returns what `tle.kernels.resize.ragged_resize_crop` does, for pixels on CUDA.

    Besides the result it allocates the source rows that are read, at the crop's width, and 80 bytes for a picture.

    Raises:
        ValueError: an argument is not as there, or the pixels are not on CUDA and the interpreter is off.
    """
    check_request(crop, interpolation, dtype, scale_3, shift_3)
    device = batch.pixels_N.device
    if device.type != "cuda" and isinstance(_across, triton.JITFunction):
        raise ValueError(f"expected pixels on cuda, got {device}: move them there, or call ragged_resize_crop")

    height, width = crop
    lanes = 3 * width
    pitch = triton.cdiv(lanes, 16) * 16  # rows of the middle start on 16 bytes, so that loads can be wide
    out_BHW3 = torch.empty((len(batch.geometry_B7), height, width, 3), dtype=dtype or torch.uint8, device=device)
    if out_BHW3.numel():
        rows_B2, _ = source_ranges(batch, crop, interpolation)
        table_BT, tiles_P2 = _plan(batch, rows_B2)
        table, tiles = _upload(table_BT, device), _upload(tiles_P2, device)
        middle_M = torch.empty(int((rows_B2[:, 1] - rows_B2[:, 0]).sum()) * pitch, dtype=torch.uint8, device=device)
        lane_blocks = triton.cdiv(lanes, BLOCK_LANES)
        shared: dict[str, Any] = {
            "CUBIC": HALF_WIDTHS[interpolation] == 2,
            "BLOCK_ROWS": BLOCK_ROWS,
            "BLOCK_LANES": BLOCK_LANES,
        }
        # Triton launches on the current device, which need not be the one of the pixels.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            if len(tiles_P2):
                _across[len(tiles_P2), lane_blocks](batch.pixels_N, table, tiles, middle_M, lanes, pitch, **shared)
            _down[len(out_BHW3) * triton.cdiv(height, BLOCK_ROWS), lane_blocks](
                middle_M,
                table,
                out_BHW3,
                height,
                lanes,
                pitch,
                *map(float, scale_3),
                *map(float, shift_3),
                NORMALISE=dtype is not None,
                **shared,
            )
    return out_BHW3 if dtype is None else out_BHW3.permute(0, 3, 1, 2)


def _plan(batch: RaggedBatch, rows_B2: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pictures' table (B, 10) int64, and the tiles (P, 2) int64 of the pass across: picture and first row."""
    count_B = rows_B2[:, 1] - rows_B2[:, 0]
    table_BT = np.column_stack([batch.geometry_B7, rows_B2, np.cumsum(count_B) - count_B])
    blocks_B = -(-count_B // BLOCK_ROWS)
    picture_P = np.repeat(np.arange(len(count_B)), blocks_B)
    block_P = np.arange(blocks_B.sum()) - np.repeat(np.cumsum(blocks_B) - blocks_B, blocks_B)
    return table_BT, np.stack([picture_P, block_P * BLOCK_ROWS], axis=1)


def _upload(array: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """The array on the device, in the order of its stream; a copy from memory that is not pinned would wait for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
