"""`tle export`."""

from pathlib import Path
from typing import Any, Literal

import tle
from tle.cli.output import Json, Output, print_json
from tle.progress import tell


def export(
    classifier: Path,
    /,
    *,
    output: Output,
    to: Literal["tle", "onnx", "torch-export"] | None = None,
    images: Path | None = None,
    int8: bool = False,
    split: Literal["train", "val", "test", "all"] | None = None,
    weights: str | None = None,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Turn a classifier into one file: .tle, .onnx or .pt2.

    A graph takes resized and cropped pixels and gives probabilities; normalisation and head are in it, classes and sizes in
    its metadata. It is compared with the classifier on pictures first, and not written where scores differ by more than 1e-3.

    Args:
        classifier: A head (NAME.head) or a classifier (NAME.tle).
        output: The file to write, NAME.tle, NAME.onnx or NAME.pt2.
        to: What to write, where the name's ending does not say it.
        images: A folder or manifest of pictures to compare a graph on, by default those that the classifier was made from.
            For a head that becomes a .tle: those that it was fitted on, to be written down in it.
        int8: Quantise the backbone of an .onnx, and measure on labelled pictures what that costs.
        split: The pictures to measure the cost of int8 on, by default val.
        weights: Where the backbone's weights are now, if not where they were; their digest has to be the same.
        overwrite: Replace an existing file.
    """
    result = tle.export(
        classifier,
        output,
        to=to,
        images=images,
        int8=int8,
        split=split,
        weights=weights,
        overwrite=overwrite,
        progress=True,
    )
    tell(result.notes, shown=True)
    if json:
        print_json(result)
        return
    print(f"{result.path}: {result.n_bytes / 2**20:.1f} MiB, {result.format}")
    if result.max_abs_difference is not None:
        same = "" if result.top1_agreement is None else f", the same class on {result.top1_agreement:.2%}"
        graph = "float32 graph" if result.int8 else "graph"
        print(
            f"{graph} and classifier on {result.n_checked} pictures: scores differ by at most "
            f"{result.max_abs_difference:.2g}{same}"
        )
    if result.int8:
        _print_cost(result.int8)


def _print_cost(cost: dict[str, Any]) -> None:
    """What int8 costs, in one line."""
    shown = {name: "-" if cost[name] is None else f"{cost[name]:.4f}" for name in ("float32", "int8")}
    line = f"int8 on {cost['n']:,} pictures ({cost['split']}): {cost['metric']} {shown['int8']}, float32 {shown['float32']}"
    if cost["difference"] is not None:
        line += f", difference {cost['difference']:+.4f}"
    if cost["interval"]:
        low, high = cost["interval"]
        line += f" [{low:+.4f}, {high:+.4f}]"
    if cost["top1_agreement"] is not None:
        line += f", the same class on {cost['top1_agreement']:.2%}"
    print(line)
