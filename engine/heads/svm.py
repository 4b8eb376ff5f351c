"""A linear support vector machine, by scikit-learn's `LinearSVC`; for regression `LinearSVR` on standardised values.

C weighs the sum of the losses, so the strength that a sample feels is 1 / (C n); the refit on train + val uses
C n_tried_on / n and so keeps it. Probabilities are a softmax (multi-label: sigmoid) of the decision function over a
temperature that is fitted on the validation pictures. What does not converge is said in a note.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tle.enums import Target
from tle.heads.estimator import refit_settings, try_settings
from tle.heads.params import Params
from tle.heads.samples import Samples, Task
from tle.heads.sweep import Attempt, Refit, sole_value
from tle.heads.words import one_of

PARAMS = ("C", "class_weight", "max_iter", "scaler")
TARGETS = (Target.CLASS, Target.MULTILABEL, Target.REGRESSION)
EDGES = ("C",)
# Decades below scikit-learn's 1.0: on standardised features of a network the best lies there, and a large C costs most.
GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
DEFAULT_C = 1e-3
MAX_ITER = 1000


def attempts(task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
    """Every C, the smallest first.

    Raises:
        UsageError: a setting out of range.
        HeadError: scikit-learn refuses the data.
    """
    for c in params.numbers("C", GRID):
        tried = try_settings(task, *_estimator(task, params, c), train, val)
        yield replace(tried, settings={"C": c})


def default_settings(params: Params) -> dict[str, Any]:
    """The C that was given, or else 1e-3.

    Raises:
        HeadError: several values were given.
    """
    return {"C": sole_value("C", params.numbers("C", GRID), "C" in params.values, DEFAULT_C)}


def refit(
    task: Task,
    params: Params,
    samples: Samples,
    settings: Mapping[str, Any],
    carried: Sequence[Mapping[str, Any]],
    n_tried_on: int,
) -> Refit:
    """The last fit; see `tle.heads.sweep.Kind`."""
    c = float(settings["C"]) * n_tried_on / len(samples)
    last = refit_settings(task, *_estimator(task, params, c), samples, carried)
    return replace(last, details={"C_refit": c, **last.details})


def _estimator(task: Task, params: Params, c: float) -> tuple[str, dict[str, Any]]:
    """Import path and arguments."""
    arguments: dict[str, Any] = {"C": c, "dual": "auto", "max_iter": params.integer("max_iter", MAX_ITER)}
    scaler = {"scaler": one_of(params, "scaler", ("standard", "none"))}
    weight = one_of(params, "class_weight", ("none", "balanced"))
    if task.target is not Target.REGRESSION:
        weights = {"class_weight": None if weight == "none" else weight}
        return "sklearn:sklearn.svm.LinearSVC", {**arguments, **weights, **scaler}
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVR

    # The tube's width and C are in units of the values, hence the scaler; the squared loss takes the primal solver.
    machine = LinearSVR(**arguments, loss="squared_epsilon_insensitive", random_state=task.seed)
    return "sklearn:sklearn.compose.TransformedTargetRegressor", {
        "regressor": machine,
        "transformer": StandardScaler(),
        **scaler,
    }
