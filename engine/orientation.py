"""EXIF orientation: read cheaply from a JPEG's segment or by Pillow from anything, and applied to small arrays.

Orientations are 1 (upright) to 8. An upright picture is the stored one, transposed for 5 to 8, then mirrored:

| | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |
|---|---|---|---|---|---|---|---|---|
| rows and columns swapped | | | | | x | x | x | x |
| rows mirrored | | | x | x | | | x | x |
| columns mirrored | | x | x | | | x | x | |
"""

import struct
from dataclasses import dataclass
from typing import Any

from PIL import Image

__all__ = ["UPRIGHT", "Turn", "orientation_of", "parse_exif", "turn_of"]

TAG = 0x0112
# The sizes of EXIF's types 1 to 12 in bytes.
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)
_SHORT = 3
_HEAD = len(b"Exif\0\0")


@dataclass(frozen=True, slots=True)
class Turn:
    """How an upright picture is made of the stored one: `swap` first, then the mirrors on the upright axes."""

    swap: bool
    mirror_rows: bool
    mirror_columns: bool


UPRIGHT = Turn(False, False, False)
_TURNS = {
    2: Turn(False, False, True),
    3: Turn(False, True, True),
    4: Turn(False, True, False),
    5: Turn(True, False, False),
    6: Turn(True, False, True),
    7: Turn(True, True, True),
    8: Turn(True, True, False),
}


def turn_of(orientation: Any) -> Turn:
    """The turn of an orientation; every value but 2 to 8 counts as upright."""
    return _TURNS.get(orientation, UPRIGHT)


def orientation_of(image: Image.Image) -> Any:
    """The EXIF orientation (1 upright, to 8), from EXIF or XMP; 1 where the metadata cannot be read."""
    try:
        return image.getexif().get(TAG, 1)
    except Exception:  # noqa: BLE001 - damaged metadata takes nothing from the pixels; any exception may come
        return 1


def parse_exif(segment: bytes) -> int | None:
    """The orientation in the body of a JPEG's Exif segment, without Pillow (4 us against 50 and more).

    Args:
        segment: what follows the length of the segment, `Exif`, two zeros and a TIFF file.

    Returns:
        The orientation as it stands there, 1 where the tag is absent; None where anything is out of the ordinary and
        Pillow should be asked.
    """
    tiff = segment[_HEAD:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 14:
        return None
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    if at + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(order + "H", tiff, at)
    entries = tiff[at + 2 : at + 2 + 12 * count]
    if len(entries) != 12 * count:
        return None
    found = None
    for tag, kind, values, where in struct.iter_unpack(order + "HHII", entries):
        if not 1 <= kind <= 12 or not values:
            return None
        size = _TYPE_BYTES[kind] * values
        if size > 4 and where + size > len(tiff):
            return None
        if tag == TAG:
            if found is not None or kind != _SHORT or values != 1:
                return None
            found = where & 0xFFFF if order == "<" else where >> 16
    return 1 if found is None else found
