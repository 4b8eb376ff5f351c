"""Photographs as people have them, cut from `datasets.wallpapers`, in class folders that every loader reads.

    python -m tle.benchmarks.photos crops
    python -m tle.benchmarks.photos small 100000

Built once into the cache folder of `tle.benchmarks.registries`; prints the path. The class is the photo.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tle.benchmarks import datasets
from tle.benchmarks.registries import DatasetUnavailableError, publish

N_CROPS = 512
CROP = (500, 375)
N_LARGE = 64
# Megapixels of the large pictures: what phones and cameras of 5 to 12 megapixels write.
LARGE_MP = (12.0, 10.0, 8.0, 6.2, 5.2)
SMALL = 64
# Offsets of the small pictures inside a tile of 256: 9 x 9 places, so 157,059 different pictures.
SMALL_STEP = 24

Window = tuple[int, int, int, int]


def crops() -> Path:
    """512 JPEGs of 500x375, quality 92, cut without overlap from the photos, shrunk to a longer side of 2,560."""
    return publish("photo-crops", _cut_crops)


def large_baseline() -> Path:
    """64 baseline JPEGs of 5 to 12 megapixels, quality 90, 4:2:0: whole photos and overlapping windows of larger ones."""
    return publish("photo-large-baseline", functools.partial(_cut_large, progressive=False))


def large_progressive() -> Path:
    """The pictures of `large_baseline` with the same coefficients, saved progressive."""
    return publish("photo-large-progressive", functools.partial(_cut_large, progressive=True))


def small(n: int) -> Path:
    """`n` different JPEGs of 64x64, about 2 kB each, cut from `datasets.photo_tiles`; fewer are the first of more."""
    return publish(f"photo-small-{n}", functools.partial(_cut_small, n=n))


DATA: dict[str, Callable[[], Path]] = {
    "crops": crops,
    "large_baseline": large_baseline,
    "large_progressive": large_progressive,
}


def _cut_crops(work: Path) -> None:
    width, height = CROP
    sizes = {path: _shrunk_size(path) for path in sorted(datasets.wallpapers().iterdir())}
    windows = {
        path: [
            (left, top, left + width, top + height)
            for top in range(0, size[1] - height + 1, height)
            for left in range(0, size[0] - width + 1, width)
        ]
        for path, size in sizes.items()
    }
    chosen = _in_turn(windows, N_CROPS)
    for path, own in chosen.items():
        photo = _read(path).resize(sizes[path], Image.Resampling.LANCZOS)
        _save_windows(photo, own, work / path.stem, quality=92)


def _shrunk_size(path: Path) -> tuple[int, int]:
    width, height = _read(path).size
    scale = min(1.0, datasets.LONGER_SIDE / max(width, height))
    return round(width * scale), round(height * scale)


def _cut_large(work: Path, *, progressive: bool) -> None:
    windows = {path: _large_windows(*_read(path).size) for path in sorted(datasets.wallpapers().iterdir())}
    for path, own in _in_turn({path: own for path, own in windows.items() if own}, N_LARGE).items():
        _save_windows(_read(path), own, work / path.stem, quality=90, subsampling="4:2:0", progressive=progressive)


def _large_windows(width: int, height: int) -> list[Window]:
    """Windows of 5 to 12 megapixels in the photo's own proportions: the whole, then the middle, then the corners."""
    pixels_mp = width * height / 1e6
    found = [(0, 0, width, height)] if min(LARGE_MP) <= pixels_mp <= max(LARGE_MP) else []
    for across, down in ((0.5, 0.5), (0, 0), (1, 1), (1, 0), (0, 1)):
        for size_mp in LARGE_MP:
            if size_mp < pixels_mp:
                scale = (size_mp / pixels_mp) ** 0.5
                w, h = int(width * scale), int(height * scale)
                left, top = int((width - w) * across), int((height - h) * down)
                found.append((left, top, left + w, top + h))
    return found


def _in_turn(windows: dict[Path, list[Window]], n: int) -> dict[Path, list[Window]]:
    """The first `n` windows when every photo gives one in turn, so that none dominates."""
    turns = itertools.zip_longest(*([(path, window) for window in own] for path, own in windows.items()))
    taken = [entry for turn in turns for entry in turn if entry is not None][:n]
    if len(taken) < n:
        raise DatasetUnavailableError(f"expected room for {n} pictures in the photos, found {len(taken)}")
    return {path: [window for own, window in taken if own == path] for path in windows}


def _read(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return ImageOps.exif_transpose(file).convert("RGB")


def _save_windows(photo: Image.Image, windows: Sequence[Window], folder: Path, **options: Any) -> None:
    folder.mkdir()
    for number, window in enumerate(windows):
        photo.crop(window).save(folder / f"{number:03d}.jpg", **options)


def _cut_small(work: Path, *, n: int) -> None:
    made = 0
    for label, pixels_HWC in itertools.islice(_small_pictures(), n):
        folder = work / label
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels_HWC).save(folder / f"{made:06d}.jpg", quality=85)
        made += 1
    if made < n:
        raise DatasetUnavailableError(f"expected {n} small pictures, the photo tiles give {made}")


def _small_pictures() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Label and pixels: one window of every tile, then the next window of every tile, and so on."""
    tiles = [(path.parent.name, np.asarray(_read(path))) for path in sorted(datasets.photo_tiles().rglob("*.jpg"))]
    offsets = range(0, datasets.TILE - SMALL + 1, SMALL_STEP)
    for top, left in itertools.product(offsets, offsets):
        for label, tile_HWC in tiles:
            yield label, tile_HWC[top : top + SMALL, left : left + SMALL]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one set of pictures and print its path; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tle.benchmarks.photos", description=__doc__)
    parser.add_argument("name", choices=[*DATA, "small"])
    parser.add_argument("n", nargs="?", type=int, default=1000, help="pictures of `small`")
    chosen = parser.parse_args(arguments)
    print(small(chosen.n) if chosen.name == "small" else DATA[chosen.name]())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
