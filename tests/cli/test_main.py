"""What a user reads: results, notes, and one clear line for everything that goes wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torchvision

import tle
from tle.cli.main import main

BACKBONE = ["--backbone", "torchvision/resnet18", "--weights", "none", "--resize", "40", "--crop", "32"]


@pytest.fixture
def photos(tmp_path, make_images, monkeypatch):
    make_images(tmp_path / "photos", ["cat", "dog"], 6, 48)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cached(photos):
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE]) == 0
    return photos


@pytest.fixture
def fitted(cached):
    assert main(["fit-head", "c.h5", "-o", "c.head"]) == 0
    return cached


def one_line(capsys):
    """What the user read on standard error, which has to be one line (notes and progress apart)."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tle: ")]
    assert len(lines) == 1
    return lines[0]


def test_the_whole_path(fitted, capsys, make_images):
    make_images(fitted / "test", ["cat", "dog"], 6, 48, seed=9)
    assert main(["extract", "test", "-o", "t.h5", *BACKBONE]) == 0
    capsys.readouterr()
    assert main(["evaluate", "c.head", "t.h5", "-o", "e.json"]) == 0
    shown = capsys.readouterr().out
    assert "top1" in shown
    figures = json.loads((fitted / "e.json").read_text())
    assert figures["n"] == 12
    assert figures["metrics"]["top1"] > 0.5
    assert main(["predict", "c.head", "test", "-o", "p.csv"]) == 0
    assert len((fitted / "p.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize(
    "command",
    [
        ["extract", "photos", "-o", "x.h5", *BACKBONE],
        ["fit-head", "c.h5", "-o", "x.head"],
        ["evaluate", "c.head", "c.h5", "--split", "all"],
        ["predict", "c.head", "photos", "-o", "x.csv"],
        ["inspect", "c.h5"],
        ["inspect", "c.head"],
        ["inspect", "c.h5", "--failures"],
        ["layers", "torchvision/resnet18", "--crop", "64"],
        ["doctor"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_json_is_json_and_nothing_else(fitted, capsys, command):
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "command", [["inspect", "c.h5"], ["inspect", "c.head"], ["doctor"], ["layers", "torchvision/resnet18"]]
)
def test_what_is_printed_for_people_fits_lines(fitted, capsys, command):
    capsys.readouterr()
    assert main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_failures_are_counted_and_listed(photos, capsys):
    (photos / "photos" / "cat" / "bad.jpg").write_bytes(b"no picture")
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE]) == 0
    assert "1 of 13 pictures failed: tle inspect c.h5 --failures" in capsys.readouterr().out
    assert main(["inspect", "c.h5", "--failures"]) == 0
    assert "cat/bad.jpg" in capsys.readouterr().out


def test_all_failed_is_exit_code_3(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no picture")
    assert main(["extract", "photos", "-o", "c.h5", *BACKBONE]) == 3
    assert "all 1 pictures" in one_line(capsys)


def test_bad_inputs_of_extract(photos, capsys):
    (photos / "empty").mkdir()
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), "other.pth")
    (photos / "m.csv").write_text("path,name\nphotos/x.jpg,1\n")
    for arguments, code, message in (
        (["nowhere", "-o", "x.h5", *BACKBONE], 1, "no such folder or manifest"),
        (["empty", "-o", "x.h5", *BACKBONE], 1, "empty"),
        (["photos", "-o", "x.h5", "--backbone", "torchvision/resnet20"], 1, "near names: resnet"),
        (["photos", "-o", "x.h5", "--backbone", "torchvision/resnet18", "--weights", "other.pth"], 1, "does not fit"),
        (["photos", "-o", "no/x.h5", *BACKBONE], 1, "does not exist"),
        (["photos", "-o", "/proc/x.h5", *BACKBONE], 1, "cannot"),
        (["m.csv", "-o", "x.h5", "--target", "class", *BACKBONE], 1, "label"),
        (["photos", "-o", "x.h5", *BACKBONE[:-1], "12x"], 2, "--crop takes"),
        (["photos", "-o", "x.h5", *BACKBONE, "--bogus"], 2, "bogus"),
        (["photos", *BACKBONE], 2, "--output"),
        (["photos", "-o", "x.h5", *BACKBONE, "--dtype", "int4"], 2, "float32"),
        (["photos", "-o", "x.h5", *BACKBONE, "--batch-size", "0"], 2, "--batch-size"),
    ):
        assert main(["extract", *arguments]) == code, arguments
        assert message in one_line(capsys), arguments
    assert not (photos / "x.h5").exists()


