import csv
import gzip
import hashlib
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tle.benchmarks import datasets, registries

pytestmark = pytest.mark.realdata


def test_art4apps(realdata: Callable[[str], Path]) -> None:
    files = sorted(realdata("art4apps").rglob("*.jpg"))
    assert len(files) == 585
    assert len({file.parent.name for file in files}) == 12
    assert 585 - len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == 4  # exact duplicates
    with Image.open(files[0]) as image:
        assert image.size == (200, 200)


def test_photo_tiles(realdata: Callable[[str], Path]) -> None:
    folder = realdata("photo_tiles")
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["path"] for row in rows}) == 1939
    assert len({row["label"] for row in rows}) == 36
    assert {row["path"] for row in rows} == {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}
    for row in rows[::97]:
        with Image.open(folder / row["path"]) as image:
            assert (image.format, image.size) == ("JPEG", (256, 256))


def test_photo_tiles_are_split_at_60_percent_of_each_photo(realdata: Callable[[str], Path]) -> None:
    with (realdata("photo_tiles") / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["split"] for row in rows) == {"train": 1199, "test": 740}
    for label in {row["label"] for row in rows}:
        own = [row for row in rows if row["label"] == label]
        left_edges = {
            split: [int(row["path"][-8:-4]) for row in own if row["split"] == split] for split in ("train", "test")
        }
        assert max(left_edges["train"]) < min(left_edges["test"])


def test_wallpapers(realdata: Callable[[str], Path]) -> None:
    files = list(realdata("wallpapers").iterdir())
    assert len(files) == 36
    with Image.open(realdata("wallpapers") / "Wood.jpg") as image:
        assert image.format == "JPEG"


def test_fashion_mnist(realdata: Callable[[str], Path]) -> None:
    with gzip.open(realdata("fashion_mnist") / "train-images-idx3-ubyte.gz") as file:
        assert struct.unpack(">4i", file.read(16)) == (2051, 60_000, 28, 28)


def test_pillow_images(realdata: Callable[[str], Path]) -> None:
    folder = realdata("pillow_images")
    assert sum(path.is_file() for path in folder.rglob("*")) > 700
    assert (folder / "hopper.jpg").is_file()
    assert not list(folder.rglob(".member-*"))


@pytest.mark.parametrize(
    ("name", "file", "prefix"),
    [
        ("lite0_checkpoint", "efficientnet-lite0-57934424.pth", "57934424"),
        ("mobilenet_v2_checkpoint", "mobilenet_v2-b0353104.pth", "b0353104"),
    ],
)
def test_checkpoints(realdata: Callable[[str], Path], name: str, file: str, prefix: str) -> None:
    path = realdata(name)
    assert path.name == file
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(prefix)


def test_the_command_prints_where_things_are(
    realdata: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = realdata("art4apps")
    assert datasets.main(["art4apps"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split() == ["art4apps", "6.8", "MB", str(folder), "[CC", "BY-SA]"]


def test_the_command_says_what_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TLE_DATA", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(registries, "_failures", {})
    assert datasets.main(["art4apps"]) == 1
    assert "unavailable: apt-get is not installed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        datasets.main(["art5apps"])
    assert "unknown data set art5apps; there are art4apps, wallpapers" in capsys.readouterr().err
