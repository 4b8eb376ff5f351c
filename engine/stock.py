"""What is there already of the features that are asked for, finished or not.

    finished     NAME.h5        stays as it is until a new file replaces it
    unfinished   NAME.h5.part   what an interrupted run left

# N pictures of the source
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache, open_cache
from tle.cache.claim import Claim
from tle.cache.reader import open_unfinished
from tle.enums import Status
from tle.errors import CacheError, FingerprintError, OutputError
from tle.execution import Execution
from tle.files import part_path
from tle.identity import check_same_kind, spec_difference
from tle.inventory import Kept, none_in_common, same_pictures, sound, usable
from tle.sources import Source
from tle.sources.source import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for: the arguments of `tle.extract`, and `spec` of the features as `tle.identity` describes them."""

    path: Path
    source: Source
    spec: Mapping[str, Any]
    dtype: str
    execution: Execution
    overwrite: bool
    retry_failed: bool
    verify_inputs: bool
    progress: bool


@dataclass(slots=True, kw_only=True)
class Stock:
    """What is there.

    Attributes:
        files: (N,) sizes and modification times of the pictures' files now.
        finished: the finished cache, if it is to be used.
        old: its rows that need no extraction.
        unfinished: the file of an interrupted run, if it is to be used.
        in_place: whether that is of the very same pictures, labels and splits.
        kept: rows that need no extraction, each once.
        complete: the finished cache, where nothing at all is left to do.
        claim: the right to write; None where nothing is left to do.
        notes: one-line facts that the user has to be told.
    """

    files: NDArray[Any]
    finished: Cache | None = None
    old: Kept | None = None
    unfinished: Cache | None = None
    in_place: bool = False
    kept: list[Kept] = field(default_factory=list)
    complete: Cache | None = None
    claim: Claim | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def pending(self) -> NDArray[np.int64]:
        """Rows of the source that nothing is there for, ascending."""
        rest = np.ones(len(self.files), np.bool_)
        for kept in self.kept:
            rest[kept.new] = False
        return np.flatnonzero(rest)

    def keep(self, kept: Kept) -> None:
        """Count sound rows as kept, but those that are already."""
        here = np.ones(len(self.files), np.bool_)
        here[self.pending] = False
        kept, n_bad = sound(kept.without(here))
        if n_bad:
            self.notes.append(f"{n_bad:,} rows of {kept.cache.path} are damaged and are extracted again")
        if len(kept.new):
            self.kept.append(kept)


def recognise(request: Request, reference: Mapping[str, Any] | None) -> Stock:
    """Look at a finished cache that was made by a backbone of the same reference.

    So that nothing to do takes no time: neither torch nor the backbone is loaded.

    Args:
        request: what is asked for; its spec does not matter yet.
        reference: as `tle.backbones.reference` gives it; None recognises nothing.

    Returns:
        What is there; `complete` is set where nothing is left to do.

    Raises:
        FingerprintError, CacheError, OutputError: as `take_stock` does.
    """
    stock = Stock(files=request.source.files())
    if reference is not None and request.path.is_file() and not request.overwrite:
        cache = open_cache(request.path)
        if cache.run.get("reference") == reference:
            _use_finished(replace(request, spec=cache.spec), stock, cache)
    return stock


@contextmanager
def take_stock(request: Request, stock: Stock) -> Iterator[Cache | None]:
    """See what is there for a request, and hold the right to write while the block runs.

    Args:
        request: what is asked for.
        stock: what `recognise` found; the rest is filled in.

    Yields:
        The finished cache, where nothing is left to do.

    Raises:
        FingerprintError: features of another kind are there.
        CacheError: what is there is damaged.
        OutputError: another process writes it, or pictures failed under another limit.
    """
    if request.path.is_file() and not request.overwrite:
        _use_finished(request, stock, stock.finished or open_cache(request.path))
    if stock.complete is not None:
        yield stock.complete
        return
    claim = Claim(request.path)
    try:
        stock.claim = claim
        if claim.found:
            _use_unfinished(request, stock, claim)
        if stock.finished is not None:
            if stock.finished.is_replaced():  # by a process that had the claim until now
                _use_finished(request, stock, open_cache(request.path))
            if stock.unfinished is not None:
                _check_of_one_kind(stock.unfinished, stock.finished)
            if stock.old is not None:
                _describe(stock, stock.old, request.source)
                stock.keep(stock.old)
        yield None
    finally:
        claim.release()