def test_weights_without_a_network(photos, capsys, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(photos / "hub"), raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nothing listens there
    assert main(["extract", "photos", "-o", "x.h5", "--backbone", "torchvision/resnet18"]) == 1
    assert "could not be downloaded" in one_line(capsys)


def test_another_backbone_is_refused_everywhere(fitted, capsys):
    other = [*BACKBONE[:1], "torchvision/resnet34", *BACKBONE[2:]]
    assert main(["extract", "photos", "-o", "c.h5", *other]) == 1
    assert "resnet34 instead of torchvision/resnet18" in one_line(capsys)
    assert main(["extract", "photos", "-o", "o.h5", *other]) == 0
    assert main(["evaluate", "c.head", "o.h5", "--split", "all"]) == 1
    assert "resnet34" in one_line(capsys)


def test_bad_inputs_of_fit_head(cached, capsys):
    with h5py.File("c.h5") as h5:
        offset = h5["features"].id.get_offset()
    data = bytearray((cached / "c.h5").read_bytes())
    data[offset : offset + 4] = np.array([np.nan], np.float32).tobytes()
    (cached / "nan.h5").write_bytes(data)
    (cached / "few").mkdir()
    for arguments, code, message in (
        (["nan.h5", "-o", "x.head"], 1, "finite"),
        (["nowhere.h5", "-o", "x.head"], 1, "no such cache"),
        (["c.h5", "-o", "no/x.head"], 1, "does not exist"),
        (["c.h5", "-o", "x.head", "--head", "logstic"], 2, "logistic"),
        (["c.h5", "-o", "x.head", "--param", "C"], 2, "name=value"),
        (["c.h5", "-o", "x.head", "--param", "c=1"], 2, "C"),
    ):
        assert main(["fit-head", *arguments]) == code, arguments
        assert message in one_line(capsys), arguments
    assert not (cached / "x.head").exists()


def test_one_class_only_and_more_classes_than_pictures(tmp_path, make_images, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "one", ["cat"], 5, 48)
    assert main(["extract", "one", "-o", "one.h5", *BACKBONE]) == 0
    assert main(["fit-head", "one.h5", "-o", "x.head"]) == 1
    assert "cat" in one_line(capsys)
    make_images(tmp_path / "many", [f"c{i}" for i in range(6)], 1, 48)
    lines = ["path,label,split"] + [f"c{i}/{os.listdir(tmp_path / 'many' / f'c{i}')[0]},c{i},test" for i in range(6)]
    lines[1:4] = [line.replace(",test", ",train") for line in lines[1:4]]
    (tmp_path / "many" / "m.csv").write_text("\n".join(lines))
    assert main(["extract", "many/m.csv", "-o", "many.h5", *BACKBONE]) == 0
    assert main(["fit-head", "many.h5", "-o", "x.head"]) == 1
    assert "6 classes" in one_line(capsys)


def test_unknown_commands_get_a_hint(capsys):
    assert main(["extrct"]) == 2
    assert "extract" in one_line(capsys)


def test_a_sklearn_head_with_parameters(cached, capsys):
    head = ["--head", "sklearn:sklearn.neighbors.KNeighborsClassifier", "--param", "n_neighbors=3"]
    assert main(["fit-head", "c.h5", "-o", "k.head", *head]) == 0
    assert tle.load_head("k.head").kind.startswith("sklearn:")


def test_a_pipe_gets_plain_lines(photos):
    done = subprocess.run(
        [sys.executable, "-m", "tle.cli.main", "extract", "photos", "-o", "c.h5", *BACKBONE],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "extracting: 12 of 12 images" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_one_line_that_says_how_to_go_on(photos, make_images, sent):
    make_images(photos / "more", ["cat", "dog"], 200, 64)
    command = [sys.executable, "-m", "tle.cli.main", "extract", "more", "-o", "c.h5", *BACKBONE[:-4]]
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # jobs in the background inherit that it is ignored
    process = subprocess.Popen([*command, "--batch-size", "1"], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    part, deadline = photos / "c.h5.part", time.monotonic() + 120
    while not (part.exists() and tle.open_cache(part).valid.any()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    (last,) = [line for line in errors.splitlines() if line.startswith("tle: ")]
    assert re.fullmatch(
        r"tle: interrupted; \d+ of 400 pictures are kept in c\.h5\.part, the same command goes on from there", last
    )
    assert "Traceback" not in errors
    kept = int(last.split()[2])
    done = subprocess.run([*command, "--batch-size", "1", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["n_extracted"] == 400 - kept
    assert not part.exists()


def test_of_two_runs_on_one_cache_one_works_and_one_says_so(photos, make_images):
    make_images(photos / "more", ["cat", "dog"], 100, 64)
    command = [
        sys.executable,
        "-m",
        "tle.cli.main",
        "extract",
        "more",
        "-o",
        "c.h5",
        *BACKBONE[:-4],
        "--batch-size",
        "1",
    ]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [run.communicate(timeout=200)[1] for run in runs]
    assert {run.returncode for run in runs} == {0, 1}
    for run, text in zip(runs, errors, strict=True):
        lines = [line for line in text.splitlines() if line.startswith("tle: ")]
        assert len(lines) == run.returncode
        assert all("another process is writing c.h5.part" in line for line in lines)
    assert tle.verify("c.h5").sound


def test_output_into_a_closed_pipe_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m tle.cli.main layers torchvision/resnet18 | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_notes_come_before_the_work_they_are_about(photos, capsys):
    (photos / "m.csv").write_text("path\nnowhere/a.jpg\n")
    assert main(["extract", "m.csv", "-o", "x.h5", *BACKBONE]) == 3
    lines = capsys.readouterr().err.splitlines()
    notes = [number for number, line in enumerate(lines) if line.startswith("note: ")]
    errors = [number for number, line in enumerate(lines) if line.startswith("tle: ")]
    assert notes
    assert max(notes) < min(errors)
    assert any("random weights" in lines[number] for number in notes)


def test_a_parameter_given_twice_is_refused(cached, capsys):
    assert main(["fit-head", "c.h5", "-o", "x.head", "--param", "C=0.1", "--param", "C=1"]) == 2
    assert "twice" in one_line(capsys)


def test_standard_output_that_cannot_be_written(cached):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tle.cli.main", "inspect", "c.h5"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("tle: ")
    assert "Traceback" not in done.stderr
