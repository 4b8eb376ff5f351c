"""The main job: every picture of a source through a frozen backbone, once, into a cache."""

import platform
import shlex
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tle.cache import Cache, open_cache
from tle.cache_writer import CacheWriter
from tle.enums import Target
from tle.errors import AllImagesFailedError, ImageError, UsageError
from tle.execution import Execution
from tle.files import check_output
from tle.identity import complete_cache, feature_spec
from tle.images import decoder_versions
from tle.pipeline import Decoding, run
from tle.progress import tell, track
from tle.sources import Source, open_source

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone
    from tle.backbones.load import PreprocessOverrides
    from tle.tuning.choice import Choice

DTYPES = ("float32", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractResult:
    """What an extraction did.

    Attributes:
        path: the cache.
        n_images: pictures in the source.
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
    progress: bool = False,
) -> ExtractResult:
    """Extract the features of every picture into a cache.

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
        overwrite: replace an existing cache.
        progress: show progress on standard error.

    Returns:
        What was done.

    Raises:
        TleError: bad input, in one line; see `tle.errors`.
        AllImagesFailedError: not one picture could be read; the cache with the reasons is written all the same.
    """
    from tle.backbones.load import load_backbone
    from tle.tuning.choice import choose

    path, execution = Path(output), execution or Execution()
    if dtype not in DTYPES:
        raise UsageError(f"--dtype takes {' or '.join(DTYPES)}, got {dtype!r}")
    check_output(path, overwrite=overwrite or path.is_file(), inputs=[images])
    source = open_source(images, target=target)
    tell(source.notes, shown=progress)
    loaded = load_backbone(backbone, weights=weights, layer=layer, pool=pool, overrides=overrides)
    tell(loaded.notes, shown=progress)
    notes = source.notes + loaded.notes
    if path.is_file() and not overwrite:
        cache = complete_cache(path, loaded, dtype, source, execution, progress=progress)
        return _result(cache, loaded, None, elapsed_s=0.0, strict=strict, notes=notes)
    choice = choose(
        loaded,
        source,
        execution,
        decoder=execution.decoder,
        say=lambda line: tell([line], shown=progress),
    )
    tell([*choice.notes, choice.describe()], shown=progress)
    notes += choice.notes
    decoding = Decoding(preprocess=loaded.preprocess, decoder=choice.decoder, max_pixels=execution.max_pixels)
    started = time.monotonic()
    writer = CacheWriter(
        path,
        ids=source.ids,
        labels=source.labels,
        classes=source.classes,
        splits=source.splits,
        target=source.target,
        dim=loaded.dim,
        dtype=dtype,
        spec=feature_spec(loaded, decoder=choice.decoder, precision=choice.plan.precision),
        run=choice.record() | _run_record(source, notes, execution.max_pixels),
    )
    with writer, track(len(source), "extracting", shown=progress) as counter:
        batches = run(
            source,
            choice.runtime,
            decoding,
            batch_size=choice.plan.batch_size,
            dim=loaded.dim,
            workers=execution.threads,
        )
        for batch in batches:
            for failure in batch.failures:
                if strict:
                    raise ImageError(f"{source.path(failure.index)}: {failure.reason} (stopped by --strict)")
                writer.fail(failure.index, failure.reason, failure.digest)
            writer.write(batch.indices, batch.features, batch.digests)
            counter.advance(len(batch.indices) + len(batch.failures), len(batch.failures))
        writer.finish(replace=overwrite)
    elapsed_s = time.monotonic() - started
    return _result(open_cache(path), loaded, choice, elapsed_s=elapsed_s, strict=strict, notes=notes)


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


def _result(
    cache: Cache,
    backbone: "Backbone",
    choice: "Choice | None",
    *,
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
        images_per_s=len(cache) / elapsed_s if elapsed_s else 0.0,
        elapsed_s=elapsed_s,
        already_done=choice is None,
        backbone=backbone.name,
        runtime=str(cache.run.get("runtime")),
        precision=str(cache.spec.get("precision")),
        batch_size=choice.plan.batch_size if choice else 0,
        tuning_s=choice.tuning_s if choice else 0.0,
        parity=cache.run.get("parity") or {},
        notes=notes,
    )
