"""Ridge regression in closed form; for classes, regression onto one-hot targets.

# n samples, D feature dim, K outputs (C classes, or 1 for regression), A alphas

    min over W, b:  |Z W^T + b - Y|^2 + alpha |W|^2        Z: standardised features, Y: targets

The intercept is not penalised: with centred Z it is the mean of Y. One eigendecomposition serves every alpha; see
`tle.heads.ridge_path`. alpha weighs against a *sum* of squares, so the strength a sample feels is alpha / n; the refit on
train + val uses alpha n / n_tried_on and so keeps it.

Alpha is chosen on validation pictures, or, without any and with `select=loo`, by the exact leave-one-out error of the very
samples of the last fit: the mean squared error over all targets, as scikit-learn's `RidgeCV` and `RidgeClassifierCV`
have it, and the whole curve is in the record.

Regression onto one-hot targets orders the classes but gives no probabilities. The logits are W z + b over a temperature
(for multi-label: W z + b - 1/2 over a temperature) that is fitted on the validation pictures, or on the left-out scores;
see `tle.heads.temperature`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.heads.affine import Affine, Link, apply_link, embed_classes, make_affine
from tle.heads.params import Params
from tle.heads.ridge_path import RidgePath, Solution, decompose
from tle.heads.samples import Samples, Task
from tle.heads.sweep import Attempt, Refit, edge_note
from tle.heads.temperature import fit_temperature
from tle.heads.words import is_standard, one_of

PARAMS = ("alpha", "select", "scaler")
TARGETS = (Target.CLASS, Target.MULTILABEL, Target.REGRESSION)
EDGES = ("alpha",)
# Five a decade. The eigenvalues of Z^T Z sum to n D, so the grid spans from almost none to almost only penalty for n D up
# to 1e8.
GRID = tuple(10.0 ** (step / 5) for step in range(-10, 41))
SELECTS = ("val", "loo")


def attempts(task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
    """Every alpha from one decomposition, the largest first; with `select=loo` the one that leave-one-out takes.

    Raises:
        UsageError: a setting out of range.
    """
    grid, by_loo = _grid(params), one_of(params, "select", SELECTS) == "loo"
    path = decompose(task, train, standard=is_standard(params))
    if by_loo:
        grid = (_choose(path, grid)[0],)
    solutions = [path.solve(alpha) for alpha in grid]
    present_P = _present(task, train)
    for alpha, solution, raw_NK in zip(grid, solutions, _score_all(task, solutions, val), strict=True):
        temperature = 1.0
        if task.target is not Target.REGRESSION:
            temperature = fit_temperature(raw_NK[:, present_P], val.labels, task.target, present_P)
        layer = _layer(task, solution, present_P, temperature)
        scores_NK = raw_NK[:, :1] if task.target is Target.REGRESSION else _scores(task, raw_NK, present_P, temperature)
        yield Attempt(
            settings={"select": "loo"} if by_loo else {"alpha": alpha},
            scores=scores_NK.astype(np.float32),
            details={"alpha": alpha} if by_loo else {},
            carry={} if task.target is Target.REGRESSION else {"temperature": temperature},
            model=layer,
        )


def default_settings(params: Params) -> dict[str, Any]:
    """The alpha that was given, or else leave-one-out over the grid or the list that was given."""
    grid = _grid(params)
    return {"alpha": grid[0]} if len(grid) == 1 and "select" not in params.values else {"select": "loo"}


def refit(
    task: Task,
    params: Params,
    samples: Samples,
    settings: Mapping[str, Any],
    carried: Sequence[Mapping[str, Any]],
    n_tried_on: int,
) -> Refit:
    """The last fit; see `tle.heads.sweep.Kind`."""
    path = decompose(task, samples, standard=is_standard(params))
    notes = path.scaler.notes
    details: dict[str, Any] = {}
    temperatures = [float(carry["temperature"]) for carry in carried if "temperature" in carry]
    rest_n = None
    if "alpha" in settings:
        alpha = float(settings["alpha"]) * len(samples) / n_tried_on
        details["alpha_refit"] = alpha
    else:
        grid = _grid(params)
        alpha, curve, rest_n = _choose(path, grid)
        details |= {"alpha": alpha, "alpha_refit": alpha, "loo": curve}
        notes += edge_note("alpha", grid, alpha)
    solution = path.solve(alpha)
    present_P = _present(task, samples)
    temperature = 1.0
    if task.target is not Target.REGRESSION:
        if temperatures:
            temperature = float(np.exp(np.mean(np.log(temperatures))))
        else:
            rest_n = path.leave_one_out((alpha,)).rest_nA[:, 0] if rest_n is None else rest_n
            raw_NK = path.left_out_scores(solution, rest_n) - _threshold(task)
            temperature = fit_temperature(raw_NK[:, present_P], samples.labels, task.target, present_P)
            notes += ("the temperature was fitted on leave-one-out scores of train",)
        details["temperature"] = temperature
    return Refit(
        model=_layer(task, solution, present_P, temperature), details=details, notes=notes, packages=("scipy",)
    )


def _grid(params: Params) -> tuple[float, ...]:
    """Alphas, descending: the most regularised first."""
    return params.numbers("alpha", GRID)[::-1]


def _choose(path: RidgePath, grid: tuple[float, ...]) -> tuple[float, list[dict[str, float]], NDArray[np.float32]]:
    """The alpha of the least leave-one-out error, the curve, and 1 - h of that alpha."""
    found = path.leave_one_out(grid)
    return grid[found.best], found.curve(), found.rest_nA[:, found.best]


def _score_all(task: Task, solutions: Sequence[Solution], val: Samples) -> Iterator[NDArray[np.float64]]:
    """(n_val, K) scores before the temperature of every solution; one pass over val for as many as memory allows."""
    step = max(1, 2**25 // max(1, len(val) * task.outputs))
    for first in range(0, len(solutions), step):
        some = solutions[first : first + step]
        weight_SD = np.concatenate([weight_KD for weight_KD, _ in some])
        bias_S = np.concatenate([bias_K for _, bias_K in some]) - _threshold(task)
        scores_NS = np.empty((len(val), len(bias_S)))
        for positions, x_BD in val.blocks():
            scores_NS[positions] = x_BD.astype(np.float64) @ weight_SD.T + bias_S
        for index in range(len(some)):
            yield scores_NS[:, index * task.outputs : (index + 1) * task.outputs]


def _scores(
    task: Task, raw_NK: NDArray[np.float64], present_P: NDArray[np.int64], temperature: float
) -> NDArray[np.float32]:
    """What the layer gives, without another product: classes that are absent get nothing."""
    if task.target is Target.MULTILABEL:
        return apply_link((raw_NK / temperature).astype(np.float32), Link.SIGMOID)
    scores_NK = np.zeros(raw_NK.shape, np.float32)
    scores_NK[:, present_P] = apply_link((raw_NK[:, present_P] / temperature).astype(np.float32), Link.SOFTMAX)
    return scores_NK


def _present(task: Task, samples: Samples) -> NDArray[np.int64]:
    """Outputs that the samples say anything about: for classes those with a picture, else all."""
    return np.unique(samples.labels) if task.target is Target.CLASS else np.arange(task.outputs)


def _threshold(task: Task) -> float:
    """Multi-label decides at 1/2, and so the zero of its logits is moved there."""
    return 0.5 if task.target is Target.MULTILABEL else 0.0


def _layer(task: Task, solution: Solution, present_P: NDArray[np.int64], temperature: float) -> Affine:
    """The layer that gives the scores of the target."""
    weight_KD, bias_K = solution[0] / temperature, (solution[1] - _threshold(task)) / temperature
    if task.target is Target.CLASS:
        weight_KD, bias_K = embed_classes(weight_KD[present_P], bias_K[present_P], present_P, task.outputs)
    return make_affine(weight_KD, bias_K, Link.of(task.target))
