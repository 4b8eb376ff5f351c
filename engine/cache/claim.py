"""The right to write a cache: a lock on its unfinished file, which goes with the process, however that ends.

    NAME.h5            the finished cache; replaced in one step, never written
    NAME.h5.part       the unfinished one: a valid HDF5 file at every moment
    NAME.h5.part.new   one that is being laid out, or takes over rows of another; becomes NAME.h5.part when that is done

Nobody waits for a lock, and a lock is no file: what a dead process leaves behind is free.
"""

import fcntl
import os
from pathlib import Path

from tle.errors import OutputError, one_line
from tle.files import part_path, write_at

_PIECE_BYTES = 1 << 24


class Claim:
    """The exclusive right to write the cache at `path`.

    Attributes:
        path: the cache.
        part: its unfinished file.
        fd: descriptor of the locked file.
        found: whether an unfinished file is there.
    """

    def __init__(self, path: Path) -> None:
        """Claim `path`, or say who has it.

        Raises:
            OutputError: another process writes it, or nothing can be created there.
        """
        self.path = path
        self.part = part_path(path)
        self.fd = self._taken = -1
        while self.fd < 0:
            fd = lock_file(self.part, create=False)
            if fd is not None:
                self.fd, self.found = fd, True
                return
            fd = lock_file(new_path(self.part), create=True)
            if fd is None:
                continue
            # Another process may have laid out and renamed its own in between: then it has the cache.
            if self.part.exists():
                os.close(fd)
                continue
            self.fd, self.found = fd, False

    def take_over(self) -> int:
        """A descriptor of the locked, empty file that is to become the unfinished one; without `settle` it goes again.

        Raises:
            OutputError: it cannot be created.
        """
        if self.found:
            fd = lock_file(new_path(self.part), create=True)
            if fd is None:
                raise OutputError(f"{new_path(self.part)} vanished while it was created: try again")
            self._taken = fd
        else:
            fd = self.fd
        os.ftruncate(fd, 0)
        return fd

    def settle(self, fd: int) -> None:
        """Make the file of `take_over` the unfinished one; what was there before is gone."""
        new_path(self.part).replace(self.part)
        if fd != self.fd:
            os.close(self.fd)
            self.fd, self._taken = fd, -1
        self.found = True

    def release(self, *, keep: bool = True) -> None:
        """Let the cache go.

        Args:
            keep: whether the unfinished file stays; one that was only being laid out never does.
        """
        if self.fd < 0:
            return
        if self._taken >= 0:
            if _is_at(self._taken, new_path(self.part)):
                new_path(self.part).unlink()
            os.close(self._taken)
            self._taken = -1
        name = self.part if self.found else new_path(self.part)
        if not (keep and self.found) and _is_at(self.fd, name):
            name.unlink()
        os.close(self.fd)
        self.fd = -1

    def keep_in_place(self) -> int:
        """See to it that the unfinished file has its name: where somebody removed it, it is written again.

        Returns:
            The descriptor to write to from now on.

        Raises:
            OutputError: another file has its name, or it cannot be written again.
        """
        if _is_at(self.fd, self.part):
            return self.fd
        if self.part.exists():
            raise OutputError(f"{self.part} was replaced while it was written: move that file away and start again")
        fd = self.take_over()
        try:
            size = os.fstat(self.fd).st_size
            for start in range(0, size, _PIECE_BYTES):
                piece = os.pread(self.fd, _PIECE_BYTES, start)
                if piece.count(0) < len(piece):
                    write_at(fd, piece, start)
            os.ftruncate(fd, size)
            os.fsync(fd)
            self.settle(fd)
        except OSError as error:
            raise OutputError(f"{self.part} was removed and cannot be written again: {one_line(error)}") from error
        return fd


def new_path(part: Path) -> Path:
    """The name under which an unfinished file is laid out."""
    return part.with_name(part.name + ".new")


def lock_file(path: Path, *, create: bool) -> int | None:
    """Open and lock a file.

    Returns:
        Its descriptor, or None where it is not there, or not any more.

    Raises:
        OutputError: another process has the lock, or the file cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
    except FileNotFoundError as error:
        if create:
            raise OutputError(f"cannot create {path}: {one_line(error)}") from error
        return None
    except OSError as error:
        raise OutputError(f"cannot {'create' if create else 'open'} {path}: {one_line(error)}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise OutputError(f"another process is writing {path}: wait for it, or name another output") from error
    except OSError as error:
        os.close(fd)
        raise OutputError(f"cannot lock {path}: {one_line(error)}") from error
    # Between opening and locking it may have been renamed to a finished cache, or removed: then the name is another
    # file by now, and this one must not be touched.
    if _is_at(fd, path):
        return fd
    os.close(fd)
    return None


def _is_at(fd: int, path: Path) -> bool:
    """Whether an open file still is the one of that name."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
