"""Output files: refused before any work where they cannot be written, and named aside until they are complete."""

import os
from pathlib import Path

from tle.errors import OutputError


def part_path(path: Path) -> Path:
    """The name under which a run works until the cache is complete."""
    return path.with_name(path.name + ".part")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be written, before any work is done.

    Args:
        path: the file to be written.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: the folder is missing or not writable, `path` is a folder, or it exists and may not be replaced.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: the folder {folder} does not exist; create it first")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; name a file")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {folder}")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; pass --overwrite to replace it, or name another file")


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
