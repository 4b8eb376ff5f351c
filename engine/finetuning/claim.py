"""The right to write a classifier and its checkpoint: a lock that goes with the process, however that ends."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tle.cache.claim import lock_file
from tle.finetuning.checkpoints import checkpoint_path


@contextmanager
def claimed(output: Path, *, wanted: bool) -> Iterator[None]:
    """Hold `output` and its checkpoint within the block; what a killed process left half written beside them is removed.

    Args:
        output: the classifier.
        wanted: whether to do so: of several processes only the one that writes does.

    Yields:
        Nothing.

    Raises:
        OutputError: another process writes it.
    """
    if not wanted:
        yield
        return
    lock = output.with_name(f".{output.name}.lock")
    fd = None
    while fd is None:  # one that another process has just let go of, and removed, is made again
        fd = lock_file(lock, create=True)
    try:
        names = "|".join(re.escape(path.name) for path in (output, checkpoint_path(output)))
        for file in output.absolute().parent.iterdir():
            if re.fullmatch(rf"\.({names})\.\d+\.part", file.name):
                file.unlink(missing_ok=True)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(fd)
