"""The picture of a sweep: what was tried, how good it was and how sure that is, and what was taken."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tle.plotting import check_plotting, save_figure

_LOG_FROM = 10.0  # largest over smallest value from which an axis is logarithmic
_LINES = 10  # more lines than colours tell nothing


def plot_sweep(trials: Sequence[Mapping[str, Any]], choice: Mapping[str, Any], path: Path, *, title: str = "") -> None:
    """Draw the metric with a band of one standard error, and below it the NLL.

    The setting with the most values is the horizontal axis, logarithmic where it spans a decade; each combination of the
    others is a line.

    Args:
        trials: the table of a sweep, as `FitResult.sweep` has it.
        choice: how the setting was chosen, as `FitResult.choice` has it.
        path: PNG, PDF or SVG, by its suffix.
        title: stands above.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    check_plotting()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = str(choice["metric"])
    names = [name for name in (metric, "nll", "mae") if any(name in row for row in trials)]
    panels = list(dict.fromkeys(names))[:2]
    across = main_setting(trials, choice)
    ticks = _ticks(trials, across)
    figure = Figure(figsize=(8, 3.2 * max(1, len(panels)) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(max(1, len(panels)), sharex=True, squeeze=False)[:, 0], panels, strict=False):
        lines = _lines(trials, choice, across)
        for label, rows in list(lines.items())[:_LINES]:
            kept = [row for row in rows if row.get(name) is not None]
            x = [_position(row, across, ticks) for row in kept]
            y = [row[name] for row in kept]
            (line,) = axes.plot(x, y, marker=".", label=label)
            error = [float(row[f"{name}_se"]) for row in kept if row.get(f"{name}_se") is not None]
            if len(error) == len(kept):
                low, high = ([v + sign * e for v, e in zip(y, error, strict=True)] for sign in (-1, 1))
                axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        for row in trials:
            if row.get("chosen") and row.get(name) is not None:
                axes.plot(
                    [_position(row, across, ticks)], [row[name]], "o", color="#c0392b", markersize=9, label="chosen"
                )
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        if ticks:
            axes.set_xticks(range(len(ticks)), ticks)
        elif _is_logarithmic(trials, across):
            axes.set_xscale("log")
    axes.set_xlabel(across or "setting")
    figure.suptitle(title or f"{metric}, standard errors {choice['standard_error']}", fontsize="medium")
    save_figure(figure, path)


def varying_settings(trials: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> list[str]:
    """Names of the settings that have more than one value in a table."""
    return [name for name in choice["settings"] if len({repr(row.get(name)) for row in trials}) > 1]


def main_setting(trials: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> str:
    """The setting with the most values; of equal ones the first. Empty where a kind has no setting."""
    names = varying_settings(trials, choice) or list(choice["settings"])
    return max(names, key=lambda name: len({repr(row.get(name)) for row in trials}), default="")


def _lines(
    trials: Sequence[Mapping[str, Any]], choice: Mapping[str, Any], across: str
) -> dict[str, list[Mapping[str, Any]]]:
    others = [name for name in varying_settings(trials, choice) if name != across]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in trials:
        label = ", ".join(f"{name} = {_short(row.get(name))}" for name in others) or "tried"
        lines.setdefault(label, []).append(row)
    if _ticks(trials, across):
        return lines
    return {label: sorted(rows, key=lambda row: float(row[across])) for label, rows in lines.items()}


def _ticks(trials: Sequence[Mapping[str, Any]], across: str) -> list[str]:
    """Labels of an axis on which not all values are numbers; empty where all are."""
    values = [row.get(across) for row in trials]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return []
    return list(dict.fromkeys(_short(value) for value in values))


def _position(row: Mapping[str, Any], across: str, ticks: Sequence[str]) -> float:
    return float(ticks.index(_short(row.get(across)))) if ticks else float(row[across])


def _is_logarithmic(trials: Sequence[Mapping[str, Any]], across: str) -> bool:
    values = [float(row[across]) for row in trials]
    return min(values) > 0 and max(values) >= _LOG_FROM * min(values)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
