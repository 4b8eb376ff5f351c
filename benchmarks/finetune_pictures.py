"""The pictures on which fine-tuning is compared with a frozen backbone: manifests with a train and a test split.

    python -m tle.benchmarks.finetune_pictures fashion       # print the manifest

They are kept in the data folder (`tle.benchmarks.registries`).
"""

import argparse
import csv
import gzip
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tle.benchmarks import datasets
from tle.benchmarks.registries import publish

FASHION_TRAIN, FASHION_TEST = 2_000, 5_000
TEST_SHARE = 0.25  # of art4apps
_SEED = 0  # of what is test there
Row = tuple[str, str, str]  # path, label, split


def art4apps() -> Path:
    """Manifest of 585 illustrations in 12 classes: of every class a quarter is test, the same in every run."""
    return publish("finetune-art4apps", _deal_art4apps) / "manifest.csv"


def tiles() -> Path:
    """Manifest of `datasets.photo_tiles`: 36 classes, the left of each photo is train, the right test."""
    return datasets.photo_tiles() / "manifest.csv"


def fashion() -> Path:
    """Manifest of Fashion-MNIST as PNGs: the first 2,000 of its training pictures, the first 5,000 of its test pictures."""
    return publish("finetune-fashion", _write_fashion) / "manifest.csv"


PICTURES: dict[str, Callable[[], Path]] = {"art4apps": art4apps, "tiles": tiles, "fashion": fashion}


def fewer(manifest: Path, output: Path, n: int) -> Path:
    """A manifest of the first `n` pictures of every class and split.

    Args:
        manifest: all of them.
        output: the manifest to write.
        n: how many.

    Returns:
        `output`.
    """
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seen: dict[tuple[str, str], int] = {}
    kept = []
    for row in rows:
        group = (row["label"], row["split"])
        seen[group] = seen.get(group, 0) + 1
        if seen[group] <= n:
            kept.append((str(manifest.parent / row["path"]), *group))
    return _write_manifest(output, kept)


def _deal_art4apps(work: Path) -> None:
    rng = np.random.default_rng(_SEED)
    rows: list[Row] = []
    for folder in sorted(path for path in datasets.art4apps().iterdir() if path.is_dir()):
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        tested = set(rng.permutation(len(paths))[: round(TEST_SHARE * len(paths))].tolist())
        rows += [(str(path), folder.name, "test" if number in tested else "train") for number, path in enumerate(paths)]
    _write_manifest(work / "manifest.csv", rows)


def _write_fashion(work: Path) -> None:
    folder = datasets.fashion_mnist()
    rows: list[Row] = []
    for split, part, n in (("train", "train", FASHION_TRAIN), ("test", "t10k", FASHION_TEST)):
        pixels_NHW = _idx(folder / f"{part}-images-idx3-ubyte.gz", offset=16).reshape(-1, 28, 28)[:n]
        labels_N = _idx(folder / f"{part}-labels-idx1-ubyte.gz", offset=8)[:n]
        for number, (pixels_HW, label) in enumerate(zip(pixels_NHW, labels_N, strict=True)):
            name = f"{split}-{number:05d}.png"
            Image.fromarray(pixels_HW).save(work / name)
            rows.append((name, str(label), split))
    _write_manifest(work / "manifest.csv", rows)


def _idx(path: Path, *, offset: int) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


def _write_manifest(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the manifests named on the command line (all by default) and print where they are."""
    parser = argparse.ArgumentParser(prog="python -m tle.benchmarks.finetune_pictures", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; default: all")
    names = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in PICTURES]:
        parser.error(f"unknown pictures {unknown[0]}; there are {', '.join(PICTURES)}")
    for name in names or PICTURES:
        print(f"{name:10} {PICTURES[name]()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
