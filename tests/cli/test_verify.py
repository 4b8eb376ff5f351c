import json

import pytest

import tle
from tle.cli.main import main

SMALL = tle.PreprocessOverrides(resize=40, crop=32)


@pytest.fixture
def cache(tmp_path, make_images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos", ["cat", "dog"], 6, 48)
    fixed = tle.Execution(runtime="torch", precision="float32")
    tle.extract("photos", "c.h5", backbone="torchvision/resnet18", weights="none", overrides=SMALL, execution=fixed)
    return tmp_path / "c.h5"


def damage(path, row):
    slot = tle.open_cache(path).slots["features"]
    with path.open("r+b") as file:
        file.seek(slot.offset + row * slot.row_bytes + 1)
        file.write(b"\xab\xcd")


def test_a_sound_cache(cache, capsys):
    assert main(["verify", "c.h5", "--images", "photos"]) == 0
    assert capsys.readouterr().out == "c.h5: 12 rows are as they were written\n"
    assert main(["verify", "c.h5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["damaged"] == []


def test_damage_is_named_and_ends_with_1(cache, capsys):
    damage(cache, 7)
    assert main(["verify", "c.h5"]) == 1
    shown = capsys.readouterr()
    assert "damaged: 1 rows, 7 (dog/001.jpg)" in shown.out
    (line,) = [line for line in shown.err.splitlines() if line.startswith("tle: ")]
    assert line == "tle: c.h5: 1 damaged of 12 rows; tle verify c.h5 --repair marks such rows for tle extract"
    assert main(["verify", "c.h5", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["damaged"] == [7]


def test_repair_and_the_next_extract(cache, capsys):
    damage(cache, 7)
    assert main(["verify", "c.h5", "--repair"]) == 1
    assert "run the tle extract that made it again" in capsys.readouterr().err
    command = ["extract", "photos", "-o", "c.h5", "--backbone", "torchvision/resnet18", "--weights", "none"]
    command += ["--resize", "40", "--crop", "32"]
    assert main(["inspect", "c.h5"]) == 0
    assert "pending" in capsys.readouterr().out
    assert main(command) == 0
    assert "(11 were there)" in capsys.readouterr().out
    assert main(["verify", "c.h5"]) == 0
