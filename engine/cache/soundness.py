"""What is taken over into another file gets checksums of its own there: so it has to be right, or damage would hide.

# N images
"""

import shlex

import numpy as np

from tle.cache.reader import Cache
from tle.cache.verification import damaged_arrays, damaged_rows
from tle.enums import Status
from tle.errors import CacheError
from tle.progress import Progress

_BLOCK_BYTES = 1 << 26


def check_complete(cache: Cache) -> None:
    """Refuse a cache with pending rows, or whose labels, classes, ids or splits are not what was written.

    Raises:
        CacheError: it is so; the message says what to do.
    """
    pending = int((cache.status == Status.PENDING).sum())
    if pending:
        raise CacheError(f"{pending:,} of {len(cache):,} rows of {cache.path} are pending: extract it again first")
    if wrong := damaged_arrays(cache):
        raise CacheError(f"{cache.path}: {' and '.join(f'/{name}' for name in wrong)} is damaged: {_verify(cache)}")


def check_rows(cache: Cache, counter: Progress) -> None:
    """Refuse a cache with rows whose checksum is wrong; all of it is read.

    Args:
        cache: what is to be taken over.
        counter: advances by N.

    Raises:
        CacheError: there are such rows; the message says how many.
    """
    step = max(1, _BLOCK_BYTES // max(cache.dim * cache.features.dtype.itemsize, 1))
    n_bad = 0
    for start in range(0, len(cache), step):
        rows = np.arange(start, min(start + step, len(cache)))
        n_bad += len(damaged_rows(cache, rows))
        counter.advance(len(rows))
    if n_bad:
        raise CacheError(f"{n_bad:,} of {len(cache):,} rows of {cache.path} are damaged: {_verify(cache)}")


def _verify(cache: Cache) -> str:
    return f"tle verify {shlex.quote(str(cache.path))} tells which, and repairs them"
