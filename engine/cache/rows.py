"""Rows of an open cache file, written beside HDF5 at the places that it gave them.

# B rows at a time
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache.checksums import row_checksums, row_views
from tle.cache.journal import Journal
from tle.cache.layout import Content, Slot, clip_reason, lay_out
from tle.enums import Status
from tle.errors import OutputError, one_line
from tle.files import FILE_DTYPE, reserve, sync_data, write_at


def write_layout(fd: int, content: Content) -> dict[str, Slot]:
    """Make an empty file a cache without a row, with all its space reserved, and durable.

    Args:
        fd: the file, open for writing.
        content: what is known of the cache.

    Returns:
        Where its arrays lie.

    Raises:
        OSError: the file system refused.
    """
    arrays = content.arrays()
    overlay, slots = lay_out(content, arrays)
    reserve(fd, overlay.size)  # asked of the file system first: a full disk is an error before any work
    overlay.apply(fd, lambda: None)
    for name, array in arrays.items():
        write_at(fd, array.reshape(-1).view(np.uint8).data, slots[name].offset)
    sync_data(fd)
    return slots


class RowFile:
    """The arrays and the journal of an unfinished cache.

    Attributes:
        fd: the open file; may be changed for another with the same content.
        slots: where its arrays lie.
        journal: where its failures go.
    """

    def __init__(self, name: Path, fd: int, slots: Mapping[str, Slot]) -> None:
        """Write to `fd`; `name` is for messages."""
        self._name, self.fd, self.slots = name, fd, dict(slots)
        self.journal = Journal(self.slots["features"])

    def put_done(
        self,
        indices: NDArray[np.int64],
        rows_BD: NDArray[Any],
        digests_B: NDArray[np.uint64],
        files_B: NDArray[Any],
    ) -> int:
        """Write everything of some good rows but their status.

        Args:
            indices: (B,) row numbers.
            rows_BD: (B, D) features in their stored dtype.
            digests_B: (B,) uint64.
            files_B: (B,) sizes and modification times.

        Returns:
            Bytes written.

        Raises:
            OutputError: the file system refused.
        """
        checksums = row_checksums(row_views(rows_BD), digests_B, files_B, Status.DONE)
        return self._put({"features": rows_BD, "digests": digests_B, "files": files_B, "checksums": checksums}, indices)

    def put_failed(self, index: int, reason: str, digest: int, file: np.void) -> None:
        """The same for a bad row; its reason goes to the journal."""
        row, digests, files = np.array([index]), np.array([digest], np.uint64), np.zeros(1, FILE_DTYPE)
        files[0] = file
        try:
            self.journal.append(self.fd, index, reason)
        except OSError as error:
            raise self._refused(error) from error
        checksums = row_checksums([clip_reason(reason)], digests, files, Status.FAILED)
        self._put({"digests": digests, "files": files, "checksums": checksums}, row)

    def put_status(self, status_N: NDArray[np.uint8], indices: NDArray[np.int64]) -> None:
        """Write the status of some rows, in one call for everything from the first to the last of them."""
        if len(indices):
            first, last = int(indices.min()), int(indices.max())
            self._write(memoryview(status_N[first : last + 1].tobytes()), self.slots["status"].offset + first)

    def sync(self) -> None:
        """Make durable what was written."""
        try:
            sync_data(self.fd)
        except OSError as error:
            raise self._refused(error) from error

    def _put(self, arrays: Mapping[str, NDArray[Any]], indices: NDArray[np.int64]) -> int:
        """`pwrite` rows at their place, one system call for each run of consecutive indices and array."""
        breaks = (np.flatnonzero(np.diff(indices) != 1) + 1).tolist()
        n_bytes = 0
        for name, rows in arrays.items():
            slot = self.slots[name]
            stride = slot.row_bytes
            data = memoryview(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
            for first, end in zip([0, *breaks], [*breaks, len(indices)], strict=True):
                self._write(data[first * stride : end * stride], slot.offset + int(indices[first]) * stride)
            n_bytes += data.nbytes
        return n_bytes

    def _write(self, data: memoryview, place: int) -> None:
        try:
            write_at(self.fd, data, place)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write to {self._name}: {one_line(error)}")
