"""Is a cache what was once written? Every byte that means something is under a checksum.

# N images, k rows
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tle.cache.checksums import array_checksum, row_checksums, row_views
from tle.cache.claim import Claim
from tle.cache.layout import clip_reason
from tle.cache.reader import Cache, open_unchecked
from tle.enums import Status
from tle.errors import CacheError, OutputError, one_line
from tle.files import write_at
from tle.progress import track
from tle.sources import open_source
from tle.sources.digests import digests_of

_BLOCK_BYTES = 1 << 24


def damaged_rows(cache: Cache, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of `rows` whose checksum is wrong, ascending; pending ones have none.

    Args:
        cache: where they are.
        rows: (k,) int64.
    """
    bad = np.zeros(len(rows), np.bool_)
    done, failed = (cache.status[rows] == status for status in (Status.DONE, Status.FAILED))
    bad |= cache.status[rows] > max(Status)
    positions = np.flatnonzero(done)
    step = max(1, _BLOCK_BYTES // max(cache.dim * cache.features.dtype.itemsize, 1))
    for start in range(0, len(positions), step):
        block = positions[start : start + step]
        at = rows[block]
        found = row_checksums(row_views(cache.gather(at)), cache.digests[at], cache.files[at], Status.DONE)
        bad[block] = found != cache.checksums[at]
    reasons, positions = cache.reasons, np.flatnonzero(failed)
    at = rows[positions]
    contents = [clip_reason(reasons.get(row, "")) for row in at.tolist()]
    bad[positions] = row_checksums(contents, cache.digests[at], cache.files[at], Status.FAILED) != cache.checksums[at]
    return np.sort(rows[bad])


def damaged_arrays(cache: Cache) -> tuple[str, ...]:
    """Names of what is written once and is not what was written: labels, classes, ids, splits, run, failures."""
    expected = cache.structure.checksums
    arrays = {name: cache.raw(name) for name in ("labels", "classes", "ids", "splits")}
    arrays["run"] = np.frombuffer(cache.structure.run_text, np.uint8)
    wrong = [name for name, array in arrays.items() if array_checksum(array) != expected.get(name)]
    listed = np.sort(cache.structure.failures["index"])
    # A row that was repaired is pending, and still listed; a row that failed is always listed.
    failed, pending = (np.flatnonzero(cache.status == status) for status in (Status.FAILED, Status.PENDING))
    if len(np.unique(listed)) != len(listed) or not np.array_equal(np.setdiff1d(listed, pending), failed):
        wrong.append("failures")
    return tuple(wrong)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """What a verification found.

    Attributes:
        path: the cache.
        n_images: rows N.
        damaged: rows whose checksum is wrong: features, digest, file, status or reason are not what was written.
        not_finite: rows whose features hold NaN or infinity.
        pending: rows that are neither done nor failed.
        arrays: what is written once and is not what was written: labels, classes, ids, splits, run, failures.
        changed: rows whose picture has other bytes now; looked at where pictures were given.
        missing: rows whose picture is not there, or cannot be read, and could when it was extracted.
        repaired: rows that were marked as pending.
        names: ids of all those rows.
    """

    path: Path
    n_images: int
    damaged: tuple[int, ...]
    not_finite: tuple[int, ...]
    pending: tuple[int, ...]
    arrays: tuple[str, ...]
    changed: tuple[int, ...]
    missing: tuple[int, ...]
    repaired: tuple[int, ...]
    names: dict[int, str]

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not (self.damaged or self.not_finite or self.pending or self.arrays or self.changed or self.missing)


def verify(
    cache: str | Path, *, images: str | Path | None = None, repair: bool = False, progress: bool = False
) -> VerifyResult:
    """Read all of a cache and compare it with its checksums.

    Args:
        cache: the file.
        images: the folder or manifest that it was made of: its pictures are read and compared as well.
        repair: mark rows that are damaged, not finite or changed as pending, so that the next `tle.extract` does them
            again. Nothing else in the file is touched.
        progress: show progress on standard error.

    Returns:
        What was found.

    Raises:
        CacheError: its structure is damaged so that no row can be found, or it cannot be repaired.
        OutputError: another process writes it, or the file system refused.
    """
    path = Path(cache)
    opened = open_unchecked(path)
    n = len(opened)
    bad = np.zeros(n, np.bool_)
    infinite = np.zeros(n, np.bool_)
    step = max(1, _BLOCK_BYTES // max(opened.dim * opened.features.dtype.itemsize, 1))
    with track(n, f"verifying {path.name}", unit="rows", shown=progress) as counter:
        for start in range(0, n, step):
            rows = np.arange(start, min(start + step, n))
            bad[damaged_rows(opened, rows)] = True
            infinite[rows] = ~np.isfinite(opened.features[start : start + len(rows)]).all(1)
            counter.advance(len(rows))
    infinite &= opened.valid
    changed, missing = _against(opened, images, progress) if images is not None else (bad[:0], bad[:0])
    redo = bad | infinite
    if len(changed):
        redo |= changed
    repaired = np.flatnonzero(redo) if repair else np.zeros(0, np.int64)
    if len(repaired):
        _mark_pending(opened, repaired)
    pending = (opened.status == Status.PENDING) & ~(redo if len(repaired) else False)
    told = bad | infinite | pending
    if len(changed):
        told |= changed | missing
    ids = opened.raw("ids")
    return VerifyResult(
        path=path,
        n_images=n,
        damaged=_rows(bad),
        not_finite=_rows(infinite & ~bad),
        pending=_rows(pending),
        arrays=damaged_arrays(opened),
        changed=_rows(changed),
        missing=_rows(missing),
        repaired=tuple(repaired.tolist()),
        names={row: ids[row].decode("utf-8", "replace") for row in _rows(told)},
    )


def _rows(marked: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(marked).tolist())


def _against(cache: Cache, images: str | Path, progress: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) which rows' pictures changed, and which are missing."""
    source = open_source(images)
    places = {name: row for row, name in enumerate(source.ids)}
    found = np.zeros(len(cache), np.uint64)
    rows = [row for row, name in enumerate(cache.ids) if name in places]
    with track(len(rows), "reading pictures", shown=progress) as counter:
        for row, digest in zip(rows, digests_of(source, [places[cache.ids[row]] for row in rows]), strict=True):
            found[row] = digest
            counter.advance(1)
    missing = (found == 0) & (cache.digests != 0)
    return (found != cache.digests) & ~missing, missing


def _mark_pending(cache: Cache, rows: NDArray[np.int64]) -> None:
    if cache.structure.parts:
        names = ", ".join(str(part.path) for part in cache.structure.parts)
        raise CacheError(f"{cache.path} is merged of {names}: repair those, extract again and merge again")
    claim = Claim(cache.path)
    try:
        slot = cache.structure.slots["status"]
        fd = os.open(cache.path, os.O_RDWR)
        try:
            if cache.is_replaced():  # by an extraction that had the claim until now
                raise CacheError(f"{cache.path} was replaced while it was verified: verify it again")
            for row in rows.tolist():
                write_at(fd, bytes([Status.PENDING]), slot.offset + row)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise OutputError(f"cannot repair {cache.path}: {one_line(error)}") from error
    finally:
        claim.release()
