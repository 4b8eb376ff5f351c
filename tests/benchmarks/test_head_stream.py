"""The race of a million rows, on hundreds: its cache, its passes, its solve, and that its classes overlap."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tle.benchmarks import head_stream
from tle.benchmarks.contestants import ContestantError


def test_rows_that_stay_in_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_stream, "CLASSES", 4)
    monkeypatch.setattr(head_stream, "_SQUARE", 64)
    path = tmp_path / "stream.h5"
    head_stream.build(path, 600, dim=8, classes=4)
    passes = head_stream.measure_passes(path, 2)
    assert [len(own) for own in passes["seconds"].values()] == [2, 2, 2]
    assert passes["times_memory"]["memory"] == 1.0
    solve = head_stream.measure_solve(path, 200)
    assert solve["is_certified"]
    assert solve["anonymous_mib"] > 10
    few = head_stream.measure_solve(path, 1)
    assert few["passes"] < solve["passes"]
    assert not few["is_certified"]
    found = {"rows": 600, "threads": 1, "max_passes": 200, "passes": passes, "solve": solve | {"peak_mib": 99.0}}
    text = head_stream.describe(found)
    assert "NOT" not in text
    assert "peak resident 99 MiB" in text
    assert "NOT what was asked for" in head_stream.describe(found | {"solve": few | {"peak_mib": 99.0}})


def test_the_stream_race_builds_its_cache_once_and_measures_in_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLE_DATA", str(tmp_path))
    asked: list[str] = []
    real: Callable[..., dict[str, Any]] = head_stream.child

    def child(what: str, rows: int, threads: int, **settings: int) -> dict[str, Any]:
        asked.append(what)
        return real(what, rows, threads, **settings) if what == "build" else {}

    monkeypatch.setattr(head_stream, "child", child)
    for _ in range(2):
        head_stream.race(100, 1, 1, 1)
    assert asked == ["build", "passes", "solve", "passes", "solve"]
    with pytest.raises(ContestantError, match="solve of 7 rows ended with status 1"):
        real("solve", 7, 1, max_passes=1)


def test_the_classes_of_the_stream_overlap(tmp_path: Path) -> None:
    head_stream.build(tmp_path / "s.h5", 4000, dim=64, classes=10)
    cache = head_stream.open_cache(tmp_path / "s.h5")
    x_ND: NDArray[np.float64] = np.asarray(cache.features, np.float64)
    means_KD = np.stack([x_ND[cache.labels == k].mean(axis=0) for k in range(10)])
    nearest_N = ((x_ND[:, None] - means_KD) ** 2).sum(axis=2).argmin(axis=1)
    assert 0.2 < (nearest_N == cache.labels).mean() < 0.95
