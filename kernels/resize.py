"""Resize and crop of pictures of different sizes into one batch, with Pillow's antialiased filters.

# B pictures, H, W size of a picture, R, S its resized size, I, K source and kept samples of an axis, N bytes, 3 channels

Each axis of length I resized to R is a weighted mean with taps around the sample's centre. With s = I / R and the
filter stretched by t = max(s, 1), so that it widens when shrinking (antialias):

    centre_r = (r + 1/2) s                        r = 0 .. R - 1, in source pixels
    low_r    = max(int(centre_r - h t + 1/2), 0)  h = half the filter's width: 1 (bilinear) or 2 (bicubic)
    high_r   = min(int(centre_r + h t + 1/2), I)
    w_ri     = f((i + 1/2 - centre_r) / t)        for low_r <= i < high_r, else 0
    y_r      = sum_i w_ri x_i / sum_i w_ri

    bilinear: f(x) = max(1 - |x|, 0)
    bicubic:  f(x) = (1.5 |x| - 2.5) x^2 + 1                   for |x| < 1
                     ((-0.5 |x| + 2.5) |x| - 4) |x| + 2        for 1 <= |x| < 2, else 0

Across comes first, then down, and both results are rounded (half up) and clipped to 8 bits: a bicubic overshoot is cut
between the passes, without which results would differ by many levels. The crop is any window of the resized picture;
where it reaches beyond, it is black. Only kept pixels are computed. A float result is `pixel * scale + shift` of the
rounded pixel, black included.

Within one level of Pillow, which rounds the weights to 22 bits where these are floats: a sum beside a half may fall to
the other side. On noise 0 to 4 % of the pixels differ from it, by the ratio of the sizes; 0 to 2 % from torchvision on
uint8 tensors, which also goes across first. Pillow 13 goes down first for some pictures that shrink in height (tall
ones, or those that widen): of those a quarter of the pixels differ, bilinear by 1 level, bicubic by up to 13 in noise.

Source: Pillow's libImaging/Resample.c; torchvision.transforms.v2.functional.resize(antialias=True) and crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# Half the width of each filter in source pixels when enlarging.
HALF_WIDTHS = {"bilinear": 1, "bicubic": 2}
# A row of 3-byte pixels is indexed by 32 bits; resized samples are counted by 31, as in Pillow.
MAX_SIDE = 1 << 29
MAX_RESIZED_SIDE = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class RaggedBatch:
    """B decoded pictures of different sizes in one buffer, and what becomes of each.

    Attributes:
        pixels_N: (N,) uint8 torch tensor, contiguous, on the device that computes; a picture is (H, W, 3) RGB bytes.
        geometry_B7: (B, 7) int64 NumPy array of, for each picture, its `offset` in the buffer in bytes; `height` and
            `width` in pixels; its resized height and width; `top` and `left` of the crop in pixels of the resized
            picture, negative for padding.

    Raises:
        ValueError: a dtype or shape is another, a side is zero or too long, or a picture leaves the buffer.
    """

    pixels_N: "torch.Tensor"
    geometry_B7: NDArray[np.int64]

    def __post_init__(self) -> None:
        import torch

        pixels_N, geometry_B7 = self.pixels_N, self.geometry_B7
        if pixels_N.dtype != torch.uint8 or pixels_N.ndim != 1 or not pixels_N.is_contiguous():
            raise ValueError(
                f"expected pixels (N,) uint8, contiguous, got {tuple(pixels_N.shape)} {pixels_N.dtype} "
                f"with strides {pixels_N.stride()}"
            )
        if geometry_B7.ndim != 2 or geometry_B7.shape[1] != 7 or geometry_B7.dtype != np.int64:
            raise ValueError(f"expected geometry (B, 7) int64, got {geometry_B7.shape} {geometry_B7.dtype}")
        offset_B, height_B, width_B = geometry_B7[:, :3].T
        limits_4 = (MAX_SIDE, MAX_SIDE, MAX_RESIZED_SIDE, MAX_RESIZED_SIDE)
        bad_B = ((geometry_B7[:, 1:5] < 1) | (geometry_B7[:, 1:5] > limits_4)).any(axis=1)
        bad_B |= (np.abs(geometry_B7[:, 5:]) > MAX_RESIZED_SIDE).any(axis=1)
        if bad_B.any():
            index = int(np.flatnonzero(bad_B)[0])
            raise ValueError(
                f"expected sides of 1 to {MAX_SIDE}, resized of 1 to {MAX_RESIZED_SIDE}, and a crop's corner within "
                f"them, got (offset, height, width, resized height, resized width, top, left) = "
                f"{tuple(geometry_B7[index].tolist())} for picture {index}"
            )
        outside_B = (offset_B < 0) | (height_B * width_B > (pixels_N.numel() - offset_B) // 3)
        if outside_B.any():
            index = int(np.flatnonzero(outside_B)[0])
            raise ValueError(
                f"picture {index}, {height_B[index]} x {width_B[index]} x 3 bytes from {offset_B[index]}, "
                f"is not inside the buffer of {pixels_N.numel()} bytes"
            )


def pack_images(
    images: Sequence["torch.Tensor"], resized_B2: Sequence[tuple[int, int]], corner_B2: Sequence[tuple[int, int]]
) -> RaggedBatch:
    """Copy pictures into one buffer.

    Args:
        images: B tensors (H, W, 3) uint8, all on one device; the sizes may differ.
        resized_B2: (height, width) in pixels to which each is resized.
        corner_B2: (top, left) of each crop in the resized picture; see `centre_corner`.

    Returns:
        The batch, on the device of the pictures; on the CPU if there are none.

    Raises:
        ValueError: a picture is not (H, W, 3) uint8 or is empty, or the lists are not equally long.
    """
    import torch

    if not len(images) == len(resized_B2) == len(corner_B2):
        raise ValueError(
            f"expected a size and a corner for each of {len(images)} pictures, got {len(resized_B2)} and {len(corner_B2)}"
        )
    for index, image in enumerate(images):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.numel() == 0:
            raise ValueError(
                f"expected pictures (H, W, 3) uint8 with H, W >= 1, got {tuple(image.shape)} {image.dtype} "
                f"for picture {index}"
            )
    if not images:
        return RaggedBatch(torch.empty(0, dtype=torch.uint8), np.empty((0, 7), np.int64))
    offset_B = np.cumsum([0] + [image.numel() for image in images[:-1]])
    size_B2 = [tuple(image.shape[:2]) for image in images]
    geometry_B7 = np.column_stack([offset_B, size_B2, resized_B2, corner_B2]).astype(np.int64)
    return RaggedBatch(torch.cat([image.reshape(-1) for image in images]), geometry_B7)


def centre_corner(resized: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of torchvision's `CenterCrop` of a resized picture; negative where the picture is padded."""

    def corner(size: int, kept: int) -> int:
        return round((size - kept) / 2) if size >= kept else -((kept - size) // 2)  # round half to even, as torchvision

    return corner(resized[0], crop[0]), corner(resized[1], crop[1])


def source_ranges(
    batch: RaggedBatch, crop: tuple[int, int], interpolation: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the kept pixels of each picture read.

    Args:
        batch: B pictures.
        crop: (height, width) of the result in pixels.
        interpolation: "bilinear" or "bicubic".

    Returns:
        rows_B2, columns_B2: (first, last + 1) source row and column, int64; both (0, 0) where the crop keeps nothing.
    """
    ranges = []
    for axis in range(2):
        size_B, resized_B, corner_B = batch.geometry_B7[:, [1 + axis, 3 + axis, 5 + axis]].T
        first_B, stop_B = np.maximum(corner_B, 0), np.minimum(corner_B + crop[axis], resized_B)
        scale_B = size_B / resized_B
        support_B = HALF_WIDTHS[interpolation] * np.maximum(scale_B, 1.0)
        low_B = np.maximum(((first_B + 0.5) * scale_B - support_B + 0.5).astype(np.int64), 0)
        high_B = np.minimum(((stop_B - 0.5) * scale_B + support_B + 0.5).astype(np.int64), size_B)
        ranges.append(np.where((first_B < stop_B)[:, None], np.stack([low_B, high_B], axis=1), 0))
    nothing_B = (ranges[0][:, 1] == 0) | (ranges[1][:, 1] == 0)
    rows_B2, columns_B2 = (np.where(nothing_B[:, None], 0, range_B2) for range_B2 in ranges)
    return rows_B2, columns_B2


def resize_crop_bytes(
    batch: RaggedBatch, crop: tuple[int, int], *, interpolation: str = "bilinear", itemsize: int = 1
) -> int:
    """Least bytes that a resize and crop moves: the source pixels under kept ones once, and the result.

    Args:
        batch: B pictures.
        crop: (height, width) of the result in pixels.
        interpolation: "bilinear" or "bicubic".
        itemsize: bytes of an element of the result.
    """
    rows_B2, columns_B2 = source_ranges(batch, crop, interpolation)
    read = 3 * int(((rows_B2[:, 1] - rows_B2[:, 0]) * (columns_B2[:, 1] - columns_B2[:, 0])).sum())
    return read + 3 * itemsize * len(batch.geometry_B7) * crop[0] * crop[1]


def ragged_resize_crop(
    batch: RaggedBatch,
    crop: tuple[int, int],
    *,
    interpolation: str = "bilinear",
    dtype: "torch.dtype | None" = None,
    scale_3: Sequence[float] = (1.0, 1.0, 1.0),
    shift_3: Sequence[float] = (0.0, 0.0, 0.0),
) -> "torch.Tensor":
    """Resize, crop and, if asked, normalise a ragged batch on the device where its pixels are.

    On CUDA this is the Triton kernel; on the CPU it is the reference, which is slow. No other device is taken.

    Args:
        batch: B pictures, their resized sizes and crops.
        crop: (height, width) of the result in pixels.
        interpolation: "bilinear" or "bicubic", both antialiased.
        dtype: None for pixels; float16, bfloat16 or float32 for normalised values, computed in float32.
        scale_3: factor of each channel for pixel values 0 to 255: `1 / (255 std)`. Only with a `dtype`.
        shift_3: what is then added: `-mean / std`. Only with a `dtype`.

    Returns:
        uint8 (B, H, W, 3), contiguous; with a `dtype`, that dtype (B, 3, H, W) in channels_last memory.

    Raises:
        ValueError: an argument is not as above, or the pixels are on another device.
    """
    device = batch.pixels_N.device.type
    if device == "cuda":
        from tle.kernels.resize_triton import ragged_resize_crop_triton as implementation
    elif device == "cpu":
        implementation = ragged_resize_crop_ref
    else:
        raise ValueError(f"expected pixels on cuda or cpu, got {device}: move them there")
    return implementation(batch, crop, interpolation=interpolation, dtype=dtype, scale_3=scale_3, shift_3=shift_3)


def ragged_resize_crop_ref(
    batch: RaggedBatch,
    crop: tuple[int, int],
    *,
    interpolation: str = "bilinear",
    dtype: "torch.dtype | None" = None,
    scale_3: Sequence[float] = (1.0, 1.0, 1.0),
    shift_3: Sequence[float] = (0.0, 0.0, 0.0),
) -> "torch.Tensor":
    """The definition: dense float64 weights, picture by picture. Takes and returns what `ragged_resize_crop` does."""
    import torch

    check_request(crop, interpolation, dtype, scale_3, shift_3)
    pixels_N = batch.pixels_N
    out_BHW3 = torch.zeros((len(batch.geometry_B7), *crop, 3), dtype=torch.uint8, device=pixels_N.device)
    for index, (offset, height, width, *resized, top, left) in enumerate(batch.geometry_B7.tolist()):
        rows = range(max(top, 0), min(top + crop[0], resized[0]))
        columns = range(max(left, 0), min(left + crop[1], resized[1]))
        if not rows or not columns:
            continue
        image_HW3 = pixels_N[offset : offset + height * width * 3].reshape(height, width, 3).double()
        across_KW = _dense_weights(width, resized[1], columns, interpolation).to(pixels_N.device)
        down_KH = _dense_weights(height, resized[0], rows, interpolation).to(pixels_N.device)
        middle_HK3 = _to_8_bit(torch.einsum("kw,hwc->hkc", across_KW, image_HW3))
        kept_KK3 = _to_8_bit(torch.einsum("kh,hxc->kxc", down_KH, middle_HK3))
        target_KK3 = out_BHW3[index, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        target_KK3.copy_(kept_KK3)
    if dtype is None:
        return out_BHW3
    scale_shift_23 = torch.tensor([scale_3, shift_3], dtype=torch.float32, device=pixels_N.device)
    return (out_BHW3 * scale_shift_23[0] + scale_shift_23[1]).to(dtype).permute(0, 3, 1, 2)


def check_request(
    crop: tuple[int, int],
    interpolation: str,
    dtype: "torch.dtype | None",
    scale_3: Sequence[float],
    shift_3: Sequence[float],
) -> None:
    """Raise ValueError for arguments that `ragged_resize_crop` does not take."""
    import torch

    if len(crop) != 2 or min(crop) < 1:
        raise ValueError(f"expected a crop (height, width) of at least (1, 1), got {crop}")
    if interpolation not in HALF_WIDTHS:
        raise ValueError(f"expected interpolation {' or '.join(HALF_WIDTHS)}, got {interpolation!r}")
    if dtype not in (None, torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"expected dtype float16, bfloat16, float32 or None for uint8, got {dtype}")
    if len(scale_3) != 3 or len(shift_3) != 3:
        raise ValueError(f"expected three scales and three shifts, got {scale_3} and {shift_3}")
    if dtype is None and (*scale_3, *shift_3) != (1, 1, 1, 0, 0, 0):
        raise ValueError(f"scale {scale_3} and shift {shift_3} need a floating dtype, got None, which gives pixels")


def _dense_weights(size: int, resized: int, kept: range, interpolation: str) -> "torch.Tensor":
    """Weights (K, I) float64 of an axis of `size` samples for the `kept` ones of `resized`; rows sum to 1."""
    import torch

    scale = size / resized
    stretch = max(scale, 1.0)
    support = HALF_WIDTHS[interpolation] * stretch
    source_I = torch.arange(size, dtype=torch.float64)
    centre_K1 = (torch.arange(kept.start, kept.stop, dtype=torch.float64)[:, None] + 0.5) * scale
    inside_KI = (source_I >= (centre_K1 - support + 0.5).trunc()) & (source_I < (centre_K1 + support + 0.5).trunc())
    x_KI = ((source_I + 0.5 - centre_K1) / stretch).abs()
    if interpolation == "bilinear":
        weight_KI = (1 - x_KI).clamp(min=0)
    else:
        near_KI, far_KI = (1.5 * x_KI - 2.5) * x_KI * x_KI + 1, ((-0.5 * x_KI + 2.5) * x_KI - 4) * x_KI + 2
        weight_KI = torch.where(x_KI < 1, near_KI, torch.where(x_KI < 2, far_KI, 0.0))
    weight_KI *= inside_KI
    return weight_KI / weight_KI.sum(dim=1, keepdim=True)


def _to_8_bit(values: "torch.Tensor") -> "torch.Tensor":
    """Rounded half up and clipped to 0..255, still float64."""
    return (values + 0.5).floor().clamp(0, 255)
