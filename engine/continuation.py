"""How a run goes on from what is there: which rows stay, what runs the rest, and into which file.

    finished     NAME.h5        stays as it is until a new file replaces it
    unfinished   NAME.h5.part   gone on with in place where it is of the same pictures and plan, else its rows move

# N pictures of the source
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache, open_cache
from tle.cache.claim import Claim
from tle.cache.layout import Content
from tle.cache.reader import open_unfinished
from tle.cache.writer import CacheWriter
from tle.enums import Status
from tle.errors import CacheError, FingerprintError, OutputError, RuntimeChoiceError
from tle.execution import AUTO, Execution
from tle.files import part_path
from tle.identity import as_before, check_same_kind
from tle.inventory import Kept, same_pictures, sound, usable
from tle.progress import tell
from tle.sources import Source

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone
    from tle.tuning.choice import Choice

_EARLIER = 20  # records of earlier runs that a cache keeps at most


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
        left = part_path(request.path)
        if left.exists():
            stock.notes = [f"{left} was left by an interrupted run and is not needed any more"]


def _usable(request: Request, stock: Stock, cache: Cache) -> Kept:
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


def _use_unfinished(request: Request, stock: Stock, claim: Claim) -> None:
    """Count in what an interrupted run left, or say why it cannot be used."""
    try:
        unfinished = open_unfinished(claim.part, claim.fd)
        check_same_kind(unfinished, request.spec, request.dtype, request.execution)
    except (CacheError, FingerprintError) as error:
        if request.overwrite:
            stock.notes.append(f"what was left in {claim.part} is dropped")
            return
        raise type(error)(f"{error} (it was left by an interrupted run)") from error
    kept = _usable(request, stock, unfinished)
    stock.unfinished = unfinished
    stock.in_place = same_pictures(unfinished, request.source)
    stock.keep(kept)
    n = sum(len(kept.new) for kept in stock.kept)
    stock.notes.append(f"going on with {claim.part}: {n:,} of {len(request.source):,} pictures are done")


def choose_plan(request: Request, backbone: "Backbone", stock: Stock) -> "Choice | None":
    """What runs the pictures that are left; as before, where there is a before. None where nothing is left.

    Raises:
        RuntimeChoiceError: what the user fixed does not run here.
        FingerprintError: the pictures that are left need another decoder than those that are done.
    """
    from tle.tuning.choice import choose

    pending = stock.pending
    if not len(pending):
        return None
    execution, decoder = request.execution, request.execution.decoder
    before = stock.unfinished or stock.finished
    if before is not None and stock.kept:
        decoder, precision = as_before(before, execution)
        execution = replace(execution, precision=precision)

    def choosing(execution: Execution) -> "Choice":
        return choose(
            backbone,
            request.source,
            execution,
            decoder=decoder,
            n_images=len(pending),
            say=lambda line: tell([line], shown=request.progress),
        )

    choice = None
    if stock.unfinished is not None and stock.kept:
        try:
            choice = choosing(_as_interrupted(execution, stock.unfinished.run))
        except RuntimeChoiceError as error:
            stock.notes.append(f"not as before the interruption: {error}")
            tell(stock.notes[-1:], shown=request.progress)
    choice = choice or choosing(execution)
    if before is not None and stock.kept and choice.decoder != decoder:
        raise FingerprintError(
            f"the pictures that are left need exact decoding, those in {before.path} were decoded by {decoder}: extract all "
            "of them with --exact-decode --overwrite"
        )
    return choice


def _as_interrupted(execution: Execution, run: Mapping[str, Any]) -> Execution:
    """The plan of the interrupted run, where the user does not fix another."""
    plan = run.get("plan") or {}
    return replace(
        execution,
        runtime=plan.get("runtime", AUTO) if execution.runtime == AUTO else execution.runtime,
        device=plan.get("device", AUTO) if execution.device == AUTO else execution.device,
        batch_size=run.get("batch_size") if execution.batch_size is None else execution.batch_size,
    )


def open_writer(request: Request, stock: Stock, choice: "Choice | None", record: Mapping[str, Any]) -> CacheWriter:
    """The file to write to, with all rows in it that are kept.

    Raises:
        OutputError: it cannot be created.
    """
    claim, unfinished = stock.claim, stock.unfinished
    if claim is None:
        raise ValueError("nothing is left to do")
    if unfinished is not None and stock.in_place and _same_plan(unfinished.run, choice):
        writer = CacheWriter.resume(claim, unfinished)
        here = next((kept.new for kept in stock.kept if kept.cache is unfinished), np.zeros(0, np.int64))
        writer.reset(np.setdiff1d(np.flatnonzero(writer.status), here))
    else:
        writer = CacheWriter.create(request.path, _content(request, stock, choice, record), claim=claim)
    for kept in stock.kept:
        if kept.cache is not unfinished or not writer.resumed:
            writer.carry(kept.cache, kept.old, kept.new, stock.files[kept.new])
    writer.commit()
    return writer


def _same_plan(run: Mapping[str, Any], choice: "Choice | None") -> bool:
    """Whether what is said of how the rows were made is true of the rest as well."""
    if choice is None:
        return True
    ours = choice.record()
    return all(run.get(key) == ours[key] for key in ("plan", "batch_size", "precision"))


def _content(request: Request, stock: Stock, choice: "Choice | None", record: Mapping[str, Any]) -> Content:
    before = [kept.cache for kept in stock.kept]
    if choice is None:  # every row is there: only what is said about them changes
        own = {key: value for key, value in before[0].run.items() if key != "parts"}  # of a merged cache
        spec, run = before[0].spec, {**own, **record}
    else:
        spec = {**request.spec, "decoder": choice.decoder, "precision": choice.plan.precision}
        run = {**choice.record(), **record}
    earlier: list[Any] = []
    for cache in before if choice is not None else before[1:]:
        own = {key: value for key, value in cache.run.items() if key != "earlier"}
        earlier += [run for run in [*cache.run.get("earlier", []), own] if run not in earlier]
    source = request.source
    return Content(
        ids=source.ids,
        labels=source.labels,
        classes=source.classes,
        splits=source.splits,
        target=source.target,
        dim=int(request.spec["backbone"]["dim"]),
        dtype=request.dtype,
        spec=spec,
        run=run | ({"earlier": earlier[-_EARLIER:]} if earlier else {}),
    )
