"""The speed comparison on a dozen small pictures: that it runs, compares the right things and says what it found."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tle.benchmarks import contestants, extract, flatness, races
from tle.benchmarks.contestants import Contestant, ContestantError, ContestantMissingError, Job, run_child

SMALL = ["--models", "resnet18", "--resize", "36", "--crop", "32", "--limit", "8", "--runs", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder where the photos are a dozen small pictures, so that nothing is fetched."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def _own_data(data: Path, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLE_DATA", str(data))
    if not (data / "photo-crops").exists():
        make_images(data / "photo-crops", size=(60, 48))
        make_images(data / "photo-small-9", per_class=3, size=64)


def test_tle_and_its_peers_give_the_same_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    command = [*SMALL, "--peers", "torchvision", "timm", "img2vec-pytorch", "--workers", "0"]
    if missing := run_child([sys.executable, "-c", "import img2vec_pytorch"], dict(os.environ)).status:
        expected = "left out: img2vec-pytorch: not installed (No module named 'img2vec_pytorch')"
    else:
        expected = "no: other preprocessing"
    assert extract.main([*command, "--results-file", str(path)]) == 0
    printed = capsys.readouterr()
    record = json.loads(path.read_text())
    (found,) = record["comparisons"]
    names = ["torchvision, 0 workers", "timm, 0 workers", *([] if missing else ["img2vec-pytorch"]), "tle"]
    assert list(found["figures"]) == list(found["ratios"]) == names
    judged = [entry for entry in found["cosines"] if entry["judged"]]
    assert [(entry["tle"], entry["peer"]) for entry in judged] == [("tle", names[0]), ("tle", names[1])]
    for entry in judged:
        assert min(entry["min"], entry["centred_min"]) > 0.999  # centred: the pictures do differ
    assert found["n"] == 8
    assert found["ratios"][found["fastest_peer"]] == 1
    for (done,) in found["runs"].values():
        assert done["wall_s"] > 0
        assert done["images_per_s"] > 0
        assert done["peak_mib"] > 100  # torch alone
    assert found["runs"]["tle"][0]["said"]["n_images"] == 8
    assert record["machine"]["cores"] >= 1
    assert {"python", "torch", "torchvision", "timm", "numpy", "pillow"} <= set(record["versions"])
    assert expected in printed.out
    text = path.with_suffix(".md").read_text()
    for line in (
        "resnet18, 8 pictures (8 different) of crops, 1 rounds",
        "| tle ",
        "min cosine",
        "python -m tle.benchmarks.extract",
    ):
        assert line in text


def test_memory_and_cost_against_the_number_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert extract.main(["--flat", "9", "--tle-args", "--batch-size 4"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[1:3]] == ["tle --batch-size 4", "9"]


def done(name: str, rate: float) -> contestants.Run:
    return contestants.Run(rate, 10 / rate, 1.0, 500.0, {"tuning_s": 0.5} if name.startswith("tle") else {})


def test_contestants_take_turns_and_ratios_are_within_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    rates = {"torchvision, 0 workers": [10, 5, 10], "torchvision, 2 workers": [8, 4, 11], "tle": [20, 15, 20]}

    def run(contestant: Contestant, *_: object, **__: object) -> contestants.Run:
        name = contestant.name
        turns.append(name)
        if name == "lightly-train":
            raise ContestantMissingError("lightly-train: not installed (No module named 'lightly_train')")
        return done(name, rates[name][turns.count(name) - 1])

    said = {"runtime": "torch", "batch_size": 8, "wall_s": 9.0, "images_per_s": 20.0, "efficiency": 0.97}
    monkeypatch.setattr(races, "run", run)
    monkeypatch.setattr(races, "tune", lambda *_: said)
    monkeypatch.setattr(races, "read_features", lambda *_: contestants.np.eye(3))
    peers = [Contestant("torchvision"), Contestant("torchvision", 2), Contestant("lightly-train")]
    job = Job(folder=tmp_path, model="resnet18", weights=tmp_path)
    found = races.compare(job, [*peers, Contestant()], 3)
    first = ["torchvision, 0 workers", "torchvision, 2 workers", "lightly-train", "tle"]
    assert turns == first + [name for name in first if name != "lightly-train"] * 2
    assert found["fastest_peer"] == "torchvision, 0 workers"
    assert found["medians"]["tle"] == 20
    assert found["ratios"] == pytest.approx({first[0]: 1, first[1]: 0.8, "tle": 2})  # 20 / 10, 15 / 5, 20 / 10
    text = races.describe(found | {"title": "title"})
    assert "| tle                    | 20.00 [15.00, 20.00] " in text
    assert "left out: lightly-train: not installed" in text
    assert "0.5 [0.5, 0.5]" in text
    assert "tle: torch, batches of 8; found in 9.0 s" in text


def test_whole_processes_count_their_wall_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(races, "run", lambda contestant, *_, **__: done(contestant.name, 4.0))
    monkeypatch.setattr(races, "read_features", lambda *_: contestants.np.eye(3))
    job = Job(folder=tmp_path, model="resnet18", weights=tmp_path)
    found = races.compare(job, [Contestant("torchvision"), Contestant()], 2, wall_n=30)
    assert found["figures"]["tle"] == [12, 12]  # 30 pictures in 2.5 s
    assert "whole process" in found["unit"]


def test_a_contestant_that_fails_says_so(tmp_path: Path) -> None:
    job = Job(folder=tmp_path / "none", model="resnet18", weights=tmp_path / "none.pth")
    with pytest.raises(ContestantError, match=r"^tle ended with status 1: tle: .*none"):
        contestants.run(Contestant(), job, tmp_path / "c.h5")


def test_children_do_not_inherit_what_only_this_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def look(command: list[str], environment: dict[str, str]) -> contestants.Child:
        seen.update(environment)
        return contestants.Child(0, '{"images_per_s": 1.0}', "", 1.0, 1.0, 1.0)

    monkeypatch.setattr(contestants, "run_child", look)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("PYTHONPATH", "/first")
    job = Job(folder=tmp_path, model="resnet18", weights=tmp_path)
    contestants.run(Contestant("timm"), job, tmp_path / "f.npy", peers_path=Path("/second"))
    assert "OPENBLAS_CORETYPE" not in seen
    assert seen["PYTHONPATH"] == f"/first{os.pathsep}/second"
    contestants.run(Contestant(), job, tmp_path / "f.h5", peers_path=Path("/second"))
    assert seen["PYTHONPATH"] == "/first"  # tle runs as it is installed


def test_a_child_is_measured_by_the_kernel() -> None:
    code = "import sys; block = b'x' * 150_000_000; print('out'); sys.exit(3)"
    child = run_child([sys.executable, "-c", code], dict(os.environ))
    assert (child.status, child.stdout) == (3, "out\n")
    assert child.peak_mib > 140
    assert child.wall_s > 0


def test_pictures_are_links_evenly_spaced_or_repeated(data: Path, tmp_path: Path) -> None:
    folder = data / "photo-crops"
    for n, expected in ((3, ["blue/000-0", "green/000-0", "red/000-0"]), (30, None)):
        target = tmp_path / str(n)
        target.mkdir()
        assert contestants.link_pictures(folder, n, target) == min(n, 12)
        files = sorted(path for path in target.rglob("*.jpg"))
        assert len(files) == n
        assert {path.stat().st_ino for path in files} <= {path.stat().st_ino for path in folder.rglob("*.jpg")}
        if expected:
            assert [path.relative_to(target).with_suffix("").as_posix() for path in files] == expected


def test_an_unknown_model_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "tle.benchmarks.extract", "--models", "resnet999"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "resnet50" in found.stderr


def test_the_flat_table_has_a_row_for_each_number() -> None:
    entry = {"contestant": "tle", "images_per_s": 500.0, "cpu_s": 4.0, "wall_s": 3.0, "peak_mib": 400.0}
    text = flatness.describe({"title": "title", "flat": [entry | {"n": 1000}, entry | {"n": 10_000}]})
    assert "| tle        | 1000     | 2.000 [2.000, 2.000]" in text
    assert "400 [400, 400]" in text
