"""`tle predict`."""

from pathlib import Path

import tle
from tle.cli.execution import ExecutionFlags
from tle.cli.output import Json, Output, print_json


def predict(
    classifier: Path,
    images: Path,
    /,
    *,
    output: Output,
    top_k: int = 3,
    weights: str | None = None,
    execution: ExecutionFlags = ExecutionFlags(),  # noqa: B008 - frozen
    strict: bool = False,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Classify new pictures with a head and the backbone that it was fitted on, or with a classifier that holds both.

    Writes one row a picture, in order, while it runs; a bad picture has its reason in the column error.

    Args:
        classifier: A head (NAME.head) or a classifier (NAME.tle).
        images: A folder or a manifest.
        output: The file to write, NAME.csv or NAME.parquet.
        top_k: Classes a picture, the likeliest first.
        weights: Where the backbone's weights are now, if not where they were; their digest has to be the same.
        strict: Stop at the first bad picture instead of recording it.
        overwrite: Replace an existing file.
    """
    result = tle.predict(
        classifier,
        images,
        output,
        top_k=top_k,
        weights=weights,
        execution=execution.options(),
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
