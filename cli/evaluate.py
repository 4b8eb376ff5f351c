"""`tle evaluate`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

import tle
from tle.cli.output import Json, print_json, print_table
from tle.progress import tell


def evaluate(
    head: Path,
    cache: Path,
    /,
    *,
    split: Literal["train", "val", "test", "all"] | None = None,
    splits: Path | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    seed: int = 0,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Measure a head on a cache that it has not seen, with 95 % bootstrap intervals.

    A cache of another backbone, other weights or another preprocessing is refused. Pictures that were in the fit are
    counted and reported.

    Args:
        head: A head written by tle fit-head.
        cache: A cache written by tle extract.
        split: The pictures to measure on; by default the test split, or all where the cache was not used in the fit.
        splits: A CSV or Parquet manifest with the columns path and split, to be used instead of the cache's splits.
        output: Write all figures and the confusion matrix to this JSON file as well.
        seed: Seed of the bootstrap.
        overwrite: Replace an existing JSON file.
    """
    result = tle.evaluate(head, cache, split=split, splits=splits, seed=seed, output=output, overwrite=overwrite)
    tell(result.notes, shown=True)
    if json:
        print_json(result.to_dict())
        return
    print(f"{head} on {result.n:,} pictures of {cache} ({result.split})")
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
