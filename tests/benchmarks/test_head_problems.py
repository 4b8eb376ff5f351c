import csv
import gzip
import itertools
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tle.benchmarks import head_problems, registries
from tle.benchmarks.head_problems import PROBLEMS, REGION_TILE, Recipe


def manifest(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The commonest photo, an upright one, the smallest one, and one whose width no strip divides.
@pytest.mark.parametrize("size", [(2560, 1600), (1704, 2560), (1280, 1024), (1367, 1075)])
def test_tiles_of_regions_lie_inside_and_apart(size: tuple[int, int]) -> None:
    tiles = list(head_problems._regions("photo", *size))
    edge = REGION_TILE
    for _, _, left, top in tiles:
        assert 0 <= left <= size[0] - edge
        assert 0 <= top <= size[1] - edge
    for (_, _, left, top), (_, _, other_left, other_top) in itertools.combinations(tiles, 2):
        assert abs(left - other_left) >= edge or abs(top - other_top) >= edge


def test_regions_are_the_four_strips_of_a_photo_and_each_is_in_both_splits() -> None:
    tiles = list(head_problems._regions("photo", 2560, 1600))
    assert Counter((label, split) for label, split, _, _ in tiles) == {
        (f"photo-{strip}", split): n for strip in range(4) for split, n in (("train", 128), ("val", 32))
    }
    for label, _, left, _ in tiles:
        assert label == f"photo-{left // 640}"
    val_rows = {top for _, split, _, top in tiles if split == "val"}
    assert val_rows == {160, 560, 960, 1360}
    assert not val_rows & {top for _, split, _, top in tiles if split == "train"}


def test_a_problem_is_extracted_once_and_read_in_the_order_of_its_rows(
    make_images: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLE_DATA", str(tmp_path / "data"))
    images = make_images(tmp_path / "images", per_class=3, splits=("train",))
    shutil.copytree(images / "train", images / "val")
    network = {"backbone": "torchvision/squeezenet1_1", "weights": "none"}
    recipe = Recipe(images=lambda: images, backbone=lambda: network, val="val", side=64)
    path = head_problems.cache_of("own", recipe)
    state = path.stat()
    assert head_problems.cache_of("own", recipe) == path == tmp_path / "data" / "head-problems" / "own.h5"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (state.st_ino, state.st_mtime_ns), "made again"

    problem = head_problems.read("own", path, val="val")
    assert problem.classes == ("blue", "green", "red")
    np.testing.assert_array_equal(problem.y_N, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(problem.y_val, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert problem.x_ND.shape == problem.x_val.shape
    assert (problem.x_ND.dtype, problem.y_N.dtype) == (np.float32, np.int64)
    # The same pictures in both splits: equal features say that each row is its picture's.
    np.testing.assert_array_equal(problem.x_ND, problem.x_val)
    assert len(np.unique(problem.x_ND, axis=0)) == 9
    assert problem.x_ND.flags.writeable, "a copy of its own, not the mapped file"
    with pytest.raises(registries.DatasetUnavailableError, match="should have pictures in test, it has none"):
        head_problems.read("own", path, val="test")


def test_an_unknown_problem_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(registries.DatasetUnavailableError, match="expected one of hundred, .*, got 'thousand'"):
        head_problems.load("thousand")
    with pytest.raises(SystemExit):
        head_problems.main(["thousand"])
    assert "unknown problem thousand; there are hundred, fashion" in capsys.readouterr().err


@pytest.mark.realdata
def test_fashion_pictures_are_those_of_the_archive_in_its_order(realdata: Callable[[str], Path]) -> None:
    folder = realdata("fashion_mnist")
    path = head_problems.fashion_pictures()
    rows = manifest(path)
    assert [row["split"] for row in rows] == ["train"] * 20_000 + ["val"] * 5_000
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        labels = file.read()[8:]
    assert [int(row["label"]) for row in rows] == list(labels[:25_000])
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        pixels = file.read()[16:]
    for number in (0, 1, 19_999, 20_000, 24_999):
        with Image.open(path.parent / rows[number]["path"]) as image:
            assert image.tobytes() == pixels[number * 784 : (number + 1) * 784]


@pytest.mark.realdata
def test_region_tiles(realdata: Callable[[str], Path]) -> None:
    realdata("wallpapers")
    path = head_problems.region_tiles()
    rows = manifest(path)
    assert Counter(row["split"] for row in rows) == {"train": 16_928, "val": 4_272}
    assert len({row["path"] for row in rows}) == len(rows)
    counts = Counter((row["label"], row["split"]) for row in rows)
    assert len(counts) == 2 * 144, "every class in both splits"
    assert min(counts.values()) == 8
    for row in rows[::2_000]:
        with Image.open(path.parent / row["path"]) as image:
            assert (image.format, image.size) == ("JPEG", (REGION_TILE, REGION_TILE))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "n", "v", "dim", "n_classes"),
    [
        ("hundred", 16_928, 4_272, 1_280, 144),
        ("fashion", 20_000, 5_000, 1_280, 10),
        ("tiles", 1_199, 740, 1_280, 36),
        ("tiles_mobilenet_v2", 1_199, 740, 1_280, 36),
        ("tiles_vit_s", 1_199, 740, 384, 36),
    ],
)
def test_built_problems_separate_their_classes(name: str, n: int, v: int, dim: int, n_classes: int) -> None:
    path = registries.data_folder() / "head-problems" / f"{name}.h5"
    if not path.is_file():
        pytest.skip(f"{name} takes minutes to build: python -m tle.benchmarks.head_problems {name}")
    problem = head_problems.read(name, path, val=PROBLEMS[name].val)
    assert (problem.x_ND.shape, problem.x_val.shape) == ((n, dim), (v, dim))
    assert set(problem.y_N) == set(problem.y_val) == set(range(n_classes)) == set(range(len(problem.classes)))
    assert np.isfinite(problem.x_ND).all()
    assert np.isfinite(problem.x_val).all()
    # The nearest class mean, after standardising: far above chance only where rows and labels belong together.
    mean_D, std_D = problem.x_ND.mean(0), problem.x_ND.std(0) + 1e-6
    x_ND, x_VD = (problem.x_ND - mean_D) / std_D, (problem.x_val - mean_D) / std_D
    means_KD = np.stack([x_ND[problem.y_N == label].mean(0) for label in range(n_classes)])
    guess_V = (x_VD @ means_KD.T - 0.5 * (means_KD**2).sum(1)).argmax(1)
    assert (guess_V == problem.y_val).mean() > min(0.6, 10 / n_classes)
