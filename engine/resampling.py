"""Resize and centre crop, bit for bit what torchvision's `Resize(antialias=True)` and `CenterCrop` do to a PIL image.

H, W size of the picture; R, S its resized size; a `Window` is the part of one resized axis that the crop keeps.

Normally Pillow resizes the whole picture and the crop is cut out. Enlarging a long, thin picture would then need memory
without bound: the shorter side of 1x60000 resized to 256 makes 256x15,360,000. For those only the samples inside the
crop are computed, here in numpy with Pillow's own fixed-point arithmetic, so that the result is the same to the bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL import __version__ as _pillow_version

from tle.errors import ImageError, ShapeError
from tle.preprocess import Preprocess

# Pixels (4 bytes each) of the largest buffer that Pillow may allocate for a resize, if it is larger than the picture:
# 134 MB. A shorter side of 256 reaches it at an aspect ratio of 512.
MAX_BUFFER_PIXELS = 1 << 25
# Beyond these even the windowed way is refused: the longest axis that Pillow can count, and 400 MB of kept columns.
MAX_RESIZED_SIDE = (1 << 31) - 1
MAX_COLUMN_PIXELS = 1 << 27
_BAND_PIXELS = 1 << 20
_PRECISION_BITS = 22  # of Pillow's filter weights for 8-bit channels
# Before version 13 Pillow always resized across first, then down.
_DOWN_FIRST = int(_pillow_version.split(".", 1)[0]) >= 13


def resize_crop(
    image: Image.Image, preprocess: Preprocess, *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Resize and centre-crop a picture.

    Args:
        image: mode RGB.
        preprocess: its `resize`, `crop` and `interpolation` are used.
        out: (H, W, 3) uint8 array to write into.

    Returns:
        (H, W, 3) uint8 in RGB order, C-contiguous unless `out` is given and is not.

    Raises:
        ImageError: the picture is so long and thin that resizing it is out of bounds.
        ShapeError: `out` is not (H, W, 3) uint8 for the crop, or the picture is not RGB.

    Source: torchvision.transforms.functional.resize and center_crop on PIL images; Pillow's libImaging/Resample.c.
    """
    if image.mode != "RGB":
        raise ShapeError(f"resize_crop takes a picture of mode RGB, got {image.mode}: decode it with tle.images.decode")
    out = output_array(preprocess.crop, out)
    size = resized_size(image.height, image.width, preprocess.resize)
    rows, columns = crop_window(size[0], preprocess.crop[0]), crop_window(size[1], preprocess.crop[1])
    if rows.length < preprocess.crop[0] or columns.length < preprocess.crop[1]:
        out[...] = 0
    target = out[rows.target : rows.target + rows.length, columns.target : columns.target + columns.length]
    try:
        if size == (image.height, image.width):
            target[...] = _crop(image, rows, columns)
        elif not is_thin(image.height, image.width, size, preprocess.resize):
            resized = image.resize((size[1], size[0]), Image.Resampling[preprocess.interpolation.upper()])
            target[...] = _crop(resized, rows, columns)
        elif max(size) > MAX_RESIZED_SIDE:
            raise ImageError(_too_thin(image, size))
        elif preprocess.interpolation == "nearest":
            _resize_window_nearest(image, size, rows, columns, target)
        else:
            _resize_window(image, size, rows, columns, preprocess.interpolation, target)
    except MemoryError as error:
        raise ImageError(
            f"not enough memory to resize {image.width} x {image.height} to {size[1]} x {size[0]}"
        ) from error
    return out


