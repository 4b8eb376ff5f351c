"""`tle few-shot`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

import tle
from tle.cli.output import Json, print_json, print_table
from tle.errors import UsageError
from tle.plotting import check_plot
from tle.progress import tell


def few_shot(
    cache: Path,
    /,
    *,
    shots: str = "1,2,4,8,16",
    repeats: int = 5,
    head: str | None = None,
    param: Annotated[list[str] | None, Parameter(name=["--param", "-p"])] = None,
    split: Literal["val", "test"] | None = None,
    splits: Path | None = None,
    metric: str | None = None,
    seed: int = 0,
    plot: Path | None = None,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Say how much a few labelled pictures a class give: the head on 1, 2, 4, ... of them, drawn several times.

    Each fit sees its own pictures only: settings are chosen by folds of them, with one picture a class they take their
    defaults. More shots add pictures to those of the same repeat.

    Args:
        cache: A cache written by tle extract.
        shots: Pictures a class, as numbers separated by commas.
        repeats: Draws for each number of shots.
        head: As for tle fit-head.
        param: As for tle fit-head.
        split: The pictures to measure on; by default test, or else val, or else a fifth of train that is set apart.
        splits: A CSV or Parquet manifest with the columns path and split, to be used instead of the cache's splits.
        metric: What is shown, and what settings are chosen by; by default accuracy.
        seed: Seed of the draws.
        plot: Draw the curve into this PNG, PDF or SVG file.
        overwrite: Replace an existing picture.
    """
    numbers = _parse_shots(shots)
    if plot is not None:
        check_plot(plot, overwrite=overwrite, inputs=[cache, *([splits] if splits else [])])
    result = tle.few_shot(
        cache,
        shots=numbers,
        repeats=repeats,
        head=head,
        params=param,
        split=split,
        splits=splits,
        metric=metric,
        seed=seed,
    )
    if plot is not None:
        from tle.comparison_plot import plot_few_shot

        plot_few_shot(result, plot)
    tell(result.notes, shown=True)
    if json:
        print_json(result.to_dict())
        return
    print(
        f"{result.head} head, {result.n_classes} classes, {result.repeats} draws each, measured on {result.n:,} pictures "
        f"({result.measured_on})"
    )
    print_table([_row(result.metric, row) for row in result.rows], header=("shots", "train", result.metric, "95 %"))


def _parse_shots(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"--shots takes whole numbers separated by commas, as 1,2,4,8,16; got {text!r}") from None


def _row(metric: str, row: "tle.Shots") -> tuple[str, ...]:
    from tle.ranking import show_figure

    spread = row.figures[metric]
    interval = "-"
    if spread.interval is not None:
        interval = f"{show_figure(metric, spread.interval[0])} to {show_figure(metric, spread.interval[1])}"
    return str(row.k), str(row.n_train), show_figure(metric, spread.mean), interval
