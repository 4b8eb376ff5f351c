"""What a user reads of a sweep, and the one line for what cannot be done."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

import tle
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.cli.main import main
from tle.enums import Split, Target


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """160 pictures of four overlapping classes, 40 of them test."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 4
    features = rng.normal(size=(4, 8))[labels] + 1.5 * rng.normal(size=(160, 8))
    spec = {
        "backbone": {"name": "x/y", "weights": "W", "weights_digest": "ab", "dim": 8},
        "preprocess": {"resize": 256, "crop": [224, 224]},
        "decoder": "pillow",
        "precision": "float32",
    }
    content = Content(
        ids=[f"{index:04}.png" for index in range(160)],
        labels=labels,
        classes=["a", "b", "c", "d"],
        splits=np.repeat([Split.TRAIN, Split.TEST], [120, 40]).astype(np.uint8),
        target=Target.CLASS,
        dim=8,
        dtype="float32",
        spec=spec,
        run={},
    )
    writer = CacheWriter.create(tmp_path / "c.h5", content)
    with writer:
        writer.write(np.arange(160), features.astype(np.float32), np.arange(1, 161, dtype=np.uint64))
        writer.finish(replace=False)


def one_line(capsys):
    read = capsys.readouterr()
    assert read.out == ""
    (line,) = (line for line in read.err.splitlines() if not line.startswith("note: "))
    assert line.startswith("tle: ")
    return line


def test_the_table_shows_the_neighbourhood_of_the_best_and_marks_it(cache, capsys):
    values = ",".join(f"{10**e:g}" for e in np.linspace(-5, 2, 20))
    assert main(["fit-head", "c.h5", "-o", "a.head", "-p", f"C=[{values}]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(index for index, line in enumerate(lines) if line.split()[:4] == ["C", "accuracy", "s.e.", "nll"])
    rows = lines[head + 1 : head + 13]
    (chosen,) = (line for line in rows if line.endswith("chosen"))
    assert float(chosen.split()[0]) == pytest.approx(tle.load_head("a.head").fit["chosen"]["C"], rel=1e-3)
    assert lines[head + 13] == "and 8 more: see --json or --plot"
    assert any(line.startswith("chosen on val by accuracy: C = ") for line in lines)
    assert any(line.startswith("calibration: temperature ") and "--calibrate" in line for line in lines)


def test_json_has_the_sweep_with_errors_and_the_choice(cache, capsys):
    flags = ["--folds", "4", "--metric", "balanced_accuracy", "--one-se", "--calibrate", "--json"]
    assert main(["fit-head", "c.h5", "-o", "a.head", *flags, "-p", "C=[1e-3,1e-2,1]"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["C"] for row in found["sweep"]] == [0.001, 0.01, 1]
    assert all({"balanced_accuracy", "balanced_accuracy_se", "nll", "nll_se"} <= row.keys() for row in found["sweep"])
    assert (found["folds"], found["n_train"], found["choice"]["rule"]) == (4, 120, "one standard error")
    assert found["calibration"]["applied"]
    assert found["calibration"]["source"] == "folds"
    fit = tle.load_head("a.head").fit
    stored = [{name: value for name, value in row.items() if name != "seconds"} for row in found["sweep"]]
    assert (fit["sweep"], fit["choice"], fit["calibration"]) == (stored, found["choice"], found["calibration"])


def test_what_is_printed_with_folds_and_for_one_setting(cache, capsys):
    assert main(["fit-head", "c.h5", "-o", "a.head", "--folds", "3", "-p", "C=0.1", "--calibrate"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("a.head: logistic head, 120 train pictures and 3 folds\nchosen on val by accuracy: C = 0.1")
    assert shown.rstrip().endswith(", applied")


def test_no_refit(cache, capsys):
    assert main(["fit-head", "c.h5", "-o", "a.head", "-p", "C=0.1", "--no-refit"]) == 0
    assert tle.load_head("a.head").fit["refit"] is False


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_picture_of_the_sweep(cache, tmp_path, capsys):
    assert main(["fit-head", "c.h5", "-o", "a.head", "--plot", "s.svg"]) == 0
    assert (tmp_path / "s.svg").read_bytes().startswith(b"<?xml")
    assert main(["fit-head", "c.h5", "-o", "b.head", "--plot", "n.svg", "--val-fraction", "0"]) == 0
    assert "no sweep to draw: n.svg was not written" in capsys.readouterr().err
    assert not (tmp_path / "n.svg").exists()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--folds", "1"], 2, "folds (--folds) should be 2 or more"),
        (["--folds", "3", "--no-refit"], 2, "leave out --no-refit, or --folds"),
        (["--metric", "mse"], 2, "metric mse does not belong to target class"),
        (["--metric", "top5"], 2, "metric top5 is always 1 with 4 classes"),
        (["--metric", "macro_f1", "--one-se"], 2, "take folds (--folds 5) for --one-se"),
        (["--plot", "s.gif"], 2, "--plot takes a name that ends in .png, .pdf, .svg, got 's.gif'"),
        (["--plot", "no/s.png"], 1, "does not exist"),
    ],
)
def test_refusals(cache, tmp_path, capsys, flags, code, message):
    assert main(["fit-head", "c.h5", "-o", "a.head", *flags]) == code
    assert message in one_line(capsys)
    assert not (tmp_path / "a.head").exists()
