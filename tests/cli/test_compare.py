"""`tle compare` and `tle few-shot` as a user meets them."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from tle.cli.main import main

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")


@pytest.fixture
def three(tmp_path, monkeypatch, capsys):
    """Three imported caches of 120 items: a and b alike, c hardly better than chance; and one of other labels."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    splits = np.array(["train"] * 60 + ["test"] * 60)
    for name, spread, dim in (("a", 0.7, 6), ("b", 0.7, 8), ("c", 9.0, 6)):
        x_ND = rng.normal(size=(3, dim))[labels] + spread * rng.normal(size=(120, dim))
        np.savez(f"{name}.npz", features=x_ND.astype(np.float32), labels=labels, splits=splits)
        assert main(["convert", f"{name}.npz", f"{name}.h5"]) == 0
    np.savez("other.npz", features=x_ND.astype(np.float32), labels=labels[::-1].copy(), splits=splits)
    assert main(["convert", "other.npz", "other.h5"]) == 0
    capsys.readouterr()
    return tmp_path


def test_what_is_printed_for_people(three, capsys):
    assert main(["compare", "a.h5", "b.h5", "c.h5", "-p", "C=0.1"]) == 0
    read = capsys.readouterr()
    lines = read.out.splitlines()
    assert lines[0] == "logistic head on 60 pictures, measured on 60 (test)"
    assert lines[1].split()[:4] == ["cache", "backbone", "D", "accuracy"]
    assert {line.split()[0] for line in lines[2:4]} == {"a", "b"}
    assert lines[4].split()[:3] == ["c", "imported:c", "6"]
    assert "better than c" in lines[5]
    assert len(lines) == 6
    assert "note: a: fitting on 6 features of 60 pictures" in read.err


@needs_matplotlib
def test_json_is_json_and_nothing_else_and_files_are_written(three, capsys):
    arguments = ["compare", "a.h5", "c.h5", "--json", "-o", "out.json", "--plot", "out.png", "--metric", "nll"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((three / "out.json").read_text())
    assert [row["name"] for row in result["contenders"]] == ["a", "c"]
    assert result["lower_is_better"] is True
    with Image.open("out.png") as image:
        assert image.format == "PNG"
    assert main(arguments) == 1
    assert "exists; pass --overwrite" in capsys.readouterr().err


@needs_matplotlib
def test_a_few_shots(three, capsys):
    assert main(["few-shot", "a.h5", "--shots", "1,2,4", "--repeats", "3", "--plot", "p.svg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "logistic head, 3 classes, 3 draws each, measured on 60 pictures (test)"
    assert lines[1].split() == ["shots", "train", "accuracy", "95", "%"]
    assert [line.split()[:2] for line in lines[2:]] == [["1", "3"], ["2", "6"], ["4", "12"]]
    assert (three / "p.svg").exists()
    assert main(["few-shot", "a.h5", "--shots", "2", "--repeats", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["rows"][0]["figures"]["accuracy"]["values"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compare", "a.h5"], 2, "at least two caches"),
        (["compare", "a.h5", "a.h5"], 2, "is named twice"),
        (["compare", "a.h5", "other.h5"], 1, "other labels"),
        (["compare", "a.h5", "b.h5", "--metric", "speed"], 2, "unknown metric 'speed'"),
        (["compare", "a.h5", "b.h5", "--split", "train"], 2, "--split"),
        (["compare", "a.h5", "b.h5", "--folds", "3"], 2, "there is a test split"),
        (["compare", "a.h5", "b.h5", "--plot", "p.jpg"], 2, "--plot takes a name that ends in .png"),
        (["compare", "a.h5", "b.h5", "-o", "a.h5", "--overwrite"], 1, "read by this very command"),
        (["compare", "a.h5", "no.h5"], 1, "no such cache"),
        (["few-shot", "a.h5", "--shots", "some"], 2, "--shots takes whole numbers separated by commas"),
        (["few-shot", "a.h5", "--shots", "0"], 2, "at least 1, got 0"),
        (["few-shot", "a.h5", "--repeats", "0"], 2, "at least 1, got 0"),
        (["few-shot", "a.h5", "--plot", "p.jpg"], 2, "--plot takes a name that ends in .png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line(three, capsys, arguments, code, message):
    before = (three / "a.h5").read_bytes()
    assert main(arguments) == code
    read = capsys.readouterr()
    lines = [line for line in read.err.splitlines() if not line.startswith("note: ")]
    assert read.out == ""
    assert len(lines) == 1
    assert lines[0].startswith("tle: ")
    assert message in lines[0]
    assert (three / "a.h5").read_bytes() == before
