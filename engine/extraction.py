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
from tle.files import check_output
from tle.identity import complete_cache, feature_spec
from tle.images import DEFAULT_MAX_PIXELS, decoder_versions
from tle.pipeline import DEFAULT_BATCH_SIZE, check_options, run
from tle.progress import tell, track
from tle.sources import Source, open_source

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone
    from tle.backbones.load import PreprocessOverrides

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
    runtime: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    workers: int | None = None,
    dtype: str = "float32",
    max_pixels: int = DEFAULT_MAX_PIXELS,
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
        runtime: "torch" or "onnxruntime"; None takes the one that the backbone was made for.
        batch_size: pictures a call of the runtime.
        workers: decoding threads; None takes one a core.
        dtype: storage type, "float32" or "float16".
        max_pixels: pictures with more pixels are recorded as failed.
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
    from tle.runtimes.runtime import open_runtime

    path = Path(output)
    check_options(batch_size, workers, max_pixels)
    if dtype not in DTYPES:
        raise UsageError(f"--dtype takes {' or '.join(DTYPES)}, got {dtype!r}")
    check_output(path, overwrite=overwrite or path.is_file(), inputs=[images])
    source = open_source(images, target=target)
    tell(source.notes, shown=progress)
    loaded = load_backbone(backbone, weights=weights, layer=layer, pool=pool, overrides=overrides)
    tell(loaded.notes, shown=progress)
    spec = feature_spec(loaded)
    notes = source.notes + loaded.notes
    if path.is_file() and not overwrite:
        cache = complete_cache(path, spec, dtype, source, max_pixels=max_pixels, progress=progress)
        return _result(cache, loaded, elapsed_s=0.0, already_done=True, strict=strict, notes=notes)
    executor = open_runtime(loaded, runtime)
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
        spec=spec,
        run=_run_record(executor.description, source, notes, max_pixels),
    )
    with writer, track(len(source), "extracting", shown=progress) as counter:
        batches = run(
            source, loaded.preprocess, executor, batch_size=batch_size, workers=workers, max_pixels=max_pixels
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
    return _result(open_cache(path), loaded, elapsed_s=elapsed_s, already_done=False, strict=strict, notes=notes)


def _run_record(runtime: str, source: Source, notes: tuple[str, ...], max_pixels: int) -> dict[str, Any]:
    """How the features are made: for people to read later, and no part of the identity."""
    packages = {"tle", "numpy", "h5py", "torch", "torchvision", "timm", "onnxruntime", "onnxruntime-gpu"}
    installed = {found.name.lower(): found.version for found in distributions() if found.name.lower() in packages}
    return {
        "runtime": runtime,
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
    cache: Cache, backbone: "Backbone", *, elapsed_s: float, already_done: bool, strict: bool, notes: tuple[str, ...]
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
        already_done=already_done,
        backbone=backbone.name,
        runtime=str(cache.run.get("runtime")),
        notes=notes,
    )
