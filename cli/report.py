"""`tle report`."""

from pathlib import Path
from typing import Literal

import tle
from tle.cli.execution import ExecutionFlags
from tle.cli.output import Json, Output, print_json


def report(
    classifier: Path,
    /,
    *,
    output: Output,
    images: Path | None = None,
    split: Literal["test", "val", "train", "all"] | None = None,
    weights: str | None = None,
    execution: ExecutionFlags = ExecutionFlags(),  # noqa: B008 - frozen
    seed: int = 0,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Measure a classifier on labelled pictures and show all of it on one HTML page.

    The page is a single file that needs no network: figures with intervals, confusions, calibration, mistakes as
    pictures, learning curves and rates, a map of the features, speed.

    Args:
        classifier: A head or a classifier, NAME.head or NAME.tle.
        output: The page to write, NAME.html.
        images: Labelled pictures, a folder or a manifest; by default those that a .tle was made of.
        split: The pictures to measure on; by default test, else those that training was judged by, else all where none of
            them was in the fit.
        weights: Where the backbone's weights are now, if not where they were; their digest has to be the same.
        seed: Seed of the bootstrap.
        overwrite: Replace an existing page.
    """
    result = tle.report(
        classifier,
        output,
        images=images,
        split=split,
        weights=weights,
        execution=execution.options(),
        seed=seed,
        overwrite=overwrite,
        progress=True,
    )
    if json:
        print_json(result)
        return
    print(
        f"{result.path}: {result.n:,} pictures ({result.split}), {len(result.sections)} sections, {result.bytes / 1e6:.1f} MB"
    )
    if result.n_failed:
        print(f"{result.n_failed:,} pictures could not be read and are left out")
