"""The problems on which heads are raced: features of real pictures by real networks, extracted by tle itself.

    python -m tle.benchmarks.head_problems              # build all of them; print sizes
    python -m tle.benchmarks.head_problems hundred      # one of them

Features are caches in `head-problems/` of the data folder (`tle.benchmarks.registries`). Asking again goes through
`tle.extract` too, which finds that there is nothing to do, or that something is no longer what it was.

# N pictures to fit on, V pictures to validate on, D feature dim
"""

import argparse
import csv
import gzip
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

import tle
from tle.benchmarks import datasets
from tle.benchmarks.registries import DatasetUnavailableError, data_folder, publish

SIDE = 96  # what small pictures are resized to: a fifth of the work of 224
FASHION_TRAIN, FASHION_VAL = 20_000, 5_000
STRIPS = 4
REGION_TILE = 80  # an eighth of a strip of the commonest photos, so that nothing of them is lost
# Every fifth row of tiles of a photo validates: a fifth of the pictures, and every class has some.
VAL_EVERY, VAL_ROW = 5, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadProblem:
    """Features with labels, split in two.

    Attributes:
        name: one of `PROBLEMS`.
        x_ND: float32 (N, D), features as the backbone gives them.
        y_N: int64 (N,), indices into `classes`.
        x_val: float32 (V, D).
        y_val: int64 (V,).
        classes: class names.
    """

    name: str
    x_ND: NDArray[np.float32]
    y_N: NDArray[np.int64]
    x_val: NDArray[np.float32]
    y_val: NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a problem is made.

    Attributes:
        images: gives the manifest of the pictures.
        backbone: name of the backbone, and the arguments of `tle.extract` that it needs.
        val: the split of the manifest that validates; "train" is what is fitted on.
        side: height and width that pictures are resized to; None leaves it to the backbone's weights.
    """

    images: Callable[[], Path]
    backbone: Callable[[], dict[str, Any]]
    val: str
    side: int | None = None


def fashion_pictures() -> Path:
    """Manifest of the first 25,000 training pictures of Fashion-MNIST as PNGs, in their order: 20,000 train, 5,000 val.

    Labels are the numbers 0 to 9 of the data set.
    """
    return publish("fashion-pictures", _write_fashion) / "manifest.csv"


def region_tiles() -> Path:
    """Manifest of tiles of 80x80 of `datasets.wallpapers` in 144 classes: every photo's four vertical strips.

    Orientation applied, shrunk (Lanczos) so that the longer side is at most 2,560 pixels, each strip cut without overlap
    from its top left, saved at JPEG quality 92. Split: every fifth row of tiles is val, the others are train.
    """
    return publish("photo-regions", _cut_regions) / "manifest.csv"


def photo_tiles() -> Path:
    """Manifest of `datasets.photo_tiles`: 36 classes, the left of each photo is train, the right test."""
    return datasets.photo_tiles() / "manifest.csv"


def lite0() -> dict[str, Any]:
    """EfficientNet-Lite0 with its published weights: 1,280 features."""
    return {"backbone": "timm/tf_efficientnet_lite0", "weights": str(datasets.lite0_checkpoint())}


def mobilenet_v2() -> dict[str, Any]:
    """MobileNetV2 with its published weights: 1,280 features."""
    return {"backbone": "torchvision/mobilenet_v2", "weights": str(datasets.mobilenet_v2_checkpoint())}


def vit_s() -> dict[str, Any]:
    """The class token of a DINOv2-style ViT-S/14: 384 features."""
    tensor = "/backbone/layernorm/Add_1_output_0"
    return {"backbone": f"onnx:{datasets.vit_s_focus_onnx()}#{tensor}", "pool": "cls"}


PROBLEMS = {
    "hundred": Recipe(images=region_tiles, backbone=lite0, val="val", side=SIDE),
    "fashion": Recipe(images=fashion_pictures, backbone=lite0, val="val", side=SIDE),
    "tiles": Recipe(images=photo_tiles, backbone=lite0, val="test"),
    "tiles_mobilenet_v2": Recipe(images=photo_tiles, backbone=mobilenet_v2, val="test"),
    "tiles_vit_s": Recipe(images=photo_tiles, backbone=vit_s, val="test"),
}


def load(name: str, *, progress: bool = False) -> HeadProblem:
    """One of the problems; extracted where its cache is not there yet.

    Args:
        name: one of `PROBLEMS`.
        progress: show the extraction's progress on standard error.

    Returns:
        The problem, its arrays in memory and its own.

    Raises:
        DatasetUnavailableError: no such problem, or its pictures or weights cannot be had.
    """
    if name not in PROBLEMS:
        raise DatasetUnavailableError(f"expected one of {', '.join(PROBLEMS)}, got {name!r}: name one of them")
    recipe = PROBLEMS[name]
    return read(name, cache_of(name, recipe, progress=progress), val=recipe.val)


def cache_of(name: str, recipe: Recipe, *, progress: bool = False) -> Path:
    """The cache with a problem's features; made where it is not there.

    Args:
        name: what the file is called.
        recipe: how it is made.
        progress: show the extraction's progress on standard error.
    """
    path = data_folder() / "head-problems" / f"{name}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    exact = None if recipe.side is None else (recipe.side, recipe.side)
    result = tle.extract(
        recipe.images(),
        path,
        **recipe.backbone(),
        overrides=tle.PreprocessOverrides(resize=exact, crop=exact),
        # The same features on every machine, as far as that goes.
        execution=tle.Execution(precision="float32", exact_decode=True),
        strict=True,
        progress=progress,
    )
    return result.path


def read(name: str, path: Path, *, val: str) -> HeadProblem:
    """A cache's train split and another one as a problem, in the order of the rows.

    Args:
        name: what the problem is called.
        path: the cache.
        val: the split that validates.

    Raises:
        DatasetUnavailableError: the cache has no rows in one of them.
    """
    cache = tle.open_cache(path)
    train_N, val_V = cache.rows("train"), cache.rows(val)
    for split, rows in (("train", train_N), (val, val_V)):
        if not len(rows):
            raise DatasetUnavailableError(
                f"{path} should have pictures in {split}, it has none: delete it to build it anew"
            )
    return HeadProblem(
        name=name,
        x_ND=np.array(cache.gather(train_N), np.float32),  # copied: a race reads memory, not a mapped file
        y_N=np.array(cache.labels[train_N], np.int64),
        x_val=np.array(cache.gather(val_V), np.float32),
        y_val=np.array(cache.labels[val_V], np.int64),
        classes=cache.classes,
    )


def _write_fashion(work: Path) -> None:
    folder = datasets.fashion_mnist()
    n = FASHION_TRAIN + FASHION_VAL
    pixels_NHW = _idx(folder / "train-images-idx3-ubyte.gz", offset=16).reshape(-1, 28, 28)[:n]
    labels_N = _idx(folder / "train-labels-idx1-ubyte.gz", offset=8)[:n]
    rows = []
    for number, (pixels_HW, label) in enumerate(zip(pixels_NHW, labels_N, strict=True)):
        split = "train" if number < FASHION_TRAIN else "val"
        name = f"{number:05d}.png"
        Image.fromarray(pixels_HW).save(work / name)
        rows.append((name, str(label), split))
    _write_manifest(work, rows)


def _idx(path: Path, *, offset: int) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


def _cut_regions(work: Path) -> None:
    rows = []
    for path in sorted(datasets.wallpapers().iterdir()):
        with Image.open(path) as file:
            photo = ImageOps.exif_transpose(file).convert("RGB")
        photo.thumbnail((datasets.LONGER_SIDE,) * 2, Image.Resampling.LANCZOS, reducing_gap=None)
        for label, split, left, top in _regions(path.stem, *photo.size):
            (work / label).mkdir(exist_ok=True)
            name = f"{label}/{top:04d}-{left:04d}.jpg"
            photo.crop((left, top, left + REGION_TILE, top + REGION_TILE)).save(work / name, quality=92)
            rows.append((name, label, split))
    _write_manifest(work, rows)


def _regions(photo: str, width: int, height: int) -> Iterator[tuple[str, str, int, int]]:
    """Label, split, left and top of every tile of a photo; no two overlap."""
    for strip in range(STRIPS):
        start, end = width * strip // STRIPS, width * (strip + 1) // STRIPS
        for row, top in enumerate(range(0, height - REGION_TILE + 1, REGION_TILE)):
            split = "val" if row % VAL_EVERY == VAL_ROW else "train"
            for left in range(start, end - REGION_TILE + 1, REGION_TILE):
                yield f"{photo}-{strip}", split, left, top


def _write_manifest(work: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    with (work / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the problems named on the command line (all by default) and print their sizes.

    Args:
        arguments: the words of the command line; None takes the process's own.

    Returns:
        The exit status: 1 if any could not be built.
    """
    parser = argparse.ArgumentParser(prog="python -m tle.benchmarks.head_problems", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROBLEMS)}; default: all")
    names = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in PROBLEMS]:
        parser.error(f"unknown problem {unknown[0]}; there are {', '.join(PROBLEMS)}")
    missing = 0
    for name in names or PROBLEMS:
        try:
            problem = load(name, progress=sys.stderr.isatty())
        except DatasetUnavailableError as error:
            missing += 1
            print(f"{name:20} unavailable: {error}")
        else:
            (n, dim), v = problem.x_ND.shape, len(problem.x_val)
            print(f"{name:20} {n:6} train, {v:5} val, {dim:5} features, {len(problem.classes):4} classes", flush=True)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
