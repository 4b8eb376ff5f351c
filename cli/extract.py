"""`tle extract`."""

import shlex
from pathlib import Path
from typing import Literal

import tle
from tle.cli.backbone import BackboneFlags
from tle.cli.execution import ExecutionFlags
from tle.cli.output import Json, Output, print_json
from tle.cli.view import ViewFlags


def extract(
    images: Path,
    /,
    *,
    output: Output,
    backbone: str,
    network: BackboneFlags = BackboneFlags(),  # noqa: B008 - frozen
    target: Literal["class", "multilabel", "regression"] | None = None,
    execution: ExecutionFlags = ExecutionFlags(),  # noqa: B008 - frozen
    dtype: Literal["float32", "float16"] = "float32",
    strict: bool = False,
    overwrite: bool = False,
    retry_failed: bool = False,
    verify_inputs: bool = False,
    random_view: ViewFlags = ViewFlags(),  # noqa: B008 - frozen
    json: Json = False,
) -> None:
    """Extract the features of every picture, once, into a cache.

    Running it again goes on where it was interrupted, and extracts only pictures that are new or changed; where there are
    none it does nothing.

    Args:
        images: A folder (class/img, {train,val,test}/class/img or flat), or a CSV or Parquet manifest with the columns
            path, label and split.
        output: The cache to write, NAME.h5.
        backbone: torchvision/NAME, timm/NAME, onnx:FILE[#TENSOR] or package.module:function.
        target: What the labels are; by default seen from them.
        dtype: Storage type of the features.
        strict: Stop at the first bad picture instead of recording it.
        overwrite: Replace an existing cache instead of using what it holds.
        retry_failed: Try pictures again that failed before.
        verify_inputs: Compare the bytes of all pictures with those that were extracted, not only sizes and times.
    """
    result = tle.extract(
        images,
        output,
        backbone=backbone,
        weights=network.weights or "DEFAULT",
        layer=network.layer,
        pool=network.pool,
        overrides=network.overrides(),
        target=target,
        execution=execution.options(),
        dtype=dtype,
        strict=strict,
        overwrite=overwrite,
        retry_failed=retry_failed,
        verify_inputs=verify_inputs,
        view=random_view.view_of_pictures(),
        progress=True,
    )
    if json:
        print_json(result)
        return
    if result.already_done:
        print(f"{result.path} is complete: {result.n_images:,} pictures, {result.dim} features; nothing to do")
    else:
        good, kept = result.n_images - result.n_failed, result.n_images - result.n_extracted
        print(
            f"{result.path}: {good:,} pictures{f' ({kept:,} were there)' if kept else ''}, {result.dim} features, "
            f"{result.elapsed_s:.1f} s, {result.images_per_s:.1f} images/s ({result.runtime})"
        )
    if result.n_failed:
        path = shlex.quote(str(result.path))
        print(f"{result.n_failed:,} of {result.n_images:,} pictures failed: tle inspect {path} --failures")
