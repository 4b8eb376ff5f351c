"""`tle compare`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

import tle
from tle.cli.output import Json, print_json, print_table
from tle.plotting import check_plot
from tle.progress import tell


def compare(
    caches: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    head: str | None = None,
    param: Annotated[list[str] | None, Parameter(name=["--param", "-p"])] = None,
    split: Literal["val", "test"] | None = None,
    splits: Path | None = None,
    metric: str | None = None,
    test_fraction: float = 0.2,
    folds: int = 0,
    val_fraction: float = 0.1,
    seed: int = 0,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    plot: Path | None = None,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Say which backbone to use: the same head on caches of the same pictures, measured on the same held-out ones.

    Differences come from a paired bootstrap over the pictures. LogME and the H-scores beside them need no fit; higher is
    better. Caches of other pictures, labels or classes are refused.

    Args:
        caches: Caches of the same pictures by different backbones.
        head: As for tle fit-head.
        param: As for tle fit-head.
        split: The pictures to measure on; by default test, or else a stratified part of train that is set apart.
        splits: A CSV or Parquet manifest with the columns path and split, to be used instead of the caches' splits.
        metric: What to compare by; by default accuracy, for several labels mAP, for regression mse.
        test_fraction: Part of train that is set apart to measure on, where there is no test split.
        folds: Measure on all of train by cross-validation with so many folds instead: slower, more telling.
        val_fraction: Part of train that is held out to choose settings on, where there is no val split.
        seed: Seed of every draw.
        output: Write all figures to this JSON file as well.
        plot: Draw the figures and the differences into this PNG, PDF or SVG file.
        overwrite: Replace an existing JSON file or picture.
    """
    if plot is not None:
        check_plot(plot, overwrite=overwrite, inputs=[*caches, *([splits] if splits else [])])
    result = tle.compare(
        caches,
        head=head,
        params=param,
        split=split,
        splits=splits,
        metric=metric,
        test_fraction=test_fraction,
        folds=folds,
        val_fraction=val_fraction,
        seed=seed,
        output=output,
        overwrite=overwrite,
        say=lambda line: tell([line], shown=True),
    )
    if plot is not None:
        from tle.comparison_plot import plot_comparison

        plot_comparison(result, plot)
    tell(result.notes, shown=True)
    if json:
        print_json(result.to_dict())
        return
    print(f"{result.head} head on {result.n_train:,} pictures, measured on {result.n:,} ({result.measured_on})")
    print_table([_row(result.metric, row) for row in result.contenders], header=_header(result.metric))
    print(result.verdict)


def _header(metric: str) -> tuple[str, ...]:
    return (
        "cache", "backbone", "D", metric, "95 %", "behind", "95 %", "P(behind)", "fit s", "LogME", "H-score", "shrunk H",
        "scores s",
    )  # fmt: skip


def _row(metric: str, row: "tle.Contender") -> tuple[str, ...]:
    from tle.ranking import show_figure

    standing, promise = row.standing, row.transferability

    def between(interval: list[float] | None) -> str:
        return f"{show_figure(metric, interval[0])} to {show_figure(metric, interval[1])}" if interval else "-"

    return (
        row.name,
        row.backbone,
        str(row.dim),
        show_figure(metric, standing.value),
        between(standing.interval),
        show_figure(metric, standing.behind) if standing.behind_interval else "-",
        between(standing.behind_interval),
        "-" if standing.behind_probability is None else f"{standing.behind_probability:.3f}",
        f"{row.seconds:.1f}",
        f"{promise.logme:.4f}",
        "-" if promise.h_score is None else f"{promise.h_score:.3f}",
        "-" if promise.h_score_shrunk is None else f"{promise.h_score_shrunk:.3f}",
        f"{row.transferability_seconds:.1f}",
    )
