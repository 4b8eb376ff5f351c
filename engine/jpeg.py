"""JPEGs decoded by libjpeg-turbo itself, no larger and with no more of the file read than the resize needs.

`read_header` walks the segments before the pixels (5 us) and says which files are of the usual kind; all others are the
exact decoder's. `decode` then goes straight to RGB bytes: without Pillow's picture of 4 bytes a pixel and the copy to
an array, 0.47 ms instead of 0.61 for 500x375. Large pictures are decoded at 1/2, 1/4 or 1/8 of their size
(`denominator`), which libjpeg-turbo does within the inverse cosine transform, by means over 2x2 to 8x8 pixels.
"""

import math
import threading
from dataclasses import dataclass

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from tle.orientation import parse_exif
from tle.progressive import Component, drop_unused_scans

__all__ = ["Header", "decode", "denominator", "read_header"]

# Chosen by the features, because networks see what eyes do not: a mean over blocks and then the resize's filter is a
# little blunter than that filter alone. Smallest cosine to the exact decoder's features over 36 photos of 1 to 20
# megapixels and 201 JPEGs cut from them (qualities 75 to 95, half of them progressive); milliseconds for each photo:
#   at least             1x      1.5x    2x      3x      4x      never scaled
#   MobileNetV2          0.942   0.995   0.9977  0.9994  0.9994  0.99998
#   EfficientNet-Lite0   0.981   0.989   0.9986  0.9992  0.9995  0.99994
#   ms                   14      24      27      28      30      34
# The best linear filter for the means (least squares, own weights for every pixel) does not save 2x: 0.9988.
MIN_OVERSAMPLING = 4.0
# Below this a side has too few blocks for scales to mean anything, and nothing is to be gained.
_MIN_SCALED_SIDE = 64
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_SOS = 0xDA
# DHT, DQT, DRI, COM, and the application segments that neither decoder reads
_PASSED_OVER = frozenset((0xC4, 0xDB, 0xDD, 0xFE, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xEB, 0xEC, 0xEF))
_JFIF, _EXIF, _ICC, _ADOBE = 0xE0, 0xE1, 0xE2, 0xEE
# Bytes of the largest buffer that a thread keeps for the next picture. Fresh memory costs a page fault every 4 KiB,
# which two threads wait for one another in: 0.49 ms for 500x375 on each of two threads at worst, 0.26 with the buffer.
_KEPT_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Header:
    """What a JPEG says before its pixels.

    Attributes:
        height: rows as stored, in pixels.
        width: columns as stored.
        components: colour components, one (grey) or three.
        progressive: whether the pixels come in scans of growing detail.
        orientation: EXIF orientation, 1 to 8; None where Pillow should be asked for it, and whether it opens the file.
    """

    height: int
    width: int
    components: tuple[Component, ...]
    progressive: bool
    orientation: int | None


class _Scratch(threading.local):
    """A buffer for each thread."""

    def __init__(self) -> None:
        self.buffer = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        size = math.prod(shape)
        if size > _KEPT_BYTES:
            return np.empty(shape, np.uint8)
        if size > self.buffer.size:
            self.buffer = np.empty(size, np.uint8)
        return self.buffer[:size].reshape(shape)


_scratch = _Scratch()


def read_header(data: bytes) -> Header | None:
    """Read the segments before the first scan.

    Args:
        data: the bytes of a file.

    Returns:
        None for all that is not a JPEG of the usual kind: Huffman-coded, 8 bits, grey or three components, with
        well-formed segments.
    """
    if data[:2] != b"\xff\xd8":
        return None
    frame: tuple[int, int, tuple[Component, ...], bool] | None = None
    orientation: int | None = 1
    exif = None
    at = 2
    try:
        while True:
            if data[at] != 0xFF:
                return None
            marker = data[at + 1]
            if marker == _SOS:
                break
            end = at + 2 + (data[at + 2] << 8 | data[at + 3])
            if end < at + 4:
                return None
            if _BASELINE <= marker <= _PROGRESSIVE:
                if frame is not None or (frame := _frame(data[at + 4 : end], marker)) is None:
                    return None
            elif marker == _EXIF and exif is None and data.startswith(b"Exif\0\0", at + 4):
                exif = parse_exif(data[at + 4 : end])
                orientation = None if orientation is None else exif
            elif not _is_plain(data, at, marker, end - at):
                if not 0xE0 <= marker <= 0xEF:
                    return None
                orientation = None
            at = end
    except IndexError:  # the file ends within a segment
        return None
    return None if frame is None else Header(*frame, orientation)


def _is_plain(data: bytes, at: int, marker: int, length: int) -> bool:
    """Whether a segment of `length` bytes at `at` means nothing to Pillow that could fail."""
    if marker in _PASSED_OVER:
        return True
    if marker == _JFIF:
        return length >= 18
    if marker == _ICC:
        return length >= 20 and data.startswith(b"ICC_PROFILE\0", at + 4)
    return marker == _ADOBE and length >= 16


def _frame(body: bytes, marker: int) -> tuple[int, int, tuple[Component, ...], bool] | None:
    """Height, width, components and whether progressive, from the body of a SOF segment; None if it is unusual."""
    count = body[5]
    if body[0] != 8 or count not in (1, 3) or len(body) != 6 + 3 * count:
        return None
    components = tuple(Component(body[i], body[i + 1] >> 4, body[i + 1] & 0x0F) for i in range(6, 6 + 3 * count, 3))
    factors = [factor for component in components for factor in (component.across, component.down)]
    if min(factors) < 1 or max(factors) > 4 or len({component.number for component in components}) != count:
        return None
    return body[1] << 8 | body[2], body[3] << 8 | body[4], components, marker == _PROGRESSIVE


def denominator(height: int, width: int, target: tuple[int, int]) -> int:
    """The scale at which a picture is decoded, as 1, 2, 4 or 8 for 1/1 to 1/8.

    The smallest scale that leaves at least `MIN_OVERSAMPLING` times the resized size on both axes.

    Args:
        height: of the stored picture, in pixels.
        width: likewise.
        target: (height, width) of the whole picture resized, before any crop.
    """
    if min(height, width) < _MIN_SCALED_SIDE:
        return 1
    for scale in (8, 4, 2):
        if height >= scale * MIN_OVERSAMPLING * target[0] and width >= scale * MIN_OVERSAMPLING * target[1]:
            return scale
    return 1


def decode(data: bytes, header: Header, scale: int) -> NDArray[np.uint8] | None:
    """Decode a picture at 1/`scale` of its size.

    Args:
        data: the bytes of the file.
        header: what `read_header` says of it.
        scale: 1, 2, 4 or 8, from `denominator`.

    Returns:
        (ceil(height / scale), ceil(width / scale), 3) uint8 RGB as stored, not turned upright, valid until the next
        call in the same thread; None where libjpeg-turbo objects to anything, be it only a warning.
    """
    height, width = -(-header.height // scale), -(-header.width // scale)
    if header.progressive and scale > 1:
        reduced = drop_unused_scans(data, (header.height, header.width), header.components, scale)
        if reduced is None:
            return None
        data = reduced
    least = (0, 0) if scale == 1 else (height, width)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, "RGB", min_height=least[0], min_width=least[1], buffer=_scratch.array((height, width, 3))
        )
    except (ValueError, MemoryError):
        return None
    return pixels if pixels.shape == (height, width, 3) else None
