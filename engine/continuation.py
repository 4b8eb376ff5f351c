"""How a run goes on from what is there: what runs the rest, and into which file.

An unfinished file is gone on with in place where it is of the same pictures and the same plan, else its rows are taken
over into a new one, which then has its name.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tle.cache import Cache
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.errors import FingerprintError, RuntimeChoiceError
from tle.execution import AUTO, Execution
from tle.identity import as_before
from tle.progress import tell
from tle.stock import Request, Stock

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone
    from tle.tuning.choice import Choice

_EARLIER = 20  # records of earlier runs that a cache keeps at most


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
    """The file to write to; `take_over` fills in what is kept.

    Raises:
        OutputError: it cannot be created.
    """
    claim, unfinished = stock.claim, stock.unfinished
    if claim is None:
        raise ValueError("nothing is left to do")
    if unfinished is not None and stock.in_place and _is_continued(request, stock, unfinished, choice):
        return CacheWriter.resume(claim, unfinished)
    return CacheWriter.create(request.path, _content(request, stock, choice, record), claim=claim)


def take_over(stock: Stock, writer: CacheWriter) -> None:
    """Have every row in the file that is kept, and no other.

    Raises:
        CacheError, OutputError: as `CacheWriter.carry` does.
    """
    if writer.resumed:
        here = [kept.new for kept in stock.kept if kept.cache is stock.unfinished]
        writer.reset(np.setdiff1d(np.flatnonzero(writer.status), np.concatenate([*here, np.zeros(0, np.int64)])))
    for kept in stock.kept:
        if kept.cache is not stock.unfinished or not writer.resumed:
            writer.carry(kept.cache, kept.old, kept.new, stock.files[kept.new])
    writer.commit()


def _is_continued(request: Request, stock: Stock, unfinished: Cache, choice: "Choice | None") -> bool:
    """Whether what an unfinished file says of its rows is true of the rest as well, so that it can be gone on with."""
    if choice is None:  # all is there, and the list of failures may be as well
        return sum(len(kept.new) for kept in stock.kept if kept.cache is unfinished) == len(request.source)
    run, ours = unfinished.run, choice.record()
    return (
        all(run.get(key) == ours[key] for key in ("plan", "batch_size", "precision"))
        and unfinished.spec.get("decoder") == choice.decoder
        and run.get("max_pixels") == request.execution.max_pixels
        and bool(run.get("overwrite")) == request.overwrite
        and not len(unfinished.structure.failures)  # HDF5 changes a list that is there in more than one place
    )


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
