"""The fast decoder, "turbo/1": the usual JPEGs by libjpeg-turbo at a scale and torch's resize, all else exactly.

What it is, by definition:

- A JPEG of the usual kind (`tle.jpeg.read_header`), to be resized "bilinear" or "bicubic" or not at all, is decoded at the
  scale that `tle.jpeg.denominator` says, resized by `tle.fast_resize` and turned upright afterwards.
- For everything else, the exact decoder's pixels or error are the result: other formats, CMYK and other rare JPEGs, other
  interpolations, pictures too thin to be resized whole, more pixels than allowed, and every file to which libjpeg-turbo
  objects, be it only by a warning. So both decoders call the same files bad, for the same reasons.

One difference is possible: at a scale, damage inside of scans that are not needed goes unseen (`tle.progressive`), as long
as the scans are all there, have valid headers and the file ends as it should. A cut-off file is always bad to both.

Pixels of pictures decoded at full size differ from the exact decoder's by a rounding (1 level, bicubic up to 2), of
scaled ones by what a mean over blocks differs from a longer filter; `tle.jpeg.MIN_OVERSAMPLING` says what that does to
features.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tle import fast_resize, jpeg
from tle.orientation import Turn, orientation_of, turn_of
from tle.pillow import decoding, load_plugins
from tle.preprocess import Preprocess
from tle.resampling import Window, crop_window, is_thin, output_array, resized_size

__all__ = ["ask_orientation", "load", "stored_windows", "turned"]


def load(
    data: bytes, preprocess: Preprocess, *, max_pixels: int, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8] | None:
    """Decode, resize and crop one JPEG of the usual kind.

    Args:
        data: the bytes of the file.
        preprocess: resize, crop and interpolation.
        max_pixels: pictures of more pixels are left to the exact decoder, which refuses them.
        out: (H, W, 3) uint8 array to write into; may be written to in part even where the result is None.

    Returns:
        (H, W, 3) uint8 in RGB order, `out` itself if that was given; None where the exact decoder has to do it.

    Raises:
        ShapeError: `out` is not (H, W, 3) uint8 for the crop.
    """
    header = jpeg.read_header(data)
    if header is None or not 0 < header.height * header.width <= max_pixels:
        return None
    orientation = header.orientation if header.orientation is not None else ask_orientation(data, max_pixels)
    if orientation is None:
        return None
    turn = turn_of(orientation)
    stored = (header.height, header.width)
    upright = stored[::-1] if turn.swap else stored
    size = resized_size(*upright, preprocess.resize)
    if size != upright and preprocess.interpolation not in fast_resize.INTERPOLATIONS:
        return None
    if is_thin(*upright, size, preprocess.resize):
        return None

    out = output_array(preprocess.crop, out)
    rows, columns = crop_window(size[0], preprocess.crop[0]), crop_window(size[1], preprocess.crop[1])
    target = out[rows.target : rows.target + rows.length, columns.target : columns.target + columns.length]
    if target.shape != out.shape:
        out[...] = 0
    stored_size, stored_rows, stored_columns = stored_windows(size, rows, columns, turn)
    scale = 1 if size == upright else jpeg.denominator(*stored, stored_size)
    pixels = jpeg.decode(data, header, scale)
    if pixels is None:
        return None
    if size == upright:
        window = pixels[_slice(stored_rows), _slice(stored_columns)]
    else:
        extent = (stored[0] / scale, stored[1] / scale)
        try:
            window = fast_resize.resize_window(
                pixels, extent, stored_size, stored_rows, stored_columns, preprocess.interpolation
            )
        except (MemoryError, RuntimeError):  # the latter is what torch says when memory runs out
            return None
    target[...] = turned(window, turn)
    return out


def ask_orientation(data: bytes, max_pixels: int) -> int | None:
    """The orientation by Pillow, where metadata is out of the ordinary; None where Pillow does not open the file."""
    load_plugins()
    try:
        with decoding(max_pixels), Image.open(io.BytesIO(data)) as image:
            orientation = orientation_of(image)
            return orientation if isinstance(orientation, int) else 1
    except Exception:  # noqa: BLE001 - Pillow raises nearly everything; the exact decoder will say what is wrong
        return None


def stored_windows(
    size: tuple[int, int], rows: Window, columns: Window, turn: Turn
) -> tuple[tuple[int, int], Window, Window]:
    """Resized size and windows on the axes of the picture as it is stored, from those of the upright one."""
    if turn.mirror_rows:
        rows = Window(size[0] - rows.source - rows.length, 0, rows.length)
    if turn.mirror_columns:
        columns = Window(size[1] - columns.source - columns.length, 0, columns.length)
    return (size[::-1], columns, rows) if turn.swap else (size, rows, columns)


def turned(window: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    """A view of the window, upright."""
    if turn.swap:
        window = window.swapaxes(0, 1)
    if turn.mirror_rows:
        window = window[::-1]
    return window[:, ::-1] if turn.mirror_columns else window


def _slice(window: Window) -> slice:
    return slice(window.source, window.source + window.length)
