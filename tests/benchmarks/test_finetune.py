"""The comparison of fine-tuning with a frozen head, on a network and pictures that take a moment."""

import csv

import numpy as np
import pytest

import tle
from tle.benchmarks import finetune
from tle.benchmarks.crash import write_pictures
from tle.benchmarks.finetune import ARMS, BEST_EPOCH, HEAD, PLAIN, TUNED, Problem, gain
from tle.benchmarks.finetune_crash import NETWORK, SIDE
from tle.benchmarks.finetune_pictures import fewer


@pytest.fixture
def manifest(tmp_path):
    write_pictures(tmp_path / "images", range(96), size=SIDE + 8)
    readable = [path for path in sorted((tmp_path / "images").rglob("*.jpg")) if path.stat().st_size > 300]
    path = tmp_path / "manifest.csv"
    with path.open("w", newline="") as file:
        rows = [(str(one), one.parent.name, "test" if row % 4 == 0 else "train") for row, one in enumerate(readable)]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return path


def test_every_arm_is_measured_as_a_file_on_all_test_pictures(tmp_path, manifest):
    folder = tmp_path / "run"
    folder.mkdir()
    problem = Problem(images=manifest, backbone=NETWORK, weights="DEFAULT", side=SIDE)
    found = finetune.race(problem, folder, seeds=(0, 1), options=tle.FinetuneOptions(epochs=1, warmup="0", workers=1))
    assert [row["seed"] for row in found["rows"]] == [0, 1]
    with manifest.open(newline="") as file:
        assert found["n_test"] == sum(row["split"] == "test" for row in csv.DictReader(file))
    for row in found["rows"]:
        assert set(row["test"]) == set(ARMS)
        head = tle.evaluate(folder / f"{row['seed']}.head", folder / "cache.h5", split="test")
        assert row["test"][HEAD] == pytest.approx(head.metrics["top1"], abs=1e-9)
        assert row["test"][TUNED] == row["test"][HEAD if row["kept"] == "head" else BEST_EPOCH]
        assert tle.read_bundle(folder / f"{row['seed']}-best.tle").state is not None
        plain = tle.read_bundle(folder / f"{row['seed']}-plain.tle").training
        assert {group["lr"] for group in plain["groups"]} == {tle.FinetuneOptions().peak_lr}
    assert set(found["gains"]) == {TUNED, BEST_EPOCH, PLAIN}
    for arm, gained in found["gains"].items():
        expected = np.mean([row["test"][arm] - row["test"][HEAD] for row in found["rows"]])
        assert gained["mean"] == pytest.approx(expected, abs=1e-12)
    text = finetune.describe("made up", SIDE, found)
    assert "95 % over pictures" in text
    assert "1 epochs" in text


def test_gains_and_their_intervals():
    head_SN = np.zeros((3, 400), bool)
    head_SN[:, :200] = True
    other_SN = head_SN.copy()
    other_SN[0, 200:220], other_SN[1, 200:240], other_SN[2, :4] = True, True, False
    found = gain(head_SN, other_SN)
    assert found["by_seed"] == pytest.approx([0.05, 0.1, -0.01])
    assert found["mean"] == pytest.approx(0.14 / 3)
    assert found["at_least_equal"] == 2
    # scipy.stats.ttest_1samp([5, 10, -1], 0).confidence_interval(): -9.01, 18.35
    assert found["over_seeds"] == pytest.approx([-0.0901, 0.1835], abs=1e-4)
    low, high = found["over_pictures"]
    assert 0 < low < found["mean"] < high
    assert gain(head_SN[:1], other_SN[:1])["over_seeds"] is None


def test_fewer_takes_the_first_of_every_class_and_split(tmp_path, manifest):
    few = fewer(manifest, tmp_path / "few.csv", 2)
    with few.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 2
    assert all((tmp_path / row["path"]).is_file() for row in rows)
