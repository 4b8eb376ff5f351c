"""Pictures of a comparison and of a few-shot curve."""

from pathlib import Path
from typing import Any

from tle.comparison import Comparison
from tle.fewshot import FewShot
from tle.plotting import check_plotting, save_figure
from tle.ranking import show_figure

_BEST, _NEAR, _FAR = "#2980b9", "#7f8c8d", "#c0392b"


def plot_comparison(result: Comparison, path: Path) -> None:
    """Draw each backbone's figure with its interval, and how far each is behind the best.

    Args:
        result: a comparison.
        path: PNG, PDF or SVG, by its suffix.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    figure, (left, right) = _figure(2, height=1.8 + 0.5 * len(result.contenders))
    places = range(len(result.contenders))
    for place, contender in zip(places, result.contenders, strict=True):
        standing = contender.standing
        colour = _BEST if place == 0 else _FAR if standing.told_apart else _NEAR
        low, high = standing.interval or (standing.value, standing.value)
        left.plot([low, high], [place, place], color=colour, linewidth=2)
        left.plot(standing.value, place, "o", color=colour)
        if standing.behind_interval:
            low, high = standing.behind_interval
            right.barh(place, standing.behind, color=colour, alpha=0.6)
            right.plot([low, high], [place, place], color="black", linewidth=1.2)
            right.text(max(high, 0), place, f"  {show_figure(result.metric, standing.behind)}", va="center")
    left.set_yticks(list(places), [contender.name for contender in result.contenders])
    left.set_xlabel(f"{result.metric} with 95 % interval, {result.n:,} pictures")
    right.axvline(0.0, color="black", linewidth=0.8)
    right.margins(x=0.2)
    right.set_yticks(list(places), [])
    right.set_xlabel("behind the best, paired 95 % interval")
    for axes in (left, right):
        axes.set_ylim(len(result.contenders) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{result.head} head, measured on {result.measured_on}")
    save_figure(figure, path)


def plot_few_shot(result: FewShot, path: Path) -> None:
    """Draw the metric over pictures a class, on a binary logarithmic axis, with intervals and single repeats.

    Args:
        result: a few-shot curve.
        path: PNG, PDF or SVG, by its suffix.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    figure, (axes,) = _figure(1, height=4.5)
    shots = [row.k for row in result.rows]
    spreads = [row.figures[result.metric] for row in result.rows]
    bands = [spread.interval or [spread.mean, spread.mean] for spread in spreads]
    axes.fill_between(shots, [low for low, _ in bands], [high for _, high in bands], color=_BEST, alpha=0.2)
    axes.plot(shots, [spread.mean for spread in spreads], "o-", color=_BEST)
    for k, spread in zip(shots, spreads, strict=True):
        axes.plot([k] * len(spread.values), spread.values, ".", color=_NEAR, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.minorticks_off()
    axes.set_xlabel("pictures a class")
    axes.set_ylabel(f"{result.metric}, {result.n:,} pictures")
    axes.set_title(f"{result.head} head, {result.n_classes} classes, mean of {result.repeats} with 95 % interval")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def _figure(columns: int, *, height: float) -> tuple[Any, Any]:
    check_plotting()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9 if columns > 1 else 7, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]
