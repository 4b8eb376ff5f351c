"""What HDF5 would write to a file, held in memory: looked at first, then written in an order that no crash can break."""

import io
import os
from collections.abc import Callable

from tle.files import write_at

PAGE = 4096  # bytes; the kernel copies into the page cache page by page, so a process dies before or after one


class Overlay(io.RawIOBase):
    """A file for HDF5 to read and change (its `fileobj` driver), of which nothing is changed.

    Attributes:
        size: of the file as HDF5 left it.
        changes: (offset, bytes) in the order in which they came.
    """

    def __init__(self, fd: int | None = None) -> None:
        """Begin with an empty file, or the one open at `fd`."""
        self._fd = fd
        self._position = 0
        self.size = 0 if fd is None else os.fstat(fd).st_size
        self.changes: list[tuple[int, bytes]] = []

    def apply(self, fd: int, sync: Callable[[], None]) -> None:
        """Write the changes: all that lies behind the first page, then the first page in one call.

        Args:
            fd: the file, open for writing.
            sync: makes durable what was written so far.

        Raises:
            OSError: the file system refused.
        """
        for offset, data in self.changes:
            if offset + len(data) > PAGE:
                skip = max(PAGE - offset, 0)
                write_at(fd, data[skip:], offset + skip)
        sync()
        write_at(fd, self._bytes(0, PAGE), 0)
        sync()

    def changed_pages(self) -> set[int]:
        """Pages that were there before and differ now."""
        if self._fd is None:
            return set()
        pages = {
            page
            for offset, data in self.changes
            for page in range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1)
        }
        return {page for page in pages if os.pread(self._fd, PAGE, page * PAGE) != self._bytes(page * PAGE, PAGE)}

    def _bytes(self, start: int, length: int) -> bytes:
        """A piece of the file as it looks with the changes."""
        length = max(min(length, self.size - start), 0)
        below = b"" if self._fd is None else os.pread(self._fd, length, start)
        piece = bytearray(below.ljust(length, b"\0"))
        for offset, data in self.changes:
            low, high = max(offset, start), min(offset + len(data), start + length)
            if low < high:
                piece[low - start : high - start] = data[low - offset : high - offset]
        return bytes(piece)

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def writable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def seekable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.RawIOBase`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """See `io.RawIOBase`."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """See `io.RawIOBase`."""
        self.size = self._position if size is None else size
        return self.size

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        piece = self._bytes(self._position, len(buffer))
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def write(self, data: "memoryview") -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        self.changes.append((self._position, bytes(data)))
        self._position += len(data)
        self.size = max(self.size, self._position)
        return len(data)
