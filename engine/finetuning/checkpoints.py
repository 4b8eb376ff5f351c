"""Checkpoints: all that a training needs to go on as if it had never stopped, written aside and renamed when complete.

Everything random in a training is a function of the seed and the step, so a checkpoint holds no generator's state: weights,
optimizer, moving average, gradient scaler, the position in the data, what was measured so far and the best weights.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tle.errors import HeadError, UsageError, one_line
from tle.files import publish

FORMAT = "tle-checkpoint"
VERSION = 1
_SHOWN = 3


def checkpoint_path(output: Path) -> Path:
    """Where the checkpoint of a run that writes `output` lies."""
    return output.with_name(f"{output.name}.checkpoint")


def write_checkpoint(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically and durably.

    Args:
        path: the file; one that exists is replaced.
        identity: what the run is, JSON-able: `read_checkpoint` refuses to go on with another.
        state: tensors, numbers and text, nested in dicts and lists.

    Raises:
        OutputError: the file system refused.
    """
    with publish(path) as file:
        torch.save({"format": FORMAT, "version": VERSION, "identity": dict(identity), "state": dict(state)}, file)


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The state in a checkpoint of the same run; nothing in the file is executed.

    Args:
        path: the file.
        identity: what the run is.

    Raises:
        HeadError: damaged, or no checkpoint.
        UsageError: of another run; the message says what differs.
    """
    advice = "pass --overwrite or remove it to start anew, or name another output"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise HeadError(f"{path} is no readable checkpoint ({one_line(error)}): {advice}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise HeadError(f"{path} is not a checkpoint of this version of tle: {advice}")
    theirs = found["identity"]
    differing = [
        f"{name}: {theirs.get(name)} instead of {identity.get(name)}"
        for name in sorted({*identity, *theirs})
        if identity.get(name) != theirs.get(name)
    ]
    if differing:
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UsageError(f"{path} belongs to another run ({'; '.join(differing[:_SHOWN])}{more}): {advice}")
    state: dict[str, Any] = found["state"]
    return state


class Clock:
    """Says when the next checkpoint is due."""

    def __init__(self, minutes: float) -> None:
        self._interval_s = 60 * minutes
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether the interval has passed; if so, the next begins."""
        now = time.monotonic()
        if now - self._last < self._interval_s:
            return False
        self._last = now
        return True
