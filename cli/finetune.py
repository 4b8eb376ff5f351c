"""`tle finetune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import tle
from tle.cli.backbone import BackboneFlags
from tle.cli.output import Json, print_json, print_table
from tle.cli.training import TrainingFlags
from tle.errors import UsageError
from tle.plotting import check_plot

if TYPE_CHECKING:
    from tle.finetuning.conclusion import FinetuneResult


def finetune(
    images: Path | None = None,
    /,
    *,
    init: str,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    cache: Path | None = None,
    backbone: str | None = None,
    network: BackboneFlags = BackboneFlags(),  # noqa: B008 - frozen
    target: Literal["class", "multilabel", "regression"] | None = None,
    splits: Path | None = None,
    training: TrainingFlags = TrainingFlags(),  # noqa: B008 - frozen
    show_groups: bool = False,
    plot: Path | None = None,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Train the backbone as well, slowly, from a fitted head on, and write the finished classifier.

    Training starts where the head stands: before any step its accuracy on the validation pictures is compared with the
    head's on the cache. In the end the result is compared with the frozen head on the same pictures, and where it does not
    win by more than noise the head is kept. The same command goes on where it was interrupted.

    Args:
        images: The pictures that the head was fitted on: a folder or a manifest with labels.
        init: A head or classifier to start from; or none, for a new head on --backbone.
        output: The classifier to write, NAME.tle.
        cache: The cache that the head was fitted on; by default the one beside it with the same name.
        backbone: With --init none: torchvision/NAME, timm/NAME or package.module:function. The flags about its layer and
            preprocessing go with it.
        target: With --init none: what the labels are; by default seen from them.
        splits: A CSV or Parquet manifest with the columns path and split, as the head was fitted with.
        show_groups: Only print the parameter groups: layers, parameters, rate, weight decay, what is frozen.
        plot: Draw loss, metric and the rates that were applied into this PNG, PDF or SVG file.
        overwrite: Replace an existing classifier, and the checkpoint of another run.
    """
    options = training.options()
    common: dict[str, Any] = {
        "init": init,
        "backbone": backbone,
        "weights": network.weights,
        "layer": network.layer,
        "pool": network.pool,
        "overrides": network.overrides(),
        "target": target,
        "options": options,
    }
    if show_groups:
        for flag, given in (("--output", output), ("--cache", cache), ("--plot", plot), ("--splits", splits)):
            if given is not None:
                raise UsageError(
                    f"{flag} is for training, and --show-groups only prints the groups: leave one of them out"
                )
        _show_groups(images, common, batchnorm=options.batchnorm, json=json)
        return
    if images is None or output is None:
        raise UsageError("tle finetune takes the pictures and an --output, NAME.tle (--show-groups needs neither)")
    if plot is not None:
        check_plot(plot, overwrite=overwrite, inputs=[images], output=output)
    result = tle.finetune(images, output, cache=cache, splits=splits, overwrite=overwrite, progress=True, **common)
    if result.path is None:  # one of several processes, and not the first
        return
    if plot is not None:
        from tle.finetuning.curves_plot import plot_curves

        plot_curves(result.training, result.lr, plot)
    if json:
        print_json(result.to_dict())
        return
    _print(result)


def _show_groups(images: Path | None, common: dict[str, Any], *, batchnorm: str, json: bool) -> None:
    from tle.finetuning.groups import GROUP_COLUMNS, describe_groups
    from tle.finetuning.run import plan_groups

    groups = plan_groups(images, **common)
    if json:
        print_json({"groups": [group.to_dict(batchnorm) for group in groups]})
        return
    print_table(describe_groups(groups, batchnorm), header=GROUP_COLUMNS)


def _print(result: "FinetuneResult") -> None:
    history, verdict = result.training["history"], result.training["verdict"]
    best = result.training["best_epoch"]
    counts = f"{result.n_train:,} train and {result.n_val:,} val pictures"
    print(f"{result.path}: {counts}, best epoch {best} of {history[-1]['epoch']}")
    print_table([[_cell(row.get(name)) for name in _columns(history)] for row in history], header=[*_columns(history)])
    if verdict is not None:
        from tle.finetuning.verdict import describe_verdict

        print(describe_verdict(verdict))
    throughput = result.training["throughput"]
    if throughput["images_per_s"] and throughput["limit_images_per_s"]:
        share = throughput["images_per_s"] / throughput["limit_images_per_s"]
        print(
            f"{throughput['images_per_s']:,.1f} images/s in training, {share:.0%} of the training step alone "
            f"({throughput['limit_images_per_s']:,.1f})"
        )
    print(f"last and best weights, to go on from: {result.checkpoint}")


def _columns(history: list[dict[str, Any]]) -> list[str]:
    return [name for name in dict.fromkeys(name for row in history for name in row) if name != "seconds"]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
