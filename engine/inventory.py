"""Which rows of a cache are as good as new ones, for the pictures of a source.

# N pictures of the source, k rows that are kept
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache
from tle.cache.checksums import array_checksum
from tle.cache.verification import damaged_rows
from tle.enums import Status
from tle.progress import track
from tle.sources import Source
from tle.sources.digests import digests_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Rows of one cache that are as good as new ones.

    Attributes:
        cache: where they are.
        old: (k,) int64 rows there, ascending in `new`.
        new: (k,) int64 rows of the source.
        changed: pictures whose bytes are others than when they were extracted.
        unreachable: pictures that cannot be read now and could then; their rows are kept.
    """

    cache: Cache
    old: NDArray[np.int64]
    new: NDArray[np.int64]
    changed: int = 0
    unreachable: int = 0

    def without(self, new: NDArray[np.bool_]) -> "Kept":
        """Those whose row of the source is not marked in (N,) `new`."""
        rest = ~new[self.new]
        return replace(self, old=self.old[rest], new=self.new[rest])


def same_pictures(cache: Cache, source: Source) -> bool:
    """Whether a cache is of the same ids, labels, classes and splits, in the same order."""
    return (
        cache.ids == source.ids
        and cache.target == source.target
        and cache.classes == source.classes
        and _equal(cache.labels, source.labels)
        and _equal(cache.splits, source.splits)
    )


def usable(
    cache: Cache,
    source: Source,
    files: NDArray[Any],
    *,
    verify_inputs: bool,
    retry_failed: bool,
    progress: bool,
) -> Kept:
    """Rows of `cache` for pictures of `source` that are the same as then.

    A picture is the same if its file has the same size and modification time, else if its bytes have the same digest. One
    that cannot be read now says nothing about its row.

    Args:
        cache: features of the kind that is asked for.
        source: the pictures.
        files: (N,) sizes and modification times now.
        verify_inputs: compare digests of all pictures.
        retry_failed: rows that failed are not kept.
        progress: show the progress of reading pictures.
    """
    old, new = _by_id(cache, source)
    good = cache.status[old] == Status.DONE
    if not retry_failed:
        good |= cache.status[old] == Status.FAILED
    old, new = old[good], new[good]
    # Where names are damaged, or of pictures in another place, only the bytes say which picture is which.
    known = cache.structure.checksums.get("ids") == array_checksum(cache.raw("ids"))
    known &= cache.run.get("source") == str(source.root.absolute())
    same = (cache.files[old] == files[new]) & (known and not verify_inputs)
    sizes_then, sizes_now = cache.files["size"][old], files["size"][new]
    another = (sizes_then > 0) & (files["mtime_ns"][new] != 0) & (sizes_then != sizes_now)
    doubtful = np.flatnonzero(~same & ~another)
    unreachable = 0
    if len(doubtful):
        found, then = _digests(source, new[doubtful], cache, progress), cache.digests[old[doubtful]]
        away = (found == 0) & (cache.status[old[doubtful]] == Status.DONE)
        same[doubtful] = (found == then) | away
        unreachable = int(away.sum())
    return Kept(cache=cache, old=old[same], new=new[same], changed=int((~same).sum()), unreachable=unreachable)


def none_in_common(cache: Cache, source: Source) -> bool:
    """Whether not one picture of the source is in the cache."""
    return not len(_by_id(cache, source)[0])


def sound(kept: Kept) -> tuple[Kept, int]:
    """Rows whose checksums are right, and how many are left out: what is taken over gets a checksum of its own."""
    bad = np.isin(kept.old, damaged_rows(kept.cache, kept.old))
    bad |= kept.cache.status[kept.old] == Status.PENDING  # marked so since it was looked at
    return replace(kept, old=kept.old[~bad], new=kept.new[~bad]), int(bad.sum())


def _by_id(cache: Cache, source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(old, new) rows of the pictures that are in both, ascending in new."""
    if cache.ids == source.ids:
        rows = np.arange(len(source), dtype=np.int64)
        return rows, rows
    known = {name: row for row, name in enumerate(cache.ids)}
    found = np.fromiter((known.get(name, -1) for name in source.ids), np.int64, len(source))
    new = np.flatnonzero(found >= 0)
    return found[new], new


def _digests(source: Source, rows: NDArray[np.int64], cache: Cache, progress: bool) -> NDArray[np.uint64]:
    found = np.zeros(len(rows), np.uint64)
    with track(len(rows), f"comparing pictures with {cache.path.name}", shown=progress) as counter:
        for number, digest in enumerate(digests_of(source, rows.tolist())):
            found[number] = digest
            counter.advance(1)
    return found


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
