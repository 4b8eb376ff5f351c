"""`tle demo`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tle.cli import demo_digits


def demo(*, folder: Annotated[Path, Parameter(name=["--folder", "-f"])] = Path("tle-demo")) -> None:
    """Run the whole path on real pictures, offline: extract, fit-head, evaluate, predict.

    The pictures are scikit-learn's 1,797 handwritten digits, the backbone is a pretrained EfficientNet-Lite0. Each command is
    printed as you would type it before it runs; nothing is done that the commands do not do.

    Args:
        folder: Where to put pictures and results; what an earlier demo left there is replaced.
    """
    demo_digits.run(folder)
