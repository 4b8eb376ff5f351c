"""The flags that extract, predict and bench share."""

import json
from importlib.util import find_spec

import pytest

import tle
from tle.cli.execution import ExecutionFlags
from tle.cli.main import main
from tle.runtimes import plan as plans

BACKBONE = ["--backbone", "torchvision/resnet18", "--weights", "none", "--resize", "40", "--crop", "32"]


@pytest.fixture
def photos(tmp_path, make_images, monkeypatch):
    make_images(tmp_path / "photos", ["cat", "dog"], 5, 48)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(capsys):
    read = capsys.readouterr()
    assert read.out == ""
    lines = [line for line in read.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("tle: ")
    return lines[0]


def test_the_defaults_are_those_of_the_library():
    assert ExecutionFlags().options() == tle.Execution()


@pytest.mark.parametrize(("text", "expected"), [("auto", None), ("1", 1), ("32", 32)])
def test_a_batch_size_is_a_number_or_auto(text, expected):
    assert ExecutionFlags(batch_size=text).options().batch_size == expected


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--batch-size", "0"], 2, "--batch-size takes a number of pictures from 1 on, or auto, got '0'"),
        (["--batch-size", "many"], 2, "got 'many'"),
        (["--batch-size", "-4"], 2, "--batch-size"),
        (["--batch-size", "2.5"], 2, "got '2.5'"),
        (["--batch-size", "\u0663"], 2, "--batch-size takes"),
        (["--workers", "0"], 2, "--workers takes 1 or more, got 0"),
        (["--workers", "x"], 2, "--workers"),
        (["--max-pixels", "0"], 2, "--max-pixels takes 1 or more"),
        (["--min-cosine", "2"], 2, "--min-cosine takes a number from -1 to 1, got 2"),
        (["--min-cosine", "nan"], 2, "--min-cosine takes a number from -1 to 1, got nan"),
        (["--tuning-limit-s", "-1"], 2, "--tuning-limit-s takes 0 or more seconds, got -1"),
        (["--runtime", "tensorflow"], 2, "--runtime"),
        (["--precision", "float8"], 2, "--precision"),
        (["--device", "tpu"], 2, "--device"),
        (["--device", "cpu", "--runtime", "torch", "--precision", "float16"], 1, "takes --precision float32, bfloat16"),
        (
            ["--device", "cpu", "--runtime", "tensorrt"],
            1,
            "--runtime tensorrt does not run on the cpu; there are torch",
        ),
        (["--device", "cpu", "--precision", "tf32"], 1, "--precision tf32 is not offered on the cpu"),
        (["--exact-decode", "--gpu-decode"], 2, "exclude each other"),
        (["--device", "cpu", "--gpu-decode"], 1, "need the backbone on a GPU: --device cuda"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize(
    "command", [["extract", "photos", "-o", "c.h5"], ["bench", "photos"]], ids=["extract", "bench"]
)
def test_what_cannot_be_used_is_one_line(photos, capsys, command, flags, code, message):
    assert main([*command, *BACKBONE, *flags]) == code
    assert message in one_line(capsys)
    assert not (photos / "c.h5").exists()


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_has_no_float16(photos, capsys):
    flags = ["--runtime", "openvino", "--precision", "float16", "--device", "cpu"]
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE, *flags]) == 1
    assert "--runtime openvino on the cpu takes --precision float32, bfloat16, int8, got 'float16'" in one_line(capsys)


def test_without_openvino_it_says_what_to_install(photos, capsys, monkeypatch):
    monkeypatch.setattr(plans, "find_spec", lambda name: None)
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE, "--device", "cpu", "--runtime", "openvino"]) == 1
    assert "pip install openvino" in one_line(capsys)


def test_a_limit_that_nothing_meets_is_one_line_with_the_cosine(photos, capsys):
    flags = ["--runtime", "torch", "--precision", "bfloat16", "--min-cosine", "1", "--device", "cpu"]
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE, *flags]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tle: ")]
    assert len(lines) == 1
    assert "cosine to the float32 reference on 10 pictures: least 0.999" in lines[0]


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_a_runtime_alone_is_enough_even_without_time(photos, capsys):
    flags = ["--runtime", "openvino", "--tuning-limit-s", "0", "--min-cosine", "0.9", "--device", "cpu"]
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE, *flags]) == 0
    assert "openvino" in tle.open_cache("c.h5").run["runtime"]


def test_what_was_chosen_is_shown_and_inspect_shows_it_later(photos, capsys):
    flags = ["--precision", "bfloat16", "--batch-size", "3", "--workers", "2", "--device", "cpu"]
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE, *flags]) == 0
    read = capsys.readouterr()
    assert "torch bfloat16, batches of 3" in read.err
    assert "cosine to the float32 reference on 10 pictures" in read.err
    assert "eager, bfloat16, cpu" in read.out
    assert main(["inspect", "c.h5"]) == 0
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if " " in line}
    assert shown["precision"] == "bfloat16"
    assert "eager, bfloat16" in shown["runtime"]
    assert shown["batch_size"] == "3"
    assert shown["replicas"] == "2"
    assert "min_cosine 0.999" in shown["parity"]
    assert main(["inspect", "c.h5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"]["n"] == 10
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE, "--precision", "float32"]) == 1
    assert "precision: float32 instead of bfloat16" in capsys.readouterr().err


def test_predict_takes_the_same_flags(photos, capsys):
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE]) == 0
    assert main(["fit-head", "c.h5", "-o", "c.head"]) == 0
    capsys.readouterr()
    predict = ["predict", "c.head", "photos", "-o", "p.csv", "--device", "cpu"]
    assert main([*predict, "--precision", "tf32"]) == 1
    assert "not offered on the cpu" in one_line(capsys)
    assert main([*predict, "--precision", "bfloat16", "--batch-size", "3"]) == 0
    assert "torch bfloat16, batches of 3" in capsys.readouterr().err
    assert len((photos / "p.csv").read_text().splitlines()) == 11
