import pickle
import time

import pytest
import torch

from tle.errors import HeadError, OutputError, UsageError
from tle.finetuning.checkpoints import Clock, checkpoint_path, read_checkpoint, write_checkpoint

IDENTITY = {"lr": "0.1", "seed": "0", "pictures": "ab", "epochs": "3"}


def test_what_is_written_is_read(tmp_path):
    path = checkpoint_path(tmp_path / "photos.tle")
    assert path.name == "photos.tle.checkpoint"
    state = {
        "step": 3,
        "nested": {"weights": torch.arange(3.0)},
        "history": [{"loss": 0.5, "metric": None}],
        "none": None,
    }
    write_checkpoint(path, IDENTITY, state)
    found = read_checkpoint(path, IDENTITY)
    assert torch.equal(found["nested"].pop("weights"), torch.arange(3.0))
    assert found == {"step": 3, "nested": {}, "history": state["history"], "none": None}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_another_run_is_told_by_what_differs(tmp_path):
    write_checkpoint(tmp_path / "c", IDENTITY, {})
    with pytest.raises(UsageError, match=r"another run \(lr: 0.1 instead of 0.2\): pass --overwrite"):
        read_checkpoint(tmp_path / "c", IDENTITY | {"lr": "0.2"})
    with pytest.raises(UsageError, match=r"epochs: 3 instead of 4; lr: .*; new: None instead of 1 and 1 more\)"):
        read_checkpoint(tmp_path / "c", IDENTITY | {"lr": "0.2", "epochs": "4", "new": "1", "seed": "1"})


class Trap:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"format": "tle-checkpoint"}), pickle.dumps(Trap())])
def test_what_is_no_checkpoint_is_refused_and_not_executed(tmp_path, capsys, content):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(HeadError, match="is no readable checkpoint|is not a checkpoint of this version") as caught:
        read_checkpoint(tmp_path / "c", IDENTITY)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    for number, value in enumerate(({"format": "other"}, [1, 2], {"format": "tle-checkpoint", "version": 99})):
        torch.save(value, tmp_path / str(number))
        with pytest.raises(HeadError, match="is not a checkpoint of this version"):
            read_checkpoint(tmp_path / str(number), IDENTITY)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_checkpoint(tmp_path / "missing" / "c", IDENTITY, {})
    write_checkpoint(tmp_path / "c", IDENTITY, {"step": 1})
    with pytest.raises(Exception, match="pickle|local object|Can't"):
        write_checkpoint(tmp_path / "c", IDENTITY, {"step": lambda: 2})
    assert read_checkpoint(tmp_path / "c", IDENTITY) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_a_clock_is_due_once_an_interval(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(minutes=2.0)
    found = []
    for seconds in (60, 59, 2, 100, 20):
        now[0] += seconds
        found.append(clock.is_due())
    assert found == [False, False, True, False, True]
