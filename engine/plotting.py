"""What every picture that tle draws shares: where it may go, what it needs, how it is written."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tle.errors import MissingPackageError, UsageError
from tle.files import check_output, publish

FORMATS = (".png", ".pdf", ".svg")


def check_plot(path: Path, *, overwrite: bool, inputs: Sequence[str | Path] = (), output: Path | None = None) -> None:
    """Find out before any work whether a picture can be drawn into `path`.

    Args:
        path: the file to be drawn.
        overwrite: whether an existing file may be replaced.
        inputs: files that are read; the picture may be none of them.
        output: another file that the same command writes.

    Raises:
        UsageError: a name with another suffix than those of `FORMATS`, or that of the other output.
        MissingPackageError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot takes a name that ends in {', '.join(FORMATS)}, got {path.name!r}")
    if output is not None and path.resolve() == output.resolve():
        raise UsageError(f"--plot and --output name the same file, {path}: give two")
    check_plotting()
    check_output(path, overwrite=overwrite, inputs=inputs)


def check_plotting() -> None:
    """Find out whether a picture can be drawn at all.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingPackageError("--plot needs matplotlib: pip install matplotlib")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, atomically, in the format that its suffix says.

    Raises:
        OutputError: the file cannot be written.
    """
    with publish(path) as file:
        figure.savefig(file, format=path.suffix.lower().removeprefix("."), dpi=120)