def _use_finished(request: Request, stock: Stock, cache: Cache) -> None:
    """Count in a finished cache; looked at twice, its pictures are compared once."""
    check_same_kind(cache, request.spec, request.dtype, request.execution)
    if stock.finished is not cache:
        stock.finished, stock.old = cache, _usable(request, stock, cache)
    kept = stock.old
    if kept is not None and len(kept.new) == len(request.source) and same_pictures(cache, request.source):
        stock.complete = cache
        stock.notes = [*_away(kept), *_left_over(request.path)]


def _away(kept: Kept) -> list[str]:
    if not kept.unreachable:
        return []
    return [f"{plural(kept.unreachable, 'picture')} of {kept.cache.path} cannot be read now: what they had is kept"]


def _left_over(path: Path) -> list[str]:
    """Say that an unfinished file is not needed, unless somebody is writing it."""
    if not part_path(path).exists():
        return []
    try:
        claim = Claim(path)
    except OutputError:
        return []
    claim.release()
    return [f"{part_path(path)} was left by an interrupted run and is not needed any more"]


def _check_of_one_kind(unfinished: Cache, finished: Cache) -> None:
    """Each may go with what is asked for, and still not with the other: where decoder or precision were left open."""
    same_precision = unfinished.spec.get("precision") == finished.spec.get("precision")
    if unfinished.fingerprint != finished.fingerprint or not same_precision:
        raise FingerprintError(
            f"{unfinished.path} and {finished.path} hold features of two kinds "
            f"({spec_difference(unfinished.spec, finished.spec)}): pass --overwrite to go on with the first and replace the "
            "second"
        )


def _usable(request: Request, stock: Stock, cache: Cache) -> Kept:
    if none_in_common(cache, request.source):
        raise OutputError(
            f"{cache.path} is of other pictures, none of those in {request.source.root} is in it: name another output, or "
            "pass --overwrite to replace it"
        )
    kept = usable(
        cache,
        request.source,
        stock.files,
        verify_inputs=request.verify_inputs,
        retry_failed=request.retry_failed,
        progress=request.progress,
    )
    limit = request.execution.max_pixels
    n_failed = int((cache.status[kept.old] == Status.FAILED).sum())
    if n_failed and cache.run.get("max_pixels") != limit:
        raise OutputError(
            f"{n_failed:,} pictures of {cache.path} failed under --max-pixels {cache.run.get('max_pixels')}, now it is "
            f"{limit}; pass --retry-failed to try them again"
        )
    return kept


def _describe(stock: Stock, kept: Kept, source: Source) -> None:
    """Say what is new, changed and gone against a finished cache."""
    cache = kept.cache
    gone = len(set(cache.ids).difference(source.ids))
    new = len(set(source.ids).difference(cache.ids))
    again = len(source) - len(kept.new) - new - kept.changed
    counts = {"new": new, "changed": kept.changed, "extracted again": again, "gone from the source and dropped": gone}
    shown = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    stock.notes.append(f"{cache.path}: {len(kept.new):,} pictures as before{f', {shown}' if shown else ''}")
    stock.notes += _away(kept)


def _use_unfinished(request: Request, stock: Stock, claim: Claim) -> None:
    """Count in what an interrupted run left, or say why it cannot be used."""
    try:
        unfinished = open_unfinished(claim.part, claim.fd)
        check_same_kind(unfinished, request.spec, request.dtype, request.execution)
        kept = _usable(request, stock, unfinished)
    except (CacheError, FingerprintError, OutputError) as error:
        if request.overwrite:
            stock.notes.append(f"what was left in {claim.part} is dropped")
            return
        raise type(error)(f"{error} (it was left by an interrupted run)") from error
    if request.overwrite and not unfinished.run.get("overwrite"):
        stock.notes.append(f"what was left in {claim.part} is dropped: rows of an older cache may be in it")
        return
    stock.unfinished = unfinished
    stock.in_place = same_pictures(unfinished, request.source)
    stock.keep(kept)
    n = sum(len(kept.new) for kept in stock.kept)
    stock.notes.append(f"going on with {claim.part}: {n:,} of {len(request.source):,} pictures are done")
