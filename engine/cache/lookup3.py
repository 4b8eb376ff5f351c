"""Checksums of HDF5's metadata.

Source: Bob Jenkins, lookup3.c, `hashlittle` with an initial value of 0, https://burtleburtle.net/bob/c/lookup3.c.
"""

import struct

_MASK = 0xFFFFFFFF


def lookup3(data: bytes) -> int:
    """32-bit hash of `data`."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    if not data:
        return c
    padded = -(-len(data) // 12) * 12  # zeros behind the end change nothing
    words: tuple[int, ...] = struct.unpack(f"<{padded // 4}I", data.ljust(padded, b"\0"))
    for at in range(0, len(words) - 3, 3):
        a, b, c = a + words[at], b + words[at + 1], (c + words[at + 2]) & _MASK
        for turn in (4, 6, 8, 16, 19, 4):
            a = (a - c & _MASK) ^ (c << turn & _MASK | c >> (32 - turn))
            a, b, c = b, c + b & _MASK, a
    a, b, c = a + words[-3] & _MASK, b + words[-2] & _MASK, c + words[-1] & _MASK
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - (b << turn & _MASK | b >> (32 - turn))) & _MASK
        a, b, c = b, c, a
    return b
