"""Lines in a pipe, a bar on a terminal, nothing where nothing is wanted."""

import os
import pty
import re
import subprocess
import sys

import pytest

from tle import progress
from tle.progress import tell, track

RUN = """
from tle.progress import track
with track(40, "extracting", unit="pictures") as bar:
    for _ in range(4):
        bar.advance(10, failed=1)
"""


def test_a_log_gets_one_plain_line_with_rate_time_left_and_failures():
    run = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert run.stdout == ""  # standard output belongs to results
    line = r"extracting: 40 of 40 pictures, [\d,]+\.\d pictures/s, 0 s left, 4 failed\n"
    assert re.fullmatch(line, run.stderr)  # a short run gets its last line only


def test_a_long_run_gets_a_line_now_and_then(monkeypatch, capsys):
    now = iter(range(0, 10_000, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    with track(1000, "reading") as counter:
        for _ in range(100):
            counter.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert 5 < len(lines) < 100
    assert all(re.fullmatch(r"reading: \d+ of 1,000 images, \d+\.\d images/s, [\d,]+ s left", line) for line in lines)


def test_a_terminal_gets_a_bar():
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", RUN], stderr=terminal, stdout=subprocess.PIPE, env=environment) as run:
        os.close(terminal)
        shown = b""
        while chunk := _read(controller):
            shown += chunk
        assert run.stdout is not None
        assert run.stdout.read() == b""
    os.close(controller)
    assert run.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "extracting" in text
    assert "40/40" in text
    assert "pictures/s" in text
    assert "4 failed" in text
    assert "40 of 40" not in text  # the lines are for logs


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 4096)
    except OSError:  # Linux says so when the other end is closed
        return b""


@pytest.mark.parametrize("failed", [0, 3])
def test_silent_runs_count_and_say_nothing(capsys, failed):
    with track(10, "reading", shown=False) as counter:
        counter.advance(10, failed=failed)
    tell(["nobody hears this"], shown=False)
    assert (counter.done, counter.failed) == (10, failed)
    assert counter.rate > 0
    assert capsys.readouterr() == ("", "")


def test_notes_are_lines_of_their_own(capsys):
    tell(["one", "two"], shown=True)
    assert capsys.readouterr() == ("", "note: one\nnote: two\n")
