"""A network of one or more hidden layers on the features, by scikit-learn's `MLPClassifier` and `MLPRegressor`.

Adam, ReLU, early stopping: a tenth of the samples of each fit is set apart, and training ends when it has not got better
for ten epochs. Where a class has too few samples for that tenth, training runs to its end, and a note says so. Values of
a regression are standardised. Seeded.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np

from tle.enums import Target
from tle.errors import UsageError
from tle.heads.estimator import refit_settings, try_settings
from tle.heads.params import Params
from tle.heads.samples import Samples, Task
from tle.heads.sweep import Attempt, Refit, sole_value
from tle.heads.words import one_of

PARAMS = ("hidden", "alpha", "lr", "max_iter", "scaler")
TARGETS = (Target.CLASS, Target.MULTILABEL, Target.REGRESSION)
EDGES = ("alpha",)
# As wide as the features of small networks halved or quartered; more seldom helps on top of a network.
HIDDEN = (256,)
GRID = (1e-4, 1e-2, 1.0)
DEFAULT_ALPHA = 1e-2
LR = 1e-3  # scikit-learn's, and Adam's own
MAX_ITER = 200
_HELD_OUT = 0.1


def attempts(task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
    """Every alpha, the largest first.

    Raises:
        UsageError: a setting out of range.
        HeadError: scikit-learn refuses the data.
    """
    for alpha in params.numbers("alpha", GRID)[::-1]:
        kind, arguments, notes = _estimator(task, params, train, alpha)
        tried = try_settings(task, kind, arguments, train, val)
        yield replace(tried, settings={"alpha": alpha}, notes=(*notes, *tried.notes))


def default_settings(params: Params) -> dict[str, Any]:
    """The alpha that was given, or else 1e-2.

    Raises:
        HeadError: several values were given.
    """
    return {"alpha": sole_value("alpha", params.numbers("alpha", GRID), "alpha" in params.values, DEFAULT_ALPHA)}


def refit(
    task: Task,
    params: Params,
    samples: Samples,
    settings: Mapping[str, Any],
    carried: Sequence[Mapping[str, Any]],
    n_tried_on: int,  # noqa: ARG001 - scikit-learn divides this alpha by the samples of a batch
) -> Refit:
    """The last fit; see `tle.heads.sweep.Kind`."""
    kind, arguments, notes = _estimator(task, params, samples, float(settings["alpha"]))
    last = refit_settings(task, kind, arguments, samples, carried)
    return replace(last, notes=(*notes, *last.notes))


def _estimator(
    task: Task, params: Params, samples: Samples, alpha: float
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Import path, arguments, and notes."""
    stops = _can_hold_out(task, samples)
    arguments: dict[str, Any] = {
        "hidden_layer_sizes": _hidden(params),
        "alpha": alpha,
        "learning_rate_init": params.number("lr", LR),
        "max_iter": params.integer("max_iter", MAX_ITER),
        "early_stopping": stops,
        "validation_fraction": _HELD_OUT,
    }
    scaler = {"scaler": one_of(params, "scaler", ("standard", "none"))}
    notes = () if stops else ("too few samples of a class to hold some out: training ran without early stopping",)
    if task.target is not Target.REGRESSION:
        return "sklearn:sklearn.neural_network.MLPClassifier", {**arguments, **scaler}, notes
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import StandardScaler

    # Adam's steps are of about the size lr: values far from 0 would take it for ever.
    network = MLPRegressor(**arguments, random_state=task.seed)
    return (
        "sklearn:sklearn.compose.TransformedTargetRegressor",
        {"regressor": network, "transformer": StandardScaler(), **scaler},
        notes,
    )


def _can_hold_out(task: Task, samples: Samples) -> bool:
    """Whether a stratified tenth exists: two samples of every class, and room for one of each in both parts."""
    held_out = ceil(_HELD_OUT * len(samples))
    if task.target is Target.REGRESSION:
        return held_out >= 2  # of one value there is no R^2
    if task.target is Target.CLASS:
        counts = np.bincount(samples.labels)
        counts = counts[counts > 0]
        return bool(counts.min() >= 2 and held_out >= len(counts) and len(samples) - held_out >= len(counts))
    positives = samples.labels.sum(axis=0, dtype=np.int64)
    rarer = np.minimum(positives, len(samples) - positives)
    return bool((rarer != 1).all() and held_out >= 2)


def _hidden(params: Params) -> tuple[int, ...]:
    """Widths of the hidden layers, in their order."""
    given = params.values.get("hidden", HIDDEN)
    widths = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not widths or not all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in widths):
        raise UsageError(
            f"parameter hidden of head {params.head} takes the width of a layer or a list of widths, got {given!r}"
        )
    return widths