def output_array(crop: tuple[int, int], out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """`out`, checked to be (height, width, 3) uint8 for the crop, or a new array.

    Raises:
        ShapeError: `out` is of another shape or type.
    """
    shape = (*crop, 3)
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape or out.dtype != np.uint8:
        raise ShapeError(f"out should be {shape} uint8 for this crop, got {out.shape} {out.dtype}")
    return out


def resized_size(height: int, width: int, resize: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) in pixels after `Preprocess.resize`."""
    if resize is None:
        return height, width
    if isinstance(resize, tuple):
        return resize
    shorter, longer = min(height, width), max(height, width)
    longer = int(resize * longer / shorter)  # torchvision truncates, it does not round
    return (resize, longer) if height <= width else (longer, resize)


def resizes_down_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether Pillow resizes (height, width) `before` to `after` down first, then across, instead of the reverse."""
    return _DOWN_FIRST and after[0] < before[0] and after[1] > before[1]


def is_thin(height: int, width: int, size: tuple[int, int], resize: int | tuple[int, int] | None) -> bool:
    """Whether resizing a picture whole would need too large a buffer because of its shape, not by the caller's wish.

    Args:
        height: of the picture, in pixels.
        width: likewise.
        size: (height, width) after `resize`, from `resized_size`.
        resize: of the `Preprocess`.
    """
    between = width * size[0] if resizes_down_first((height, width), size) else size[1] * height
    pixels = between if isinstance(resize, tuple) else max(between, size[0] * size[1])
    return pixels > max(MAX_BUFFER_PIXELS, height * width)


def _too_thin(image: Image.Image, size: tuple[int, int]) -> str:
    return f"too long and thin: {image.width} x {image.height} would be resized to {size[1]} x {size[0]}"


@dataclass(frozen=True, slots=True)
class Window:
    """`length` samples that go from `source` on the resized axis to `target` on the cropped one."""

    source: int
    target: int
    length: int


def crop_window(size: int, crop: int) -> Window:
    """What a centre crop keeps of an axis; a shorter axis is centred and the rest stays black."""
    if size < crop:
        return Window(0, (crop - size) // 2, size)
    return Window(round((size - crop) / 2.0), 0, crop)  # round half to even, as torchvision


def _crop(image: Image.Image, rows: Window, columns: Window) -> NDArray[np.uint8]:
    """The pixels (R, S, 3) of the windows."""
    box = (columns.source, rows.source, columns.source + columns.length, rows.source + rows.length)
    return np.asarray(image if box == (0, 0, *image.size) else image.crop(box))


# What follows repeats Pillow's arithmetic for a window of the output.


def _box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _hamming(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 1.0, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where((x >= -3.0) & (x < 3.0), np.sinc(x) * np.sinc(x / 3), 0.0)


# Filter and half its width in source pixels when enlarging.
_FILTERS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


@dataclass(frozen=True, slots=True)
class _Tap:
    """One output sample: fixed-point `weights` of the source samples from `start` on."""

    start: int
    weights: NDArray[np.int32]


def _taps(size_in: int, size_out: int, window: Window, interpolation: str) -> list[_Tap]:
    """The taps of the output samples in `window` of an axis resized from `size_in` to `size_out`."""
    function, half_width = _FILTERS[interpolation]
    scale = size_in / size_out
    stretch = max(scale, 1.0)  # the filter widens when shrinking: antialias
    support = half_width * stretch
    taps = []
    for sample in range(window.source, window.source + window.length):
        center = (sample + 0.5) * scale
        start = max(int(center - support + 0.5), 0)
        stop = min(int(center + support + 0.5), size_in)
        offsets = np.arange(start, stop).astype(np.float64) - center + 0.5
        weights = function(offsets * (1.0 / stretch))
        total = np.add.accumulate(weights)[-1]  # in sequence, as in C; np.sum would add pairwise
        if total != 0.0:
            weights = weights / total
        fixed = weights * (1 << _PRECISION_BITS)
        taps.append(_Tap(start, (fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int32)))
    return taps


def _to_8_bit(sums: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Fixed-point sums to uint8, rounded and clipped."""
    pixels: NDArray[np.uint8] = np.clip((sums + (1 << (_PRECISION_BITS - 1))) >> _PRECISION_BITS, 0, 255).astype(
        np.uint8
    )
    return pixels


def _resize_window(
    image: Image.Image,
    size: tuple[int, int],
    rows: Window,
    columns: Window,
    interpolation: str,
    out_RS3: NDArray[np.uint8],
) -> None:
    """Write the window of `image` resized to `size` (height, width) into `out_RS3`.

    Two passes with 8 bits in between, as Pillow: across for the source rows that are needed, then down.
    """
    across = _taps(image.width, size[1], columns, interpolation)
    down = _taps(image.height, size[0], rows, interpolation)
    first, last = down[0].start, max(tap.start + len(tap.weights) for tap in down)
    left, right = across[0].start, max(tap.start + len(tap.weights) for tap in across)
    if (last - first) * columns.length > MAX_COLUMN_PIXELS:
        raise ImageError(_too_thin(image, size))
    middle_HS3 = np.empty((last - first, columns.length, 3), np.uint8)
    height = max(1, _BAND_PIXELS // (right - left))
    for top in range(first, last, height):
        bottom = min(top + height, last)
        band = np.asarray(image.crop((left, top, right, bottom)))
        for column, tap in enumerate(across):
            pixels = band[:, tap.start - left : tap.start - left + len(tap.weights)]
            sums = np.einsum("hkc,k->hc", pixels, tap.weights, dtype=np.int64)
            middle_HS3[top - first : bottom - first, column] = _to_8_bit(sums)
    for row, tap in enumerate(down):
        pixels = middle_HS3[tap.start - first : tap.start - first + len(tap.weights)]
        out_RS3[row] = _to_8_bit(np.einsum("ksc,k->sc", pixels, tap.weights, dtype=np.int64))


def _resize_window_nearest(
    image: Image.Image, size: tuple[int, int], rows: Window, columns: Window, out_RS3: NDArray[np.uint8]
) -> None:
    """The same for the nearest source sample."""
    xs = _nearest(image.width, size[1], columns)
    ys = _nearest(image.height, size[0], rows)
    left, right = int(xs[0]), int(xs[-1]) + 1
    for row, y in enumerate(ys.tolist()):
        out_RS3[row] = np.asarray(image.crop((left, y, right, y + 1)))[0, xs - left]


def _nearest(size_in: int, size_out: int, window: Window) -> NDArray[np.int64]:
    """Indices of the source samples for `window`.

    Pillow finds them by adding up the step, and so its rounding errors; they are repeated here, in bounded chunks.
    """
    step = size_in / size_out
    position, at = step * 0.5, 0
    chunk = 1 << 20
    while at < window.source:
        n = min(chunk, window.source - at)
        position = float(np.add.accumulate(np.r_[position, np.full(n, step)])[-1])
        at += n
    positions = np.add.accumulate(np.r_[position, np.full(window.length - 1, step)])
    return np.minimum(positions.astype(np.int64), size_in - 1)
