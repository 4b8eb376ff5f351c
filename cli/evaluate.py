"""`tle evaluate`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

import tle
from tle.cli.execution import ExecutionFlags
from tle.cli.output import Json, print_json, print_table
from tle.progress import tell


def evaluate(
    classifier: Path,
    data: Path,
    /,
    *,
    split: Literal["train", "val", "test", "all"] | None = None,
    splits: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    seed: int = 0,
    weights: str | None = None,
    execution: ExecutionFlags = ExecutionFlags(),  # noqa: B008 - frozen
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Measure a classifier on pictures or a cache that it has not seen, with 95 % bootstrap intervals.

    Labelled pictures are run through the backbone; a cache has their features, and one of another backbone, other weights or
    another preprocessing is refused. Pictures that were in the fit are counted and reported.

    Args:
        classifier: A head (NAME.head) or a classifier (NAME.tle).
        data: A folder or manifest of labelled pictures, or, for a backbone that is frozen, a cache.
        split: The pictures to measure on; by default the test split, or all where none of them was used in the fit.
        splits: A CSV or Parquet manifest with the columns path and split, to be used instead of the data's splits.
        output: Write all figures and the confusion matrix to this JSON file as well.
        seed: Seed of the bootstrap.
        weights: Where the backbone's weights are now, if not where they were; their digest has to be the same.
        overwrite: Replace an existing JSON file.
    """
    result = tle.evaluate(
        classifier,
        data,
        split=split,
        splits=splits,
        seed=seed,
        weights=weights,
        execution=None if execution == ExecutionFlags() else execution.options(),
        output=output,
        overwrite=overwrite,
        progress=True,
    )
    tell(result.notes, shown=True)
    if json:
        print_json(result.to_dict())
        return
    rate = f", {result.images_per_s:.1f} images/s" if result.images_per_s else ""
    print(f"{classifier} on {result.n:,} pictures of {data} ({result.split}{rate})")
    print_table(
        [_row(name, value, result.metrics) for name, value in result.metrics.items() if _is_figure(name, value)]
    )
    if output:
        print(f"all figures: {output}")


def _is_figure(name: str, value: object) -> bool:
    return isinstance(value, float) and not name.endswith("_interval")


def _row(name: str, value: float, metrics: dict[str, Any]) -> tuple[str, str, str]:
    interval = metrics.get(f"{name}_interval")
    return name, f"{value:.4f}", f"[{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
