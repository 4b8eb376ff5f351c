"""Checksums of a cache: one a row over all that is known of its image, one an array for what is written once.

Source: xxh3-64, https://github.com/Cyan4973/xxHash; made for corruption, not against forgery.

# B rows, D feature dim
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

_ROW_DTYPE = np.dtype([("digest", "<u8"), ("size", "<i8"), ("mtime_ns", "<i8"), ("status", "u1")])


def row_checksums(
    contents: Sequence[bytes | memoryview],
    digests_B: NDArray[np.uint64],
    files_B: NDArray[Any],
    status: int | NDArray[np.uint8],
) -> NDArray[np.uint64]:
    """Checksums of some rows.

    Args:
        contents: of each row what its status makes defined: the bytes of its features as they are stored, or the reason
            of its failure in UTF-8.
        digests_B: (B,) uint64.
        files_B: (B,) sizes and modification times.
        status: of all rows, or of each.

    Returns:
        (B,) uint64.
    """
    rows = np.zeros(len(digests_B), _ROW_DTYPE)
    rows["digest"], rows["size"], rows["mtime_ns"] = digests_B, files_B["size"], files_B["mtime_ns"]
    rows["status"] = status
    known, stride = rows.tobytes(), _ROW_DTYPE.itemsize
    hashes = (
        xxhash.xxh3_64_intdigest(content, xxhash.xxh3_64_intdigest(known[start : start + stride]))
        for content, start in zip(contents, range(0, len(known), stride), strict=True)
    )
    return np.fromiter(hashes, np.uint64, len(rows))


def row_views(rows_BD: NDArray[Any]) -> list[memoryview]:
    """The bytes of each row of a C-contiguous array; nothing is copied."""
    if not rows_BD.size:
        return [memoryview(b"")] * len(rows_BD)
    view = memoryview(rows_BD.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    stride = view.nbytes // len(rows_BD)
    return [view[start : start + stride] for start in range(0, view.nbytes, stride)]


def array_checksum(array: NDArray[Any]) -> str:
    """16 hex digits over the bytes of a whole array."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).tobytes())
