"""Bytes of a picture -> upright RGB pixels -> resized and cropped uint8 (H, W, 3).

A picture comes out as a viewer would show it, always in mode RGB:

- EXIF orientation is applied; metadata that cannot be read counts as upright.
- Alpha, in any of its forms, is laid over white.
- Of an animation the first frame is taken, of a multi-page file the first page.
- 16-bit grey spans black to white (value / 257), as do 12 bits and 15 bits with sign in a TIFF; Pillow's own conversion
  would clip at 255.
- Other integers and floats have no agreed white. White is 1 for floats within [0, 1], 255 for whole numbers within
  [0, 255] and 65,535 for whole numbers within [0, 65535]; all else, such as negative values, is stretched from its
  minimum (black) to its maximum (white). NaN and -infinity are black, +infinity is white.
- CMYK, YCbCr, LAB and HSV are converted by Pillow. Colour profiles are not applied: backbones were trained without.

What cannot be decoded in full is an `ImageError` with a one-line reason; nothing is padded, guessed or replaced.
"""

import io
import re
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features
from PIL import __version__ as _pillow_version

from tle import turbo
from tle.errors import ImageError, UsageError
from tle.orientation import orientation_of
from tle.pillow import decoding, load_plugins
from tle.preprocess import Preprocess
from tle.resampling import resize_crop

__all__ = [
    "DECODER",
    "DECODERS",
    "DEFAULT_MAX_PIXELS",
    "EXACT_DECODER",
    "FAST_DECODER",
    "GPU_DECODER",
    "decode",
    "decoder_versions",
    "load",
    "resize_crop",
]

# Twice Pillow's limit for a warning: where Pillow itself refuses.
DEFAULT_MAX_PIXELS = 178_956_970
# Part of the identity of features. The number is raised when a rule above changes the pixels of some picture; versions
# of the libraries, which only rarely do, are recorded beside it (`decoder_versions`), so that an update of Pillow does
# not make every cache a stranger.
EXACT_DECODER = "pillow/1"
FAST_DECODER = "turbo/1"  # `tle.turbo` defines it
GPU_DECODER = "nvjpeg/1"  # `tle.gpu_decode` defines it; it works on whole batches, so `load` does not offer it
DECODERS = (EXACT_DECODER, FAST_DECODER)
DECODER = EXACT_DECODER
_MAX_REASON = 200
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE_TAG, _SAMPLE_FORMAT_TAG = 258, 339  # of TIFF
# Wide grey pictures are scaled in bands of this many pixels, so that float copies stay small (16 MB a band).
_BAND_PIXELS = 1 << 22


def decoder_versions() -> dict[str, str]:
    """Versions of the libraries that decode, for the record: Pillow and, where built in, its codecs."""
    codecs = {name: features.version(name) for name in ("libjpeg_turbo", "zlib", "webp", "avif", "libtiff", "jpg_2000")}
    versions = {package: version(package) for package in ("simplejpeg", "torch")}
    return {"pillow": _pillow_version, **versions, **{name: found for name, found in codecs.items() if found}}


def load(
    data: bytes,
    preprocess: Preprocess,
    *,
    decoder: str = EXACT_DECODER,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Decode, resize and crop one picture; safe to call from many threads at once.

    Args:
        data: the bytes of the file.
        preprocess: resize, crop and interpolation; mean, std and channel order are the graph's business.
        decoder: EXACT_DECODER, bit for bit what torchvision's transforms make of a PIL image, or FAST_DECODER, which
            spares most of the time on JPEGs and is the same on all else (`tle.turbo`).
        max_pixels: pictures of more pixels (width x height) are refused.
        out: (H, W, 3) uint8 array to write into, such as a row of a batch.

    Returns:
        (H, W, 3) uint8 in RGB order, `out` itself if that was given.

    Raises:
        ImageError: the picture cannot be decoded in full, is too large, or too long and thin to be resized.
        ShapeError: `out` is not (H, W, 3) uint8 for the crop.
        UsageError: no such decoder.
    """
    if decoder == FAST_DECODER:
        pixels = turbo.load(data, preprocess, max_pixels=max_pixels, out=out)
        if pixels is not None:
            return pixels
    elif decoder != EXACT_DECODER:
        raise UsageError(f"decoder should be one of {', '.join(DECODERS)}, got {decoder!r}")
    return resize_crop(decode(data, max_pixels=max_pixels), preprocess, out=out)


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode one picture completely; safe to call from many threads at once.

    Args:
        data: the bytes of the file, in any format that Pillow reads, whatever its name says.
        max_pixels: pictures of more pixels (width x height) are refused by their header, before decoding.

    Returns:
        The upright picture in mode RGB, as the module describes.

    Raises:
        ImageError: empty, not a picture, truncated, damaged, or over `max_pixels`; the message is a one-line reason.
    """
    if not data:
        raise ImageError("empty file (0 bytes)")
    load_plugins()
    try:
        with decoding(max_pixels), Image.open(io.BytesIO(data)) as image:
            _check_size(image, max_pixels)
            _repair_transparent_colour(image)
            image.load()
            _check_size(image, max_pixels)  # icons say their true size only now
            rgb = _to_rgb(image)
            turn = _ORIENTATIONS.get(orientation_of(image))
            return rgb if turn is None else rgb.transpose(turn)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        start = data[:8].hex(" ")
        raise ImageError(f"not a picture in a format that can be read (starts with the bytes {start})") from error
    except Image.DecompressionBombError as error:
        pixels = next(iter(re.findall(r"\d+", str(error))), "unknown")  # Pillow tells it only in words
        raise ImageError(f"too many pixels: {pixels}, more than the {max_pixels} allowed") from error
    # Pillow's decoders raise nearly every type there is on hostile files: struct.error, KeyError, zlib.error, ...
    except Exception as error:
        raise ImageError(_reason(error)) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"too many pixels: {width} x {height} = {width * height}, more than the {max_pixels} allowed")
    if width * height < 1:
        raise ImageError(f"a picture without pixels: {width} x {height}")


