"""`tle merge` as a user meets it."""

import json

import numpy as np
import pytest

import tle
from tle.cli.main import main

BACKBONE = ["--backbone", "torchvision/resnet18", "--weights", "none", "--resize", "40", "--crop", "32"]


@pytest.fixture
def two(tmp_path, make_images, monkeypatch, capsys):
    """Two caches of one backbone: cats and dogs, dogs and emus."""
    monkeypatch.chdir(tmp_path)
    for name, classes, seed in (("a", ["cat", "dog"], 1), ("b", ["dog", "emu"], 2)):
        make_images(tmp_path / name / name, classes, 6, 48, seed=seed)
        (tmp_path / name / "m.csv").write_text(
            "path,label\n"
            + "".join(f"{name}/{label}/{number:03}.jpg,{label}\n" for label in classes for number in range(6))
        )
        assert main(["extract", f"{name}/m.csv", "-o", f"{name}.h5", *BACKBONE]) == 0
    capsys.readouterr()
    return tmp_path


@pytest.mark.parametrize("flags", [[], ["--copy"]], ids=["pointing", "copied"])
def test_the_way_from_two_caches_to_figures(two, capsys, flags):
    assert main(["merge", "a.h5", "b.h5", "-o", "all.h5", *flags]) == 0
    shown = capsys.readouterr()
    assert "all.h5: 24 pictures, 512 features" in shown.out
    assert ("have to stay where" in shown.err) is not bool(flags)
    assert main(["fit-head", "all.h5", "-o", "all.head"]) == 0
    assert tle.load_head("all.head").classes == ("cat", "dog", "emu")
    assert main(["evaluate", "all.head", "b.h5", "--split", "all"]) == 0
    assert main(["verify", "all.h5"]) == 0
    capsys.readouterr()
    assert main(["inspect", "all.h5", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["classes"]) == (24, {"cat": 6, "dog": 12, "emu": 6})
    assert main(["inspect", "all.h5"]) == 0


def test_json_is_json_and_nothing_else(two, capsys):
    assert main(["merge", "a.h5", "b.h5", "-o", "all.h5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n_images"], result["n_caches"], result["copied"]) == (24, 2, False)


def test_what_does_not_work_is_one_line(two, capsys):
    (two / "out").mkdir()
    np.save("x.npy", np.zeros(3))
    for arguments, code, message in (
        (["a.h5", "a.h5", "-o", "all.h5"], 2, "named twice"),
        (["a.h5", "b.h5", "-o", "out/all.h5"], 1, "pass --copy"),
        (["a.h5", "b.h5", "-o", "a.h5", "--overwrite"], 1, "read by this very command"),
        (["a.h5", "no.h5", "-o", "all.h5"], 1, "no such cache"),
        (["a.h5", "x.npy", "-o", "all.h5"], 1, "HDF5"),
        (["a.h5", "b.h5"], 2, "--output"),
        (["-o", "all.h5"], 2, ""),
    ):
        assert main(["merge", *arguments]) == code, arguments
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tle: ")]
        assert len(lines) == 1
        assert message in lines[0], arguments
    assert not (two / "all.h5").exists()
