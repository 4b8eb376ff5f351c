"""Output files: refused before any work where they cannot be written, and named aside until they are complete."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tle.errors import OutputError, one_line

# What tells at a glance that a file is the one that it was: size in bytes, time of the last change in nanoseconds.
FILE_DTYPE = np.dtype([("size", np.int64), ("mtime_ns", np.int64)])


def part_path(path: Path) -> Path:
    """The name under which a run works until its file is complete."""
    return path.with_name(path.name + ".part")


def check_output(path: Path, *, overwrite: bool, inputs: Sequence[str | Path] = ()) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Args:
        path: the file to be written.
        overwrite: whether an existing file may be replaced.
        inputs: files that are read; the output may be none of them.

    Raises:
        OutputError: the folder is missing or not writable, `path` is no regular file, is an input, or exists and may not
            be replaced.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: the folder {folder} does not exist; create it first")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; name a file")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it is no regular file; name another")
    for used in map(Path, inputs):
        if path.exists() and used.exists() and path.samefile(used):
            raise OutputError(f"cannot write {path}: it is read by this very command; name another output")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {folder}")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; pass --overwrite to replace it, or name another file")


@contextmanager
def publish(path: Path) -> Iterator[BinaryIO]:
    """Write a file aside and give it its name when it is complete and durable.

    Args:
        path: the file; one that exists is replaced.

    Yields:
        The file to write to; if the block fails, it is removed and `path` stays what it was.

    Raises:
        OutputError: the file system refused.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.absolute().parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {one_line(error)}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_at(fd: int, data: "bytes | memoryview", offset: int) -> None:
    """Write all of `data` at a place of a file, however many calls the system wants for it.

    Raises:
        OSError: the file system refused.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def sync_data(fd: int) -> None:
    """Make durable what was written to a file.

    Raises:
        OSError: it could not be; the kernel may have dropped the data.
    """
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:  # macOS
        os.fsync(fd)


def reserve(fd: int, n_bytes: int) -> None:
    """Have `n_bytes` on the disk, or an OSError now; where the system cannot promise space, only their size is set."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, n_bytes)
    else:
        os.ftruncate(fd, n_bytes)


def file_states(paths: Iterable[str | Path]) -> NDArray[Any]:
    """Size and modification time of files, without reading them.

    Returns:
        (n,) `FILE_DTYPE`; 0 where a file cannot be looked at.
    """
    found = [_state(path) for path in paths]
    return np.array(found, FILE_DTYPE)


def _state(path: str | Path) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path each would take longer than the system call
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns


def file_identity(path: Path) -> tuple[int, int, int] | None:
    """Device, inode and size: what tells a file from another that takes its name; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a null character in the path
        return None
    return status.st_dev, status.st_ino, status.st_size
