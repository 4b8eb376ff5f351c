"""The main job: every picture of a source through a frozen backbone, once, into a cache."""

import platform
import shlex
import time
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tle.backbones.reference import backbone_reference
from tle.cache import Cache, open_cache
from tle.cache.writer import CacheWriter
from tle.continuation import choose_plan, open_writer, take_over
from tle.enums import Target
from tle.errors import AllImagesFailedError, CacheError, ImageError, TleError, UsageError
from tle.execution import Execution
from tle.files import check_output
from tle.identity import feature_spec
from tle.images import decoder_versions
from tle.pipeline import Decoding, run
from tle.progress import tell, track
from tle.sources import Source, open_source
from tle.stock import Request, Stock, recognise, take_stock

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone
    from tle.backbones.load import PreprocessOverrides
    from tle.tuning.choice import Choice
    from tle.views import View

DTYPES = ("float32", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractResult:
    """What an extraction did.

    Attributes:
        path: the cache.
        n_images: pictures in the source.
        n_extracted: those that were extracted now, failed ones among them; the others were there already.
        n_failed: those that have no features; `tle inspect --failures` lists them.
        dim: feature dimension D.
        images_per_s: rate of the run, start-up excluded; 0 where there was nothing to do.
        elapsed_s: seconds of the run, start-up excluded.
        already_done: the cache was there, complete and of the same identity: nothing was extracted.
        backbone: name of the backbone.
        runtime: what executed it.
        precision: what it was computed in.
        batch_size: pictures a call; 0 where there was nothing to do.
        tuning_s: seconds spent on choosing the runtime and comparing it with the reference, before the clock started.
        parity: how near the features are to the float32 reference on a sample (`tle.tuning.parity.Parity`); empty where
            they are the reference.
        notes: one-line facts that the user has to be told.
    """

    path: Path
    n_images: int
    n_extracted: int
    n_failed: int
    dim: int
    images_per_s: float
    elapsed_s: float
    already_done: bool
    backbone: str
    runtime: str
    precision: str
    batch_size: int
    tuning_s: float
    parity: dict[str, Any]
    notes: tuple[str, ...]


def extract(
    images: str | Path,
    output: str | Path,
    *,
    backbone: str,
    weights: str = "DEFAULT",
    layer: str | None = None,
    pool: str | None = None,
    overrides: "PreprocessOverrides | None" = None,
    target: str | None = None,
    execution: Execution | None = None,
    dtype: str = "float32",
    strict: bool = False,
    overwrite: bool = False,
    retry_failed: bool = False,
    verify_inputs: bool = False,
    view: "View | None" = None,
    progress: bool = False,
) -> ExtractResult:
    """Extract the features of every picture into a cache.

    What is there already is not done again: an unfinished run goes on where it stopped, and of a finished cache the rows
    of pictures that are still the same are taken over into the new one, which then replaces it in one step.

    Args:
        images: a folder (`class/img`, `train/class/img` or flat) or a CSV or Parquet manifest.
        output: the cache to write, `NAME.h5`.
        backbone: `torchvision/NAME`, `timm/NAME`, `onnx:FILE[#TENSOR]` or `package.module:function`.
        weights: name of published weights, "DEFAULT", "none" (random), a file, or `package:PACKAGE/FILE`.
        layer: where to take the features; None takes the penultimate ones.
        pool: how a layer's output becomes (B, D): avg, max, cls, cls+avg or none.
        overrides: deviations from the preprocessing that the weights ask for.
        target: "class", "multilabel" or "regression"; None sees it from the labels.
        execution: runtime, precision, batch size, decoding; None leaves all of it to measurement.
        dtype: storage type, "float32" or "float16".
        strict: stop at the first bad picture instead of recording it.
        overwrite: replace an existing cache instead of using its rows.
        retry_failed: try pictures again that failed before.
        verify_inputs: compare the bytes of all pictures with those that were extracted, not only sizes and times.
        view: a random view of every picture instead of the one that is evaluated, for `tle.fit_head(views=...)`.
        progress: show progress on standard error.

    Returns:
        What was done.

    Raises:
        TleError: bad input, in one line; see `tle.errors`.
        AllImagesFailedError: not one picture could be read; the cache with the reasons is written all the same.
        KeyboardInterrupt: the user stopped it; the message says what is kept and how to go on.
    """
    path, execution = Path(output), execution or Execution()
    if dtype not in DTYPES:
        raise UsageError(f"--dtype takes {' or '.join(DTYPES)}, got {dtype!r}")
    if view is not None and execution.gpu_decode:
        raise UsageError("random views are not decoded on the GPU: leave out --gpu-decode, or --view")
    check_output(path, overwrite=overwrite or path.is_file(), inputs=[images])
    source = open_source(images, target=target)
    tell(source.notes, shown=progress)
    request = Request(
        path=path,
        source=source,
        spec={},
        dtype=dtype,
        execution=execution,
        overwrite=overwrite,
        retry_failed=retry_failed,
        verify_inputs=verify_inputs,
        progress=progress,
    )
    reference = backbone_reference(backbone, weights=weights, layer=layer, pool=pool, overrides=overrides)
    if reference is not None and view is not None:
        reference["view"] = view.to_dict()
    stock = recognise(request, reference)
    if stock.complete is not None:
        notes = tuple(stock.complete.run.get("backbone_notes", ())) + tuple(stock.notes)
        tell(notes, shown=progress)
        return _nothing_to_do(stock.complete, strict=strict, notes=source.notes + notes)
    from tle.backbones.load import load_backbone

    loaded = load_backbone(backbone, weights=weights, layer=layer, pool=pool, overrides=overrides)
    tell(loaded.notes, shown=progress)
    request = replace(
        request, spec=feature_spec(loaded, decoder=execution.decoder, precision=execution.precision, view=view)
    )
    notes = source.notes + loaded.notes
    with take_stock(request, stock) as complete:
        tell(stock.notes, shown=progress)
        notes += tuple(stock.notes)
        if complete is not None:
            return _nothing_to_do(complete, strict=strict, notes=notes)
        choice = choose_plan(request, loaded, stock)
        if choice is not None:
            tell([*choice.notes, choice.describe()], shown=progress)
            notes += choice.notes
        started = time.monotonic()
        record = _run_record(source, notes, execution.max_pixels)
        record |= {"reference": reference, "backbone_notes": list(loaded.notes), "overwrite": overwrite}
        writer = open_writer(request, stock, choice, record)
        try:
            with writer:
                take_over(stock, writer)
                kept = len(source) - len(writer.pending)
                if choice is not None:
                    _extract(request, loaded, stock, choice, writer, view=view, strict=strict)
                replace_it = stock.finished is not None and not stock.finished.is_replaced()
                writer.finish(replace=overwrite or replace_it)
        except (TleError, KeyboardInterrupt) as error:
            raise type(error)(_and_what_is_kept(error, writer)) from error
    elapsed_s = time.monotonic() - started
    return _result(open_cache(path), choice, kept=kept, elapsed_s=elapsed_s, strict=strict, notes=notes)


def _extract(
    request: Request,
    backbone: "Backbone",
    stock: Stock,
    choice: "Choice",
    writer: CacheWriter,
    *,
    view: "View | None",
    strict: bool,
) -> None:
    """The pictures that nothing is there for, through the backbone and into the file."""
    source, execution, pending = request.source, request.execution, writer.pending
    decoding = Decoding(
        preprocess=backbone.preprocess, decoder=choice.decoder, max_pixels=execution.max_pixels, view=view
    )
    states = stock.files[pending]
    batches = run(
        replace(source.subset(pending), states=states),
        choice.runtime,
        decoding,
        batch_size=choice.plan.batch_size,
        dim=backbone.dim,
        workers=execution.threads,
    )
    with track(len(pending), "extracting", shown=request.progress) as counter:
        for found in batches:
            batch = found.at(pending)
            rows = np.concatenate([found.indices, [failure.index for failure in found.failures]]).astype(np.int64)
            stock.files[pending[rows]] = states[rows]  # not of files that were others when they were read
            if strict and batch.failures:
                failure = batch.failures[0]
                raise ImageError(f"{source.path(failure.index)}: {failure.reason} (stopped by --strict)")
            writer.add(batch, stock.files)
            writer.checkpoint()
            counter.advance(len(batch.indices) + len(batch.failures), len(batch.failures))


def _and_what_is_kept(error: BaseException, writer: CacheWriter) -> str:
    """A reason to stop, and how to go on."""
    message, done = str(error), len(writer.status) - len(writer.pending)
    if not done or not writer.part.exists():
        return message
    kept = f"{done:,} of {len(writer.status):,} pictures are kept in {writer.part}"
    if not isinstance(error, CacheError):  # else the same command would end in the same way
        kept += ", the same command goes on from there"
    return f"{message}; {kept}" if message else kept


def _run_record(source: Source, notes: tuple[str, ...], max_pixels: int) -> dict[str, Any]:
    """How the features are made: for people to read later, and no part of the identity."""
    packages = {
        *("tle", "numpy", "h5py", "torch", "torchvision", "timm"),
        *("onnxruntime", "onnxruntime-gpu", "openvino"),
    }
    installed = {found.name.lower(): found.version for found in distributions() if found.name.lower() in packages}
    return {
        "source": str(source.root.absolute()),
        "max_pixels": max_pixels,
        "target": str(Target(source.target)),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": installed | decoder_versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "notes": list(notes),
    }


def _nothing_to_do(cache: Cache, *, strict: bool, notes: tuple[str, ...]) -> ExtractResult:
    return _result(cache, None, kept=len(cache), elapsed_s=0.0, strict=strict, notes=notes)


def _result(
    cache: Cache,
    choice: "Choice | None",
    *,
    kept: int,
    elapsed_s: float,
    strict: bool,
    notes: tuple[str, ...],
) -> ExtractResult:
    """What a run did, or an earlier one: the same failures lead to the same end."""
    if strict and cache.failures:
        index, reason = cache.failures[0]
        raise ImageError(f"{cache.ids[index]}: {reason} ({cache.path} was made without --strict)")
    if len(cache.failures) == len(cache):
        raise AllImagesFailedError(
            f"all {len(cache)} pictures failed, the first because: {cache.failures[0][1]} "
            f"(tle inspect {shlex.quote(str(cache.path))} --failures lists them)"
        )
    return ExtractResult(
        path=cache.path,
        n_images=len(cache),
        n_failed=len(cache.failures),
        dim=cache.dim,
        n_extracted=len(cache) - kept,
        images_per_s=(len(cache) - kept) / elapsed_s if elapsed_s else 0.0,
        elapsed_s=elapsed_s,
        already_done=not elapsed_s,
        backbone=str(cache.spec["backbone"]["name"]),
        runtime=str(cache.run.get("runtime")),
        precision=str(cache.spec.get("precision")),
        batch_size=choice.plan.batch_size if choice else 0,
        tuning_s=choice.tuning_s if choice else 0.0,
        parity=cache.run.get("parity") or {},
        notes=notes,
    )
