"""Choosing settings on validation data.

# n validation samples, K outputs
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError
from tle.heads.samples import Samples, Task


class Model(Protocol):
    """A fitted head's arithmetic: raw features in, scores out, and how it is stored."""

    def scores(self, x_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 (B, K) scores of float32 (B, D) features."""

    def record(self) -> dict[str, Any]:
        """JSON-able; `type` names the class that reads it back."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Arrays by name."""

    def files(self) -> dict[str, bytes]:
        """Further files by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What fitting one kind of head gives.

    Attributes:
        model: the head, fitted on train and val.
        chosen: the settings it was fitted with.
        trials: settings that were tried, each with its validation figures.
        val_scores: (n_val, K) scores of the chosen settings fitted on train only; None without validation data.
        notes: one-line facts that the user has to be told.
        packages: what did the work, for the record of versions.
    """

    model: Model
    chosen: dict[str, Any]
    trials: list[dict[str, Any]] = field(default_factory=list)
    val_scores: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("scikit-learn",)


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting, its validation figures and scores.

    Attributes:
        settings: what was tried.
        figures: what was measured, the deciding figure first.
        scores: (n_val, K).
        rank: smaller is better.
    """

    settings: dict[str, Any]
    figures: dict[str, float]
    scores: NDArray[np.float32]
    rank: tuple[float, float]


def score_samples(model: Model, samples: Samples, outputs: int) -> NDArray[np.float32]:
    """Scores of all samples, float32 (n, K), a block of features at a time."""
    scores_NK = np.empty((len(samples), outputs), np.float32)
    for positions, x_BD in samples.blocks():
        scores_NK[positions] = model.scores(x_BD)
    return scores_NK


def run_trials(
    task: Task, settings: Iterable[Mapping[str, Any]], score: Callable[[Mapping[str, Any]], NDArray[np.float32]]
) -> tuple[Trial, list[dict[str, Any]]]:
    """Try each setting on the validation samples and keep the best.

    Args:
        task: the samples; val may not be empty.
        settings: what to try.
        score: setting -> (n_val, K) validation scores.

    Returns:
        The best trial: by accuracy, mean average precision or squared error; then by cross-entropy or absolute error;
        then the earliest. And a record of all.

    Raises:
        HeadError: no setting gave finite scores.
    """
    best: Trial | None = None
    record = []
    for setting in settings:
        scores = score(setting)
        if not np.isfinite(scores).all():
            record.append({**setting, "diverged": True})
            continue
        figures, rank = quality(task.target, scores, task.val.labels)
        record.append({**setting, **figures})
        if best is None or rank < best.rank:
            best = Trial(dict(setting), figures, scores, rank)
    if best is None:
        raise HeadError("no setting gave finite validation scores: lower the learning rate, or look at the features")
    return best, record


def quality(
    target: Target, scores_NK: NDArray[np.float32], labels: NDArray[Any]
) -> tuple[dict[str, float], tuple[float, float]]:
    """The two figures that a setting is chosen by, and its rank (smaller is better)."""
    from tle.metrics import mean_average_precision, mean_nll

    if target is Target.REGRESSION:
        error = scores_NK[:, 0].astype(np.float64) - labels
        figures = {"mse": float(np.mean(error**2)), "mae": float(np.abs(error).mean())}
        return figures, (figures["mse"], figures["mae"])
    nll = mean_nll(scores_NK, labels)
    if target is Target.CLASS:
        accuracy = float((scores_NK.argmax(axis=1) == labels).mean())
        return {"accuracy": accuracy, "nll": nll}, (-accuracy, nll)
    precision = mean_average_precision(scores_NK, labels)
    if precision is None:  # no label has a positive on val: only the cross-entropy can decide
        return {"nll": nll}, (0.0, nll)
    return {"mAP": precision, "nll": nll}, (-precision, nll)


def edge_note(name: str, grid: Sequence[float], chosen: float) -> tuple[str, ...]:
    """A note where the best of at least two values lies at an end of the grid."""
    if len(grid) < 2 or chosen not in (min(grid), max(grid)):
        return ()
    end = "smallest" if chosen == min(grid) else "largest"
    return (f"the best {name}, {chosen:g}, is the {end} that was tried: a wider range of {name} may do better",)


def sole_value(name: str, grid: Sequence[float], given: bool, default: float) -> float:
    """The value to take where there is no validation data.

    Raises:
        HeadError: several values were asked for, and nothing can choose among them.
    """
    if given and len(grid) > 1:
        raise HeadError(f"{len(grid)} values of {name} were given and no validation pictures to choose by: give one")
    return grid[0] if given else default
