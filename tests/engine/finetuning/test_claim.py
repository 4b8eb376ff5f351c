"""Two trainings never write one classifier, and a killed one leaves no litter for ever."""

import os
import subprocess
import sys

import pytest

from tle.errors import OutputError
from tle.finetuning.claim import claimed

HOLDER = """
import sys
from pathlib import Path
from tle.finetuning.claim import claimed
with claimed(Path(sys.argv[1]), wanted=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_and_a_killed_one_holds_nothing(tmp_path):
    output = tmp_path / "photos.tle"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, output], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="another process is writing"), claimed(output, wanted=True):
            pass
        holder.kill()
    with claimed(output, wanted=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_what_belongs_to_the_output_is_removed(tmp_path):
    mine = [tmp_path / f".photos.tle.{os.getpid()}.part", tmp_path / ".photos.tle.checkpoint.12.part"]
    others = [tmp_path / ".photos.tle2.12.part", tmp_path / ".other.tle.12.part", tmp_path / "photos.tle.checkpoint"]
    for file in mine + others:
        file.touch()
    with claimed(tmp_path / "photos.tle", wanted=True):
        assert sorted(tmp_path.glob("*.part")) == sorted(file for file in others if file.suffix == ".part")
    assert all(file.exists() for file in others)


def test_a_process_that_does_not_write_claims_nothing(tmp_path):
    output = tmp_path / "photos.tle"
    with claimed(output, wanted=True), claimed(output, wanted=False):
        assert (tmp_path / ".photos.tle.lock").exists()
