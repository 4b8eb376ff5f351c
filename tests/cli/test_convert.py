"""`tle convert` as a user meets it."""

import json

import numpy as np
import pytest

import tle
from tle.cli.main import main


@pytest.fixture
def features(tmp_path, monkeypatch):
    """Features of two classes from elsewhere."""
    monkeypatch.chdir(tmp_path)
    labels = np.arange(40) % 2
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32) + 3 * labels[:, None]
    rows[5, 5] = np.nan
    np.savez("f.npz", embeddings=rows, y=np.array(["cat", "dog"])[labels])
    return tmp_path


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".safetensors"])
def test_the_way_from_a_file_to_a_head_and_back(features, capsys, suffix):
    assert main(["convert", "f.npz", "f.h5", "--name", "net"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "f.h5: 40 rows, 1 of them failed, 8 x float32\n"
    assert "note: f.npz was not made by tle: its features count as those of the backbone imported:net" in shown.err
    assert "note: 1 of 40 rows of f.npz are not finite" in shown.err
    assert main(["fit-head", "f.h5", "-o", "f.head"]) == 0
    assert main(["convert", "f.h5", f"g{suffix}"]) == 0
    assert main(["convert", f"g{suffix}", "g.h5"]) == 0
    assert main(["evaluate", "f.head", "g.h5", "--split", "all"]) == 0
    assert main(["verify", "g.h5"]) == 0
    assert tle.open_cache("g.h5").fingerprint == tle.open_cache("f.h5").fingerprint
    capsys.readouterr()
    assert main(["inspect", "g.h5"]) == 0
    assert "imported:net" in capsys.readouterr().out


def test_json_is_json_and_nothing_else(features, capsys):
    assert main(["convert", "f.npz", "f.h5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_failed"] == 1
    assert main(["convert", "f.h5", "f.npy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_images"] == 39


def test_what_does_not_work_is_one_line(features, capsys):
    (features / "bad.npz").write_bytes((features / "f.npz").read_bytes()[:-9])
    for arguments, code, message in (
        (["f.npz", "f.txt"], 2, ".safetensors"),
        (["f.npz", "f.parquet"], 2, "one cache"),
        (["no.npz", "f.h5"], 1, "no such file"),
        (["bad.npz", "f.h5"], 1, "damaged"),
        (["f.npz", "no/f.h5"], 1, "does not exist"),
        (["f.npz", "f.h5", "--name", ""], 2, "--name"),
        (["f.npz"], 2, "OUTPUT"),
    ):
        assert main(["convert", *arguments]) == code, arguments
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tle: ")]
        assert len(lines) == 1
        assert message in lines[0], arguments
    assert not (features / "f.h5").exists()
