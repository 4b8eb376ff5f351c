"""The picture of a training: loss and metric by epoch, and the rates that every group was given at every step.

# S steps, G groups
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.plotting import check_plotting, save_figure


def plot_curves(training: Mapping[str, Any], lr_SG: NDArray[np.float64], path: Path) -> None:
    """Draw a training.

    Args:
        training: as a bundle keeps it.
        lr_SG: float64 (S, G), as they were applied.
        path: PNG, PDF or SVG, by its suffix.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    check_plotting()
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history, metric = training["history"], f"val_{training['options']['metric']}"
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, figures, rates = figure.subplots(1, 3)
    for axes, names in ((losses, ("train_loss", "val_loss")), (figures, (metric,))):
        for name in names:
            points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "))
        axes.set_xlabel("epoch (0: before any step)")
        if axes.has_data():
            axes.legend()
    if training["verdict"] is not None and training["verdict"]["head"] is not None:
        figures.axhline(training["verdict"]["head"], color="black", linestyle="--", linewidth=1)
    moving = [index for index, group in enumerate(training["groups"]) if not group["frozen"]]
    colours = colormaps["viridis"](np.linspace(0, 0.9, max(len(moving), 1)))
    for colour, index in zip(colours, moving, strict=False):
        shown = np.where(lr_SG[:, index] > 0, lr_SG[:, index], np.nan)
        rates.plot(shown, color=colour, linewidth=1, label=training["groups"][index]["name"])
    rates.set_yscale("log")
    rates.set_xlabel("step")
    rates.set_ylabel("learning rate")
    if len(moving) <= 12:
        rates.legend(fontsize="x-small")
    save_figure(figure, path)
