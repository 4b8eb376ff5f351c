"""Cores are those that a container's limit leaves of the affinity."""

import os

import pytest

from tle import cores


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["max 100000"], 8),
        (["200000 100000"], 2),
        (["150000 100000"], 2),
        (["5000 100000"], 1),
        (["1600000 100000"], 8),  # more than there are
        (["-1", "100000"], 8),  # no limit, as the older control groups say it
        (["300000", "100000"], 3),
        ([None], 8),
        (["nonsense"], 8),
        (["100000 0"], 8),
    ],
)
def test_cores(tmp_path, monkeypatch, files, expected):
    paths = []
    for number, text in enumerate(files):
        paths.append(str(tmp_path / str(number)))
        if text is not None:
            (tmp_path / str(number)).write_text(text + "\n")
    monkeypatch.setattr(cores, "_LIMITS", ((str(tmp_path / "none"),), tuple(paths)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores.usable_cores() == expected
