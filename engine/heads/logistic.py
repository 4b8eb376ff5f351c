"""Multinomial logistic regression with an L2 penalty, solved to a stated tolerance.

# n samples, D feature dim, C classes, P classes present in the fit

    min over W, b:  1/n sum_i -log softmax(W z_i + b)[y_i]  +  1/(2 C n) |W|^2        z: standardised features

The intercept is not penalised. scikit-learn's C weighs the *sum* of the losses, so the strength a sample feels is
1 / (C n); the refit on train + val uses C n_train / n_all and so keeps it.

scikit-learn's solver is exact only as far as `tol` says, and its default of 1e-4 is far from the optimum where the
penalty is weak: on 1,197 digits with C = 10 single probabilities were off by 0.38 (mean 2.7e-3), at 1e-6 by 0.009
(mean 3e-5), for 4 times the iterations and with no warning in either case. In float32 it stops early, again without a
warning. So the fit runs in float64 at 1e-6, the gradient at the solution is measured here, and what did not converge is
said.

Multi-label targets: one binary problem a label, one C for all.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.heads.affine import Affine, Link, embed_classes, make_affine
from tle.heads.params import Params
from tle.heads.samples import MANY_CLASSES_WARNING, Task
from tle.heads.scaler import Scaler, fit_scaler
from tle.heads.sweep import Fitted, edge_note, run_trials, score_samples, sole_value
from tle.heads.threads import blas_threads

PARAMS = ("C", "tol", "max_iter")
TARGETS = (Target.CLASS, Target.MULTILABEL)
# Decades; a best value at an end of the grid is said in a note.
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
DEFAULT_C = 1e-2
TOL = 1e-6
# The weakest penalty of the grid took 96 iterations on 1,197 digits and 57 on 2,000 samples of 512 correlated features.
MAX_ITER = 2000


@dataclass(frozen=True, slots=True)
class _Solver:
    """Tolerance and patience of the solver.

    Attributes:
        tol: largest component of the gradient of the objective above, at which to stop.
        max_iter: iterations at most.
    """

    tol: float
    max_iter: int


@dataclass(frozen=True, slots=True)
class _Solution:
    """One solved problem.

    Attributes:
        layer: the layer on raw features.
        n_iter: iterations, the most of any label.
        gradient: largest component of the gradient at the solution.
        converged: whether the solver says so.
        constant: labels that were the same in all samples (multi-label).
    """

    layer: Affine
    n_iter: int
    gradient: float
    converged: bool
    constant: tuple[int, ...] = ()

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return {"n_iter": self.n_iter, "gradient": self.gradient, "converged": self.converged}


def fit(task: Task, params: Params) -> Fitted:
    """Choose C on validation data, then solve on train + val.

    Args:
        task: the samples; targets CLASS or MULTILABEL.
        params: `C` (one or a list), `tol` and `max_iter`.

    Returns:
        The layer, with the sweep and notes on anything that did not converge.

    Raises:
        UsageError: a setting out of range.
        HeadError: several C and nothing to choose by.
    """
    grid = params.numbers("C", GRID)
    solver = _Solver(params.number("tol", TOL), params.integer("max_iter", MAX_ITER))
    notes: tuple[str, ...] = ()
    trials: list[dict[str, Any]] = []
    val_scores = None
    if len(task.val):
        solutions: dict[float, _Solution] = {}
        scaler = fit_scaler(task.train)
        z_ND = scaler.load(task.train)

        def score(setting: Any) -> NDArray[np.float32]:
            solved = _solve(task, z_ND, task.train.labels, scaler, setting["C"], solver)
            solutions[setting["C"]] = solved
            return score_samples(solved.layer, task.val, task.outputs)

        best, trials = run_trials(task, [{"C": c} for c in grid], score)
        del z_ND  # before the second copy is made for the refit
        trials = [{**trial, **solutions[trial["C"]].record()} for trial in trials]
        chosen_c, val_scores = float(best.settings["C"]), best.scores
        notes += edge_note("C", grid, chosen_c)
        if slow := [c for c, solved in solutions.items() if not solved.converged]:
            values = ", ".join(f"{c:g}" for c in slow)
            notes += (f"the solver did not converge at C = {values} while choosing C (max_iter {solver.max_iter})",)
    else:
        chosen_c = sole_value("C", grid, "C" in params.values, DEFAULT_C)
    refit_c = chosen_c * len(task.train) / len(task.both)
    scaler = fit_scaler(task.both)
    final = _solve(task, scaler.load(task.both), task.both.labels, scaler, refit_c, solver)
    notes += (*scaler.notes, *_final_notes(task, final, solver))
    chosen = {"C": chosen_c, "C_refit": refit_c, "tol": solver.tol, "max_iter": solver.max_iter, **final.record()}
    return Fitted(model=final.layer, chosen=chosen, trials=trials, val_scores=val_scores, notes=notes)


def _final_notes(task: Task, final: _Solution, solver: _Solver) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if not final.converged:
        notes += (
            f"the final fit stopped after {final.n_iter} iterations without converging (gradient {final.gradient:.1e}, "
            f"wanted {solver.tol:.1e}): raise max_iter, or take a smaller C",
        )
    elif final.gradient > 10 * solver.tol:
        notes += (
            f"the final fit stopped at the precision of its objective with a gradient of {final.gradient:.1e}, "
            f"wanted {solver.tol:.1e}",
        )
    if final.constant:
        names = ", ".join(task.classes[label] for label in final.constant[:3]) + (", ..." if final.constant[3:] else "")
        notes += (
            f"{len(final.constant)} labels are the same in every picture of the fit and get one probability: {names}",
        )
    return notes


def _solve(
    task: Task, z_ND: NDArray[np.float64], labels: NDArray[Any], scaler: Scaler, c: float, solver: _Solver
) -> _Solution:
    """Solve one problem on standardised features and fold the scaler into its layer."""
    outputs = 1 if task.target is Target.MULTILABEL else task.outputs
    with blas_threads(z_ND.size * outputs):
        return _solve_target(task, z_ND, labels, scaler, c, solver)


def _solve_target(
    task: Task, z_ND: NDArray[np.float64], labels: NDArray[Any], scaler: Scaler, c: float, solver: _Solver
) -> _Solution:
    if task.target is Target.MULTILABEL:
        return _solve_labels(z_ND, labels, scaler, c, solver)
    present_P, y_N = np.unique(labels, return_inverse=True)
    if len(present_P) == 1:  # a validation split can take all pictures but those of one class
        weight_PD, bias_P = np.zeros((1, z_ND.shape[1])), np.zeros(1)
        n_iter, gradient, converged = 0, 0.0, True
    else:
        weight_PD, bias_P, n_iter, gradient, converged = _run_lbfgs(z_ND, y_N, c, solver)
        if len(present_P) == 2:  # one logit for the second class; halved, the two rows are centred
            weight_PD, bias_P = np.concatenate([-weight_PD, weight_PD]) / 2, np.concatenate([-bias_P, bias_P]) / 2
    weight_CD, bias_C = embed_classes(*scaler.fold(weight_PD, bias_P), present_P, len(task.classes))
    return _Solution(make_affine(weight_CD, bias_C, Link.SOFTMAX), n_iter, gradient, converged)


def _solve_labels(
    z_ND: NDArray[np.float64], labels_NC: NDArray[np.uint8], scaler: Scaler, c: float, solver: _Solver
) -> _Solution:
    """One binary problem a label. A label without contrast gets the probability (positives + 1/2) / (n + 1)."""
    n, n_classes = labels_NC.shape
    positives_C = labels_NC.sum(axis=0, dtype=np.int64)
    weight_CD, bias_C = np.zeros((n_classes, z_ND.shape[1])), np.zeros(n_classes)
    iterations, gradients, converged = [0], [0.0], True
    constant = np.flatnonzero((positives_C == 0) | (positives_C == n))
    for label in range(n_classes):
        if label in constant:
            bias_C[label] = np.log((positives_C[label] + 0.5) / (n - positives_C[label] + 0.5))
            continue
        weight_1D, bias_1, n_iter, gradient, done = _run_lbfgs(z_ND, labels_NC[:, label], c, solver)
        weight_CD[label], bias_C[label] = weight_1D[0], bias_1[0]
        iterations.append(n_iter)
        gradients.append(gradient)
        converged &= done
    layer = make_affine(*scaler.fold(weight_CD, bias_C), Link.SIGMOID)
    return _Solution(layer, max(iterations), max(gradients), converged, tuple(constant.tolist()))


def _run_lbfgs(
    z_ND: NDArray[np.float64], y_N: NDArray[Any], c: float, solver: _Solver
) -> tuple[NDArray[np.float64], NDArray[np.float64], int, float, bool]:
    """Weights and intercepts (one row for two classes), iterations, gradient, and whether the solver converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Always from zero: a warm start would save iterations, but the stopping point would depend on the path taken.
    model = LogisticRegression(C=c, tol=solver.tol, max_iter=solver.max_iter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message=MANY_CLASSES_WARNING)
        model.fit(z_ND, y_N)
    converged = True
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            converged = False  # goes into the record and the notes
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    weight_KD, bias_K = np.asarray(model.coef_), np.asarray(model.intercept_)
    gradient = _gradient(z_ND, y_N, weight_KD, bias_K, c)
    return weight_KD, bias_K, int(np.max(model.n_iter_)), gradient, converged


def _gradient(
    z_ND: NDArray[np.float64], y_N: NDArray[Any], weight_KD: NDArray[np.float64], bias_K: NDArray[np.float64], c: float
) -> float:
    """Largest component of the gradient of the objective: 1/n (p - y)^T z + W / (C n), and 1/n sum (p - y) for b."""
    n = len(z_ND)
    residual_NK = z_ND @ weight_KD.T + bias_K
    if len(bias_K) == 1:
        residual_NK = np.exp(-np.logaddexp(0.0, -residual_NK))
        residual_NK -= y_N[:, None]
    else:
        residual_NK -= residual_NK.max(axis=1, keepdims=True)
        np.exp(residual_NK, out=residual_NK)
        residual_NK /= residual_NK.sum(axis=1, keepdims=True)
        residual_NK[np.arange(n), y_N] -= 1.0
    by_weight_KD = residual_NK.T @ z_ND / n + weight_KD / (c * n)
    return float(max(np.abs(by_weight_KD).max(initial=0.0), np.abs(residual_NK.mean(axis=0)).max()))
