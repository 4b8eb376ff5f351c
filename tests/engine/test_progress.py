import os
import pty
import subprocess
import sys

from tle.progress import tell, track


def test_a_log_gets_plain_lines_with_rate_and_failures(capsys):
    with track(3, "working", unit="things") as counter:
        counter.advance(2)
        counter.advance(1, failed=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("working: 3 of 3 things, ")
    assert "things/s, 0 s left, 1 failed" in lines[-1]
    assert counter.done == 3


def test_silence_where_it_is_asked_for(capsys):
    with track(2, "working", shown=False) as counter:
        counter.advance(2)
    tell(["a fact"], shown=False)
    assert capsys.readouterr().err == ""
    assert counter.rate > 0


def test_notes_are_a_line_each(capsys):
    tell(["a", "b"], shown=True)
    assert capsys.readouterr().err == "note: a\nnote: b\n"


def test_a_terminal_gets_a_bar():
    code = "from tle.progress import track\nwith track(5, 'working') as counter:\n    counter.advance(5, failed=2)\n"
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how a pseudo-terminal says that the other side is gone
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    assert b"working" in shown
    assert b"\x1b" in shown
    assert b"2 failed" in shown
