"""Progressive JPEGs without the scans that a scaled-down picture does not need.

A progressive JPEG sends its coefficients in about ten scans: the means of all 8x8 blocks (DC) first, then bands of
detail (AC), then their last bits. Reading the bits of all scans is nearly the whole cost of decoding. At 1/8 of the size
libjpeg-turbo makes one pixel of a block and looks at DC alone, for chroma stored at half size at a few more. So before
decoding the AC scans of every component that comes out as one pixel a block are cut from the bytes. The pixels stay the
same to the bit.

In their place goes one short scan, "no detail in any block", of a few bytes. Without it libjpeg-turbo takes the picture
for one that is still being received and smooths the blocks.

Source: ITU-T T.81, B.1 and B.2 (syntax) and G (progressive mode); libjpeg-turbo's jdmaster.c (scale of a component),
jdphuff.c (what it refuses in a scan's header) and jdcoefct.c (smoothing).
"""

import re
from dataclasses import dataclass

__all__ = ["Component", "block_pixels", "drop_unused_scans"]

_SOF2, _DHT, _EOI, _SOS, _DQT, _DRI, _COM = 0xC2, 0xC4, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE
_PASSED_OVER = frozenset((_SOF2, _DQT, _DRI, _COM, *range(0xE0, 0xF0)))
# The end of a scan's data: a marker that is neither a stuffed zero nor a restart. 0.35 ms a megabyte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)
_MAX_SHIFT = 13  # jdphuff.c refuses more
# No restarts; an AC table 0 in which the 4-bit code n, 0 to 14, is "EOB run of n more bits".
_NO_RESTARTS = b"\xff\xdd\x00\x04\x00\x00"
_RUN_CODES = 15
_EMPTY_TABLE = (
    b"\xff\xc4" + (19 + _RUN_CODES).to_bytes(2) + b"\x10\x00\x00\x00\x0f" + bytes(12) + bytes(range(0, 0xF0, 0x10))
)


@dataclass(frozen=True, slots=True)
class Component:
    """One colour component of a frame: its number and its sampling factors, across and down."""

    number: int
    across: int
    down: int


def block_pixels(component: Component, components: tuple[Component, ...], denominator: int) -> int:
    """Pixels along the side that libjpeg-turbo makes of an 8x8 block at a scale of 1/`denominator`.

    Subsampled components come out larger instead of being enlarged later.

    Args:
        component: one of `components`.
        components: all of the frame.
        denominator: 1, 2, 4 or 8.
    """
    wanted = 8 // denominator
    across = max(other.across for other in components) * wanted
    down = max(other.down for other in components) * wanted
    size = wanted
    while size < 8 and across % (component.across * size * 2) == 0 and down % (component.down * size * 2) == 0:
        size *= 2
    return size


def drop_unused_scans(
    data: bytes, size: tuple[int, int], components: tuple[Component, ...], denominator: int
) -> bytes | None:
    """Cut the scans that are not looked at from a progressive JPEG.

    Args:
        data: the whole file.
        size: (height, width) in pixels.
        components: those of its frame.
        denominator: 1, 2, 4 or 8: the scale at which it will be decoded is 1/`denominator`.

    Returns:
        A JPEG that decodes to the same pixels at that scale; `data` itself where nothing can be cut; None where the
        file is incomplete, or out of the ordinary, so that the exact decoder should judge it. Damage within the bits
        of a scan that is cut is not seen: it could not reach the pixels.
    """
    empty = {c.number for c in components if block_pixels(c, components, denominator) == 1}
    if not empty:
        return data
    try:
        return _cut(data, size, components, empty)
    except IndexError:  # the file ends within a segment
        return None


def _cut(data: bytes, size: tuple[int, int], components: tuple[Component, ...], empty: set[int]) -> bytes | None:
    numbers = {component.number for component in components}
    tables: set[int] = set()
    pieces: list[bytes] = []
    cut: set[int] = set()
    at, kept_from = 2, 0
    while True:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == _EOI:
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if end < at + 4 or end > len(data):
            return None
        if marker == _DHT:
            if not _note_tables(data[at + 4 : end], tables):
                return None
        elif marker == _SOS:
            found = _MARKER.search(data, end)
            if found is None:
                return None
            scan = _ac_scan(data[at + 4 : end], numbers, tables)
            end = found.start()
            if scan in empty:
                pieces.append(data[kept_from:at])
                kept_from = end
                cut.add(scan)
            elif scan is None:
                return None
        elif marker not in _PASSED_OVER:
            return None
        at = end
    if not cut:
        return data
    pieces += (data[kept_from:at], _NO_RESTARTS, _EMPTY_TABLE)
    pieces += (_empty_scan(component, components, size) for component in components if component.number in cut)
    pieces.append(b"\xff\xd9")
    return b"".join(pieces)


def _note_tables(body: bytes, tables: set[int]) -> bool:
    """Add the AC tables that a DHT segment defines to `tables`; False where it does not fit together."""
    at = 0
    while at < len(body):
        codes = sum(body[at + 1 : at + 17])
        if codes > 256 or at + 17 + codes > len(body):
            return False
        if body[at] & 0x10:
            tables.add(body[at] & 0x0F)
        at += 17 + codes
    return True


def _ac_scan(header: bytes, numbers: set[int], tables: set[int]) -> int | None:
    """The component of an AC scan; -1 for a DC scan, which is never cut; None for what libjpeg-turbo would refuse."""
    count = header[0]
    if len(header) != 4 + 2 * count:
        return None
    first, last, bits = header[-3:]
    if first == 0:
        return -1
    high, low = bits >> 4, bits & 0x0F
    valid = (
        count == 1
        and header[1] in numbers
        and header[2] & 0x0F in tables
        and first <= last <= 63
        and low <= _MAX_SHIFT
        and (high == 0 or high == low + 1)
    )
    return header[1] if valid else None


def _empty_scan(component: Component, components: tuple[Component, ...], size: tuple[int, int]) -> bytes:
    """An AC scan that says of all blocks of a component that there is nothing in them."""
    height, width = size
    across = -(-width * component.across // max(other.across for other in components))
    down = -(-height * component.down // max(other.down for other in components))
    blocks = -(-across // 8) * -(-down // 8)
    bits = 1  # a leading one keeps leading zeros; it is taken off below
    while blocks:
        more = min(blocks.bit_length() - 1, _RUN_CODES - 1)
        run = min(blocks, (2 << more) - 1)
        bits = (((bits << 4) | more) << more) | (run - (1 << more))
        blocks -= run
    padding = -(bits.bit_length() - 1) % 8
    bits = (bits << padding) | ((1 << padding) - 1)
    length = bits.bit_length() - 1
    body = (bits - (1 << length)).to_bytes(length // 8).replace(b"\xff", b"\xff\x00")
    return b"\xff\xda\x00\x08\x01" + bytes((component.number,)) + b"\x00\x01\x3f\x00" + body
