"""Ridge regression in closed form; for classes, regression onto one-hot targets.

# n samples, D feature dim, K outputs (C classes, or 1 for regression)

    min over W, b:  |Z W^T + b - Y|^2 + alpha |W|^2        Z: standardised features, Y: targets

The intercept is not penalised: with centred Z it is the mean of Y. One eigendecomposition serves every alpha:

    n >= D:  Z^T Z = V L V^T            W^T = V (L + alpha)^-1 V^T Z^T Y
    n <  D:  Z Z^T = U L U^T            W^T = Z^T U (L + alpha)^-1 U^T Y

alpha weighs against a *sum* of squares, so the strength a sample feels is alpha / n; the refit on train + val uses
alpha n_all / n_train and so keeps it.

Regression onto one-hot targets orders the classes but gives no probabilities. The logits are W z + b over a temperature
(for multi-label: W z + b - 1/2 over a temperature) that is fitted on validation data; see `tle.heads.temperature`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.heads.affine import Affine, Link, embed_classes, make_affine
from tle.heads.params import Params
from tle.heads.samples import Samples, Task, as_targets
from tle.heads.scaler import Scaler, fit_scaler
from tle.heads.sweep import Fitted, edge_note, run_trials, score_samples, sole_value
from tle.heads.temperature import fit_temperature

PARAMS = ("alpha",)
TARGETS = (Target.CLASS, Target.MULTILABEL, Target.REGRESSION)
# The eigenvalues of Z^T Z sum to n D, so the grid spans from almost none to almost only penalty for n D up to 1e8.
GRID = tuple(10.0**exponent for exponent in range(-2, 8))
DEFAULT_ALPHA = 100.0


_Solution = tuple[NDArray[np.float64], NDArray[np.float64]]  # weights (K, D) and intercepts (K,) on raw features


@dataclass(frozen=True, slots=True)
class _Decomposition:
    """The eigendecomposition that every alpha shares.

    Attributes:
        scaler: what standardised the features.
        basis_DR: what the solution is spanned by: V, or Z^T U.
        values_R: eigenvalues L, none negative.
        projected_RK: V^T Z^T Y, or U^T Y, of the centred targets.
        mean_K: mean of the targets.
    """

    scaler: Scaler
    basis_DR: NDArray[np.float64]
    values_R: NDArray[np.float64]
    projected_RK: NDArray[np.float64]
    mean_K: NDArray[np.float64]

    def solve(self, alpha: float) -> _Solution:
        """Weights (K, D) and intercepts (K,) on raw features."""
        weight_DK = self.basis_DR @ (self.projected_RK / (self.values_R + alpha)[:, None])
        return self.scaler.fold(weight_DK.T, self.mean_K)


def fit(task: Task, params: Params) -> Fitted:
    """Choose alpha on validation data, then solve on train + val.

    Args:
        task: the samples.
        params: `alpha` (one or a list).

    Returns:
        The layer, with the sweep.

    Raises:
        UsageError: a setting out of range.
        HeadError: several alphas and nothing to choose by.
    """
    grid = params.numbers("alpha", GRID)
    notes: tuple[str, ...] = ()
    trials: list[dict[str, Any]] = []
    val_scores, temperature = None, 1.0
    if len(task.val):
        decomposition = _decompose(task, task.train)
        temperatures: dict[float, float] = {}

        def score(setting: Any) -> NDArray[np.float32]:
            solution = decomposition.solve(setting["alpha"])
            temperatures[setting["alpha"]] = _temperature(task, solution, task.train, task.val)
            layer = _layer(task, solution, task.train, temperatures[setting["alpha"]])
            return score_samples(layer, task.val, task.outputs)

        best, trials = run_trials(task, [{"alpha": alpha} for alpha in grid], score)
        alpha, val_scores = float(best.settings["alpha"]), best.scores
        temperature = temperatures[alpha]
        notes += edge_note("alpha", grid, alpha)
    else:
        alpha = sole_value("alpha", grid, "alpha" in params.values, DEFAULT_ALPHA)
    refit_alpha = alpha * len(task.both) / len(task.train)
    final = _decompose(task, task.both)
    notes += final.scaler.notes
    solution = final.solve(refit_alpha)
    chosen = {"alpha": alpha, "alpha_refit": refit_alpha}
    if task.target is not Target.REGRESSION:
        if not len(task.val):
            temperature = _temperature(task, solution, task.both, task.both)
            notes += ("the temperature was fitted on train itself: its probabilities are too sure",)
        chosen["temperature"] = temperature
    layer = _layer(task, solution, task.both, temperature)
    return Fitted(model=layer, chosen=chosen, trials=trials, val_scores=val_scores, notes=notes)


def _decompose(task: Task, samples: Samples) -> _Decomposition:
    scaler = fit_scaler(samples)
    target_NK = as_targets(samples.labels, task.target, task.outputs)
    mean_K = target_NK.mean(axis=0)
    target_NK -= mean_K
    if len(samples) < samples.dim:
        z_ND = scaler.load(samples)
        values_R, vectors_NR = np.linalg.eigh(z_ND @ z_ND.T)
        return _Decomposition(scaler, z_ND.T @ vectors_NR, values_R.clip(0), vectors_NR.T @ target_NK, mean_K)
    gram_DD = np.zeros((samples.dim, samples.dim))
    cross_DK = np.zeros((samples.dim, task.outputs))
    for positions, x_BD in samples.blocks():
        z_BD = scaler.apply(x_BD)
        gram_DD += z_BD.T @ z_BD
        cross_DK += z_BD.T @ target_NK[positions]
    values_R, vectors_DR = np.linalg.eigh(gram_DD)
    return _Decomposition(scaler, vectors_DR, values_R.clip(0), vectors_DR.T @ cross_DK, mean_K)


def _present(task: Task, samples: Samples) -> NDArray[np.int64]:
    """Outputs that the samples say anything about: for classes those with a picture, else all."""
    return np.unique(samples.labels) if task.target is Target.CLASS else np.arange(task.outputs)


def _temperature(task: Task, solution: _Solution, fitted: Samples, held_out: Samples) -> float:
    """The temperature of a solution on `fitted`, by the scores of `held_out`; 1 for regression, which has none."""
    if task.target is Target.REGRESSION:
        return 1.0
    present_P = _present(task, fitted)
    raw = make_affine(*_logits(task, solution), Link.IDENTITY)
    scores_NK = score_samples(raw, held_out, task.outputs)
    return fit_temperature(scores_NK[:, present_P], held_out.labels, task.target, present_P)


def _logits(task: Task, solution: _Solution) -> _Solution:
    """The layer before the temperature: multi-label decides at 1/2, and so its zero is moved there."""
    weight_KD, bias_K = solution
    return weight_KD, bias_K - 0.5 if task.target is Target.MULTILABEL else bias_K


def _layer(task: Task, solution: _Solution, fitted: Samples, temperature: float) -> Affine:
    """The layer that gives the scores of the target."""
    weight_KD, bias_K = _logits(task, solution)
    weight_KD, bias_K = weight_KD / temperature, bias_K / temperature
    if task.target is Target.CLASS:
        present_P = _present(task, fitted)
        weight_KD, bias_K = embed_classes(weight_KD[present_P], bias_K[present_P], present_P, task.outputs)
    return make_affine(weight_KD, bias_K, Link.of(task.target))
