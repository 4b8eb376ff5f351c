"""A new cache made of other files, not of pictures: there whole, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tle.cache.claim import Claim
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.errors import OutputError


@contextmanager
def claimed(path: Path, *, overwrite: bool) -> Iterator[Claim]:
    """Hold the right to write the cache at `path` while the block runs.

    Args:
        path: the cache.
        overwrite: whether what an interrupted extraction left for it may be dropped.

    Raises:
        OutputError: another process writes it, or an interrupted extraction left rows that are worth keeping.
    """
    claim = Claim(path)
    try:
        if claim.found and not overwrite:
            raise OutputError(
                f"{claim.part} was left by an interrupted run: finish that, pass --overwrite to drop it, or name another "
                "output"
            )
        yield claim
    finally:
        claim.release()


@contextmanager
def new_cache(path: Path, content: Content, *, overwrite: bool) -> Iterator[CacheWriter]:
    """A writer for all rows of a new cache, which is published at the end of the block.

    What it is made of is still there when the block fails, so nothing is kept of the work then.

    Args:
        path: the cache.
        content: what is known of it.
        overwrite: whether a cache that is there may be replaced.

    Raises:
        OutputError: another process writes it, or the file system refused.
        CacheError: a row was not written.
    """
    with claimed(path, overwrite=overwrite) as claim, CacheWriter.create(path, content, claim=claim) as writer:
        writer.keep = False
        yield writer
        writer.finish(replace=overwrite)
