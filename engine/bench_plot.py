"""The picture of a benchmark: a bar a stage, and the two lines that matter: what the stages allow, and what was reached."""

from pathlib import Path

from tle.benchmark import BenchResult
from tle.plotting import check_plotting, save_figure


def plot_bench(result: BenchResult, path: Path) -> None:
    """Draw rates of the stages on a logarithmic axis, with limit and end-to-end rate across.

    Args:
        result: a benchmark.
        path: PNG, PDF or SVG, by its suffix.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    check_plotting()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [stage.name for stage in result.stages]
    rates = [stage.images_per_s for stage in result.stages]
    colours = ["#c0392b" if name == result.binding else "#7f8c8d" for name in names]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = axes.barh(names, rates, color=colours)
    axes.bar_label(bars, [f"{rate:,.0f} ({stage.share:.0%})" for rate, stage in zip(rates, result.stages, strict=True)])
    axes.axvline(
        result.limit_images_per_s, color="black", linestyle="--", label=f"limit {result.limit_images_per_s:,.1f}"
    )
    axes.axvline(result.images_per_s, color="#2980b9", label=f"end to end {result.images_per_s:,.1f}")
    axes.set_xscale("log")
    axes.set_xlim(min([result.images_per_s, *rates]) / 2, max(rates) * 8)
    axes.set_xlabel("images/s, each stage alone with all threads on it")
    axes.invert_yaxis()
    axes.set_title(f"{result.backbone}, {result.runtime}, {result.threads} threads")
    axes.legend(loc="lower right")
    save_figure(figure, path)
