"""`tle export`, and the other commands with the file that it writes."""

import csv
import json

import pytest

from tle.cli.main import main

CLASSES = ["cat", "dog"]


@pytest.fixture
def made(tmp_path, make_images, make_finetuned, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_images(tmp_path / "photos", CLASSES, 4, 48, splits=["train", "val"])
    make_finetuned(tmp_path / "f.tle", CLASSES, data={"images": str(root), "kind": "folder", "counts": {"val": 8}})
    return tmp_path


def one_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tle: ")]
    assert len(lines) == 1
    return lines[0]


def test_int8_prints_what_it_costs(made, capsys):
    assert main(["export", "f.tle", "-o", "f.onnx", "--int8"]) == 0
    shown = capsys.readouterr().out
    assert "f.onnx: " in shown
    assert "float32 graph and classifier on 16 pictures: scores differ by at most" in shown
    assert "int8 on 8 pictures (val): accuracy" in shown
    assert "difference" in shown


def test_json_is_json_and_nothing_else(made, capsys):
    assert main(["export", "f.tle", "-o", "f.out", "--to", "torch-export", "--images", "photos", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["path"], result["format"], result["n_checked"]) == ("f.out", "torch-export", 16)


def test_all_commands_that_take_a_head_take_a_classifier(made, capsys):
    assert main(["export", "f.tle", "-o", "g.tle"]) == 0
    assert main(["inspect", "g.tle"]) == 0
    shown = capsys.readouterr().out
    assert "fine-tuned" in shown
    assert main(["inspect", "g.tle", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == CLASSES
    assert main(["predict", "g.tle", "photos", "-o", "p.csv"]) == 0
    with (made / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    capsys.readouterr()
    assert main(["evaluate", "g.tle", "photos", "--split", "val", "-o", "e.json"]) == 0
    assert "g.tle on 8 pictures of photos (val" in capsys.readouterr().out
    figures = json.loads((made / "e.json").read_text())
    right = [row["class"] == row["id"].split("/")[1] for row in rows if row["id"].startswith("val")]
    assert figures["metrics"]["top1"] == pytest.approx(sum(right) / len(right))
    assert figures["images"] == "photos"


def test_what_cannot_be_is_one_line(made, capsys):
    (made / "junk.tle").write_bytes(b"PK\x03\x04 no classifier")
    for arguments, code, message in (
        (["export", "f.tle", "-o", "f.bin"], 2, "--output takes a name that ends in"),
        (["export", "nowhere.tle", "-o", "f.onnx"], 1, "no such file"),
        (["export", "junk.tle", "-o", "f.onnx"], 1, "junk.tle"),
        (["export", "f.tle", "-o", "f.pt2", "--int8"], 2, "--int8"),
        (["export", "f.tle", "-o", "f.onnx", "--images", "nowhere"], 1, "no such folder or manifest"),
        (["export", "f.tle", "-o", "f.onnx", "--weights", "none"], 2, "leave --weights out"),
        (["export", "f.tle", "-o", "g.tle", "--images", "photos/val"], 2, "leave --images out"),
        (["export", "f.tle", "-o", "odd.tle", "--to", "onnx"], 2, "--to onnx and the name odd.tle"),
        (["evaluate", "f.tle", "nowhere/"], 1, "no such cache, folder or manifest: nowhere"),
        (["predict", "f.tle", "photos", "-o", "p.csv", "--weights", "none"], 2, "leave --weights out"),
        (["evaluate", "junk.tle", "photos"], 1, "junk.tle"),
        (["inspect", "junk.tle"], 1, "junk.tle"),
        (["inspect", "f.tle", "--failures"], 2, "--failures goes with a cache"),
    ):
        assert main(arguments) == code, arguments
        assert message in one_line(capsys), arguments
    assert {path.name for path in made.iterdir()} == {"photos", "f.tle", "junk.tle"}
