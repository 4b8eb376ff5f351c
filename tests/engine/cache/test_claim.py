import os
import subprocess
import sys

import pytest

from tle.cache.claim import Claim, new_path
from tle.errors import OutputError
from tle.files import part_path

ASK = """
import sys
from pathlib import Path
from tle.cache.claim import Claim
from tle.errors import OutputError
try:
    Claim(Path(sys.argv[1])).release()
    print("free")
except OutputError as error:
    print(error)
"""


def ask(path):
    """What another process is told that wants to write the same cache."""
    return subprocess.run([sys.executable, "-c", ASK, path], capture_output=True, text=True, check=True).stdout


def test_one_writer_at_a_time_from_the_first_moment(tmp_path):
    path = tmp_path / "c.h5"
    claim = Claim(path)
    assert not claim.found
    assert "another process is writing" in ask(path)
    claim.settle(claim.take_over())
    assert part_path(path).exists()
    assert "another process is writing" in ask(path)
    taken = claim.take_over()
    assert "another process is writing" in ask(path)
    claim.settle(taken)
    assert "another process is writing" in ask(path)
    claim.release()
    assert ask(path) == "free\n"
    assert os.listdir(tmp_path) == ["c.h5.part"]
    assert ask(tmp_path / "other.h5") == "free\n"


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    path = tmp_path / "c.h5"
    code = ASK.replace(".release()", "; import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert new_path(part_path(path)).exists()
    claim = Claim(path)
    claim.release()
    assert os.listdir(tmp_path) == []


def test_where_nothing_can_be_created(tmp_path):
    with pytest.raises(OutputError, match="cannot create"):
        Claim(tmp_path / "nowhere" / "c.h5")


def test_what_was_laid_out_and_not_used_is_removed(tmp_path):
    claim = Claim(tmp_path / "c.h5")
    claim.take_over()
    claim.release()
    claim.release()  # twice is once
    assert os.listdir(tmp_path) == []
