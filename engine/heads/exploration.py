"""Trying the settings of a head in every fold, and keeping what came out.

# n validation samples, K outputs
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tle.errors import ShapeError
from tle.heads.choice import TURNED_AFTER, TURNED_BY, Rule, Trial, clearly_turned
from tle.heads.figures import Figure, measure_figures
from tle.heads.params import Params
from tle.heads.samples import Samples, Task
from tle.heads.sweep import Attempt, Kind

_IN_MEMORY = 2**28  # bytes of validation scores; with more, all go to a temporary file

Part = tuple[Samples, Samples]  # train and val


class ScoreStore:
    """Validation scores of all settings, of which only those of the chosen one are read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def put(self, scores_NK: NDArray[np.float32]) -> "Place":
        """Keep scores; returns where they are."""
        start = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(scores_NK, np.float32).data)
        return Place(start, (scores_NK.shape[0], scores_NK.shape[1]))

    def get(self, place: "Place") -> NDArray[np.float32]:
        """The scores that were put there."""
        self._file.seek(place.start)
        content = self._file.read(place.shape[0] * place.shape[1] * 4)
        return np.frombuffer(content, np.float32).reshape(place.shape).copy()


@dataclass(frozen=True, slots=True)
class Place:
    """Where scores are kept: the first byte, and their shape."""

    start: int
    shape: tuple[int, int]


@contextmanager
def open_store() -> Iterator[ScoreStore]:
    """A store that is gone afterwards."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        yield ScoreStore(file)


@dataclass(slots=True)
class Exploration:
    """What trying gave.

    Attributes:
        trials: one a setting, in the order in which they were tried.
        places: for each trial where its scores are kept, a place a fold.
        notes: one-line facts that the user has to be told.
        stopped: where and why the sweep ended before the last setting; None where it did not.
    """

    trials: list[Trial] = field(default_factory=list)
    places: list[list[Place]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped: dict[str, Any] | None = None


def explore(
    task: Task, module: Kind, params: Params, parts: Sequence[Part], rule: Rule, store: ScoreStore
) -> Exploration:
    """Try the settings in every fold.

    A sweep that may end early does so by `clearly_turned` in the first fold, and the other folds try as many settings.

    Args:
        task: target, classes and seed.
        module: the kind of head.
        params: what the user gave.
        parts: (train, val) of each fold.
        rule: what has to be measured.
        store: takes the validation scores.

    Returns:
        What came out, the settings in the order of the first fold.
    """
    found = Exploration()
    index_of: dict[str, int] = {}
    adaptive, limit = is_adaptive(module, params), None
    for number, (train, val) in enumerate(parts):
        history: list[Mapping[str, Figure] | None] = []
        stream = module.attempts(task, params, train, val)
        try:
            for attempt in stream:
                figures = _measure(task, attempt, val, rule)
                index = index_of.setdefault(json.dumps(attempt.settings, sort_keys=True, default=str), len(index_of))
                if index == len(found.trials):
                    found.trials.append(Trial(settings=dict(attempt.settings)))
                    found.places.append([])
                trial = found.trials[index]
                trial.figures.append(figures)
                trial.details.append(attempt.details)
                trial.carried.append(attempt.carry)
                if figures is not None and attempt.scores is not None:
                    found.places[index].append(store.put(attempt.scores))
                found.notes += attempt.notes
                history.append(figures)
                if number == 0 and adaptive and clearly_turned(history, rule):
                    found.stopped = _stop_record(attempt, rule, len(history), len(parts))
                    limit = len(history)
                if len(history) == limit:
                    break
        finally:
            close: Callable[[], None] | None = getattr(stream, "close", None)
            if close is not None:
                close()  # lets a generator give back its memory before the next fold takes its own
    return found


def is_adaptive(module: Kind, params: Params) -> bool:
    """Whether the sweep may end early: the kind says so, and the user gave no list, which is always tried fully."""
    if any(isinstance(value, list | tuple) for value in params.values.values()):
        return False
    marked = getattr(module, "ADAPTIVE", False)
    return bool(marked(params) if callable(marked) else marked)


def _measure(task: Task, attempt: Attempt, val: Samples, rule: Rule) -> Mapping[str, Figure] | None:
    """Figures of an attempt; None where it diverged."""
    if attempt.scores is None or not np.isfinite(attempt.scores).all():
        return None
    if attempt.scores.shape != (len(val), task.outputs):
        raise ShapeError(f"expected validation scores ({len(val)}, {task.outputs}), got {attempt.scores.shape}")
    return measure_figures(task.target, rule.names, attempt.scores, val.labels)


def _stop_record(attempt: Attempt, rule: Rule, tried: int, folds: int) -> dict[str, Any]:
    where = " in the first fold" if folds > 1 else ""
    return {
        "after": attempt.settings,
        "tried": tried,
        "reason": f"the last {TURNED_AFTER} settings were worse than the best by more than {TURNED_BY:g} standard errors "
        f"in {' and '.join(rule.names)}{where}",
    }
