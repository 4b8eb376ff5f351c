"""What every kind of head is to the driver: settings that it tries one by one, and a last fit.

# n samples, K outputs

A kind of head is a module `tle.heads.<kind>` that has what `Kind` says. `tle.heads.driver` tries the settings, lets
`tle.heads.choice` choose, and asks for the last fit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError
from tle.heads.params import Params
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
class Attempt:
    """One setting, fitted on train and scored on val.

    Attributes:
        settings: what was tried, JSON-able; the same setting is equal in every fold.
        scores: (n_val, K) float32; None where the fit diverged.
        details: JSON-able facts for the table, such as iterations. `seconds` is shown but not stored, since the same
            seed gives the same file; `converged` False is said in a note.
        carry: what the last fit needs of this one, such as a temperature that was fitted on val.
        model: what gave the scores, if it is at hand.
        notes: one-line facts that the user has to be told.
    """

    settings: dict[str, Any]
    scores: NDArray[np.float32] | None
    details: dict[str, Any] = field(default_factory=dict)
    carry: dict[str, Any] = field(default_factory=dict)
    model: Model | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """The last fit.

    Attributes:
        model: the head.
        details: JSON-able facts of it, which join the chosen settings in the record.
        notes: one-line facts that the user has to be told.
        packages: what did the work, for the record of versions.
    """

    model: Model
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("scikit-learn",)


class Kind(Protocol):
    """The module of a kind of head.

    Two more names are optional. `ADAPTIVE`: True, or a function of the params that says so, where the sweep may end
    before the last setting once validation has clearly turned; never where the user gave a list. `EDGES`: settings whose
    range has no natural end, so that a best value at an end of what was tried is worth a note.

    Attributes:
        PARAMS: names of the settings that it takes.
        TARGETS: targets that it can be fitted on.
    """

    PARAMS: tuple[str, ...]
    TARGETS: tuple[Target, ...]

    def attempts(self, task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
        """Try the settings, the simplest (most regularised) first; a kind with nothing to choose yields one.

        Called once a fold, and never without val. The consumer may stop before the end. `task.train` and `task.val` are
        not to be used: with folds they are not what `train` and `val` are.
        """

    def default_settings(self, params: Params) -> dict[str, Any]:
        """What to fit where there is nothing to choose by: the values given, or the documented defaults.

        Raises:
            HeadError: several values were given; see `sole_value`.
        """

    def refit(
        self,
        task: Task,
        params: Params,
        samples: Samples,
        settings: Mapping[str, Any],
        carried: Sequence[Mapping[str, Any]],
        n_tried_on: int,
    ) -> Refit:
        """The last fit.

        Args:
            task: target, classes and seed.
            params: what the user gave.
            samples: what to fit on.
            settings: those of the chosen attempt, or `default_settings`.
            carried: `carry` of the chosen attempt in every fold; empty where nothing was tried.
            n_tried_on: train samples that the settings were tried on, so that a strength of regularisation that weighs
                against a sum can keep its strength for each sample.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What fitting one kind of head gives.

    Attributes:
        model: the head, after the last fit.
        chosen: the settings of that fit and facts about it.
        trials: settings that were tried, in their order: validation figures, standard errors (`NAME_se`) and details;
            the one that was taken has `chosen`.
        val_scores: (n_val, K) scores of the chosen settings in samples that they were not fitted on; None without any.
        val_labels: labels that belong to `val_scores`.
        notes: one-line facts that the user has to be told.
        packages: what did the work, for the record of versions.
        choice: how the setting was chosen: metric, rule, number of folds, where the sweep stopped; empty without val.
        calibration: what a temperature would do to the probabilities, or did; None where there is none to speak of.
    """

    model: Model
    chosen: dict[str, Any]
    trials: list[dict[str, Any]] = field(default_factory=list)
    val_scores: NDArray[np.float32] | None = None
    val_labels: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("scikit-learn",)
    choice: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None


def score_samples(model: Model, samples: Samples, outputs: int) -> NDArray[np.float32]:
    """Scores of all samples, float32 (n, K), a block of features at a time."""
    scores_NK = np.empty((len(samples), outputs), np.float32)
    for positions, x_BD in samples.blocks():
        scores_NK[positions] = model.scores(x_BD)
    return scores_NK


def quality(
    target: Target, scores_NK: NDArray[np.float32], labels: NDArray[Any]
) -> tuple[dict[str, float], tuple[float, float]]:
    """The two figures that a setting is chosen by unless the user says otherwise, and its rank (smaller is better)."""
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
