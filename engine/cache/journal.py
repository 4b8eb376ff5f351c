"""Failures of an unfinished cache: rows like those of `/failures`, behind anything that HDF5 may yet add to the file.

An entry counts if the status of its row is FAILED, which is written after the entry is durable; so a torn or a stale one
needs no mark of its own. Of two for the same row the later one counts.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache.layout import FAILURE_DTYPE, Slot, failure_rows
from tle.enums import Status
from tle.files import write_at

_INDEX_BYTES = 32  # a failure, of what HDF5 needs to find it


class Journal:
    """The journal in the unfinished file whose features lie at `features`."""

    def __init__(self, features: Slot) -> None:
        """Find its place: on a page boundary, with room for N failures before it."""
        added = features.shape[0] * (FAILURE_DTYPE.itemsize + _INDEX_BYTES) + (1 << 20)
        self.start = -(-(features.offset + features.nbytes + added) // 4096) * 4096
        self._next = self.start

    def append(self, fd: int, index: int, reason: str) -> None:
        """Write an entry; it is durable after the next sync of the file.

        Raises:
            OSError: the file system refused.
        """
        write_at(fd, failure_rows({index: reason}).tobytes(), self._next)
        self._next += FAILURE_DTYPE.itemsize

    def skip(self, fd: int) -> None:
        """Go behind the entries that are there."""
        written = max(os.fstat(fd).st_size - self.start, 0) // FAILURE_DTYPE.itemsize
        self._next = self.start + written * FAILURE_DTYPE.itemsize

    def read(self, fd: int, status_N: NDArray[np.uint8]) -> dict[int, str]:
        """Reasons by row, of the rows that are FAILED."""
        size = max(os.fstat(fd).st_size - self.start, 0)
        data = os.pread(fd, size - size % FAILURE_DTYPE.itemsize, self.start)
        entries: NDArray[Any] = np.frombuffer(data, FAILURE_DTYPE)
        return {
            int(index): reason.decode("utf-8", "replace")
            for index, reason in entries.tolist()
            if reason and 0 <= index < len(status_N) and status_N[index] == Status.FAILED
        }
