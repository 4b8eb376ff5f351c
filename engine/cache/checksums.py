"""Checksums of a cache: one a row over all that is known of its image, one an array for what is written once.

Source: xxh3-64, https://github.com/Cyan4973/xxHash; made for corruption, not against forgery.

# B rows, D feature dim
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

# Odd, so that multiplying by one of them maps no two values to the same; from the golden ratio and xxHash's primes.
_PRIMES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)
_ONE, _HALF = np.uint64(1), np.uint64(32)


def row_checksums(
    contents: Iterable[bytes | memoryview],
    digests_B: NDArray[np.uint64],
    files_B: NDArray[Any],
    status_B: int | NDArray[np.uint8],
) -> NDArray[np.uint64]:
    """Checksums of some rows: xxh3-64 of the content, with all else that the row holds mixed in.

    Args:
        contents: of each row what its status makes defined: the bytes of its features as they are stored, or the reason
            of its failure in UTF-8.
        digests_B: (B,) uint64.
        files_B: (B,) sizes and modification times.
        status_B: of all rows, or of each.

    Returns:
        (B,) uint64. A change of one of content, digest, size, time or status always changes it, but for content with a
        probability of 2^-64.
    """
    checksums = np.fromiter(map(xxhash.xxh3_64_intdigest, contents), np.uint64, len(digests_B))
    sizes, times = (files_B[name].view(np.uint64) for name in ("size", "mtime_ns"))
    status = np.atleast_1d(np.asarray(status_B, np.uint64)) + _ONE
    for value, prime in zip((digests_B, sizes, times, status), _PRIMES, strict=True):
        product = value * prime
        checksums ^= product ^ (product >> _HALF)  # each step can be undone, so no two values give the same
    return checksums


def row_views(rows_BD: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes of each row of a C-contiguous array; nothing is copied, and no view outlives its turn."""
    if not rows_BD.size:
        return iter([memoryview(b"")] * len(rows_BD))
    view = memoryview(rows_BD.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    stride = view.nbytes // len(rows_BD)
    return (view[start : start + stride] for start in range(0, view.nbytes, stride))


def array_checksum(array: NDArray[Any]) -> str:
    """16 hex digits over the bytes of a whole array."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).tobytes())
