"""What a user reads of `tle report`."""

import json

import pytest

from tle.cli.main import main


@pytest.fixture
def trained(tmp_path, make_images, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos", ["cat", "dog"], 6, 48, splits=("train", "test"))
    small = ["--backbone", "torchvision/resnet18", "--weights", "none", "--resize", "40", "--crop", "32"]
    assert main(["extract", "photos", "-o", "c.h5", *small, "--runtime", "torch", "--precision", "float32"]) == 0
    assert main(["fit-head", "c.h5", "-o", "c.head"]) == 0
    capsys.readouterr()


PLAIN = ["--runtime", "torch", "--precision", "float32", "-j", "1"]


def test_a_report_is_written_and_said_in_a_line(trained, tmp_path, capsys):
    assert main(["report", "c.head", "-o", "r.html", "--images", "photos", *PLAIN]) == 0
    out = capsys.readouterr().out
    assert out.startswith("r.html: 12 pictures (test), 12 sections")
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["report", "c.head", "-o", "r.html", "--images", "photos", "--overwrite", "--json", *PLAIN]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n"], result["n_failed"], result["split"]) == (12, 0, "test")
    assert result["bytes"] == (tmp_path / "r.html").stat().st_size
    assert result["sections"][0] == "summary"


def test_what_is_missing_is_said_in_a_line(trained, capsys):
    for arguments, code, message in (
        (["c.head", "-o", "r.html"], 2, "--images"),
        (["c.head", "-o", "r.png", "--images", "photos"], 2, ".html"),
        (["gone.head", "-o", "r.html", "--images", "photos"], 1, "gone.head"),
        (["c.head", "-o", "r.html", "--images", "photos", "--split", "val"], 2, "split 'val'"),
    ):
        assert main(["report", *arguments]) == code
        read = capsys.readouterr()
        assert read.out == ""
        (line,) = (line for line in read.err.splitlines() if not line.startswith("note: "))
        assert message in line
