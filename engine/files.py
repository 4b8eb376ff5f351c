"""Output files: refused before any work where they cannot be written, and named aside until they are complete."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tle.errors import OutputError, one_line


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
