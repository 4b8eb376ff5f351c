"""`tle predict`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

import tle
from tle.cli.output import Json, Output, print_json


def predict(
    head: Path,
    images: Path,
    /,
    *,
    output: Output,
    top_k: int = 3,
    weights: str | None = None,
    runtime: Literal["torch", "onnxruntime"] | None = None,
    batch_size: Annotated[int, Parameter(name=["--batch-size", "-b"])] = 32,
    workers: Annotated[int | None, Parameter(name=["--workers", "-j"])] = None,
    max_pixels: int = 178_956_970,
    strict: bool = False,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Classify new pictures with a head and the backbone that it was fitted on.

    Writes one row a picture, in order, while it runs; a bad picture has its reason in the column error.

    Args:
        head: A head written by tle fit-head.
        images: A folder or a manifest.
        output: The file to write, NAME.csv or NAME.parquet.
        top_k: Classes a picture, the likeliest first.
        weights: Where the backbone's weights are now, if not where they were; their digest has to be the same.
        runtime: What executes the backbone; by default torch, and onnxruntime for ONNX files.
        batch_size: Pictures a call of the backbone.
        workers: Decoding threads; by default one a core.
        max_pixels: Pictures with more pixels are recorded as failed, without being decoded.
        strict: Stop at the first bad picture instead of recording it.
        overwrite: Replace an existing file.
    """
    result = tle.predict(
        head,
        images,
        output,
        top_k=top_k,
        weights=weights,
        runtime=runtime,
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels,
        strict=strict,
        overwrite=overwrite,
        progress=True,
    )
    if json:
        print_json(result)
        return
    good = result.n_images - result.n_failed
    print(f"{result.path}: {good:,} pictures, {result.elapsed_s:.1f} s, {result.images_per_s:.1f} images/s")
    if result.n_failed:
        print(f"{result.n_failed:,} of {result.n_images:,} pictures failed: see the column error")
