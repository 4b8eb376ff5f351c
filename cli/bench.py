"""`tle bench`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import tle
from tle.cli.backbone import BackboneFlags
from tle.cli.execution import ExecutionFlags
from tle.cli.output import Json, print_json, print_table
from tle.plotting import check_plot
from tle.progress import tell


def bench(
    images: Path,
    /,
    *,
    backbone: str,
    network: BackboneFlags = BackboneFlags(),  # noqa: B008 - frozen
    execution: ExecutionFlags = ExecutionFlags(),  # noqa: B008 - frozen
    n_images: Annotated[int, Parameter(name=["--n-images", "-n"])] = 512,
    plot: Path | None = None,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Say how fast extraction is on this machine, with this backbone and these pictures, and what holds it back.

    Every runtime and precision that is left open is tried, whatever --tuning-limit-s says, and remembered: later runs of
    the same backbone start from what was found.

    Args:
        images: A folder or a manifest.
        backbone: torchvision/NAME, timm/NAME, onnx:FILE[#TENSOR] or package.module:function.
        n_images: Pictures to measure on, spread evenly.
        plot: Draw the rates into this PNG, PDF or SVG file.
        overwrite: Replace an existing picture.
    """
    if plot is not None:
        check_plot(plot, overwrite=overwrite, inputs=[images])
    result = tle.bench(
        images,
        backbone=backbone,
        weights=network.weights or "DEFAULT",
        layer=network.layer,
        pool=network.pool,
        overrides=network.overrides(),
        execution=execution.options(),
        n_images=n_images,
        say=lambda line: tell([line], shown=True),
    )
    if plot is not None:
        from tle.bench_plot import plot_bench

        plot_bench(result, plot)
    if json:
        print_json(result)
        return
    tell(result.notes, shown=True)
    print(
        f"{result.backbone} by {result.runtime}, batches of {result.batch_size}, {result.threads} threads, "
        f"{result.n_images:,} pictures"
    )
    print_table(
        [(stage.name, f"{stage.images_per_s:,.1f}", f"{stage.share:.1%}", stage.detail) for stage in result.stages],
        header=("stage", "images/s", "share", ""),
    )
    print(
        f"end to end {result.images_per_s:,.1f} images/s, {result.efficiency:.1%} of the {result.limit_images_per_s:,.1f} "
        f"that the stages allow; {result.binding} binds"
    )
    if result.gmac_per_image is not None:
        peak = f", {result.peak_share:.0%} of a large matrix product here" if result.peak_share is not None else ""
        print(f"the backbone computes {result.gmac_per_image:.2f} G multiply-adds a picture{peak}")
    print()
    tried = sorted(result.trials, key=lambda trial: -trial.images_per_s)
    print_table(
        [
            (
                trial.plan.label,
                str(trial.plan.batch_size),
                f"{trial.images_per_s:,.1f}",
                f"{trial.setup_s:.1f}",
                f"{trial.parity.min_cosine:.6f}" if trial.parity else "reference" if not trial.refused else "-",
                trial.refused or "",
            )
            for trial in tried
        ],
        header=("tried", "batch", "images/s", "set-up s", "least cosine", ""),
    )
    for line in result.advice:
        print(line)