def _reason(error: Exception) -> str:
    """One line for an exception out of a decoder; the class is named where the message alone would say little."""
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    message = _one_line(str(error))
    if not message:
        return f"cannot be decoded: {name}"
    return message if kind in (OSError, ValueError, SyntaxError) else f"{name}: {message}"


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 3] + "..."


def _to_rgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode in mode RGB, over white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _wide_to_rgb(image)
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")  # Pillow has no direct way to RGBA
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _repair_transparent_colour(image: Image.Image) -> None:
    """Scale a PNG's transparent colour like its pixels.

    A PNG of 2, 4 or 16 bits a sample names its transparent colour in those bits. Pillow turns the pixels to 8 bits, but
    not that colour, so that nothing, or a wrong colour, would be transparent. To be called before loading.
    """
    colour = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or colour is None or not tiles:
        return
    raw_mode = tiles[0][3]
    if raw_mode in ("L;2", "L;4") and isinstance(colour, int):
        image.info["transparency"] = colour * (85 if raw_mode == "L;2" else 17)
    elif raw_mode == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(sample >> 8 for sample in colour)


def _wide_to_rgb(image: Image.Image) -> Image.Image:
    """A grey picture of 16-bit, 32-bit or float samples in mode RGB."""
    values_HW = np.asarray(image)
    black, white = _range(values_HW, image)
    grey_HW = np.empty(values_HW.shape, np.uint8)
    rows = max(1, _BAND_PIXELS // values_HW.shape[1])
    scale = 255 / (white - black) if white > black else 0.0
    for top in range(0, len(values_HW), rows):
        # float64 holds every int32 exactly; float32 would not
        band = values_HW[top : top + rows].astype(np.float64)
        band = np.nan_to_num((np.clip(band, black, white) - black) * scale, nan=0.0)
        grey_HW[top : top + rows] = np.rint(band)
    colour = image.info.get("transparency")
    if isinstance(colour, int):
        grey_HW[values_HW == colour] = 255  # transparent, so the white below shows
    return Image.fromarray(grey_HW).convert("RGB")


def _range(values_HW: NDArray[Any], image: Image.Image) -> tuple[float, float]:
    """The values of black and white, by the rules in the module's description."""
    finite = values_HW[np.isfinite(values_HW)] if image.mode == "F" else values_HW
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if low >= 0:
        white = _white(image)
        if white is None and image.mode == "F" and high <= 1:
            white = 1.0
        if white is None and high <= 65535 and (image.mode == "I" or bool((finite == np.rint(finite)).all())):
            white = 255.0 if high <= 255 else 65535.0
        if white is not None:
            return 0.0, white
    return low, high


def _white(image: Image.Image) -> float | None:
    """The largest value that the file format provides for; None where it does not say."""
    if image.format == "TIFF" and (bits := _tag(image, _BITS_PER_SAMPLE_TAG)) in (12, 16):
        signed = _tag(image, _SAMPLE_FORMAT_TAG) == 2
        return float(2 ** (bits - signed) - 1)
    # Pillow scales PNG and PPM samples of more than 8 bits to the full 16-bit range, whatever the mode.
    if image.mode.startswith("I;") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return 65535.0
    return None


def _tag(image: Image.Image, number: int) -> Any:
    """The first value of a TIFF tag; None where it is absent."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value
