"""Exact solutions for many strengths, from strong to weak.

# n rows, L strengths, K outputs, D feature dim, m sampled rows

Each strength starts from the best combination of the last solutions (`tle.heads.exact.trail`) and with the curvature
pairs that they found: solutions move smoothly with log lambda, and so does the curvature, so most need a handful of passes.
Several strengths at a time, in wider products, took more passes than those gained: 45 values on 20,000 x 1,280 rows of 10
classes took 670 passes (45 s of one core) one by one, 1,172 (59 s) in pairs, 1,812 (76 s) in fours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from tle.heads.exact.design import Design
from tle.heads.exact.device import fetch
from tle.heads.exact.objective import Targets
from tle.heads.exact.solver import Solution, Solver
from tle.heads.exact.trail import Trail, log_odds

__all__ = ["MAX_PASSES", "TOL", "Solution", "solve_labels", "solve_path"]

TOL = 1e-4
MAX_PASSES = 2000
# Solutions that are certified in one pass, in a wider and so faster product.
CERTIFIED_TOGETHER = 4
# A strength below this part of the features' spread is approached in steps of this many decades, to this tolerance.
_WEAK = 3e-5
_WAYPOINT_DECADES = 0.5
_WAYPOINT_TOL = 1e-2
_SPREAD_ROWS = 1000
# Fewer rows than this part of the features: solve for combinations of rows instead.
_FEW_ROWS = 0.7


def solve_path(
    design: Design,
    targets: Targets,
    strengths: Sequence[float],
    *,
    tol: float = TOL,
    max_passes: int = MAX_PASSES,
    intercept: bool = True,
    seed: int = 0,
) -> Iterator[Solution]:
    """Solve min f for each strength, strongest first, a few at a time.

    Args:
        design: the rows.
        targets: classes of a softmax, with weights; at least two classes occur.
        strengths: lambdas above 0, in any order.
        tol: relative gap that is asked for.
        max_passes: passes a strength may take.
        intercept: whether there is a free intercept.
        seed: of the rows that the curvature is taken from.

    Yields:
        Solutions by descending strength; float64.
    """
    if has_few_rows(len(design), design.dim):
        yield from _solve_few_rows(design, targets, strengths, tol, max_passes, intercept, seed)
        return
    targets = targets.beside(design.tensor)
    solver = Solver(design, targets, tol, max_passes, intercept, np.random.default_rng(seed))
    ordered = sorted({float(value) for value in strengths}, reverse=True)
    trail = Trail(design, targets, intercept=intercept)
    states = []
    for strength in _with_waypoints(ordered, _WEAK * _spread(design)):
        is_asked = strength in ordered
        solver.tol = tol if is_asked else max(tol, _WAYPOINT_TOL)
        state = solver.descend(np.array([strength]), *trail.start(strength))
        trail.add(state.weight_LKD[0], state.bias_LK[0])
        solver.tol = tol
        if is_asked:
            states.append(state)
        if len(states) == CERTIFIED_TOGETHER or (states and strength == ordered[-1]):
            yield from solver.finish(states)
            states = []


def has_few_rows(n: int, dim: int) -> bool:
    """Whether classes are solved for as combinations of the rows, which NumPy does wherever these are."""
    return n < _FEW_ROWS * dim


def _spread(design: Design) -> float:
    """Mean square of a feature about its mean, from some rows: what lambda is weak or strong against."""
    rows = np.arange(len(design))[:: max(1, len(design) // _SPREAD_ROWS)]
    (z_MD,) = fetch(design.take(rows))
    return float(z_MD.astype(np.float64).var(axis=0).mean())


def _with_waypoints(ordered: Sequence[float], weak: float) -> list[float]:
    """The strengths, and on the way to those below `weak` one in every half decade that has none.

    Far from a separating solution steps are short: C = 100 took 40 s from zero, and half of that by way of others that
    are solved loosely.
    """
    found: list[float] = []
    for strength in ordered:
        last = found[-1] if found else np.inf
        if strength < weak:
            steps = np.log10(min(last, max(weak, strength)) / strength) / _WAYPOINT_DECADES
            count = int(np.floor(steps - 1e-9))
            found += [strength * 10 ** (_WAYPOINT_DECADES * index) for index in range(count, 0, -1)]
        found.append(strength)
    return found


def solve_labels(
    design: Design,
    targets: Targets,
    strength: float,
    *,
    tol: float = TOL,
    max_passes: int = MAX_PASSES,
    intercept: bool = True,
    seed: int = 0,
    start: Sequence[Solution] = (),
) -> list[Solution]:
    """Solve one binary problem a label, all at once, at one strength; `start` holds solutions of another strength."""
    labels, dim, targets = targets.labels.shape[1], design.dim, targets.beside(design.tensor)
    solver = Solver(design, targets, tol, max_passes, intercept, np.random.default_rng(seed))
    if start:
        weight, bias = np.stack([s.weight_KD for s in start]), np.stack([s.bias_K for s in start])
    else:
        weight, bias = np.zeros((labels, 1, dim)), log_odds(targets, intercept=intercept)[:, None]
    return solver.finish([solver.descend(np.full(labels, strength), weight, bias)])


def _solve_few_rows(
    design: Design,
    targets: Targets,
    strengths: Sequence[float],
    tol: float,
    max_passes: int,
    intercept: bool,
    seed: int,
) -> Iterator[Solution]:
    """Weights are combinations of the rows: with Z^T = Q R the problem on R^T has n features and the same optimum.

    Q is orthonormal, so |W|^2 is the same in both; the intercept is untouched.
    """
    z_ND = design.load().features.astype(np.float64)
    q_DR, r_RN = np.linalg.qr(z_ND.T)
    reduced = Design(np.ascontiguousarray(r_RN.T), None, None, None, np.dtype(np.float64))
    found_all = solve_path(reduced, targets, strengths, tol=tol, max_passes=max_passes, intercept=intercept, seed=seed)
    for found in found_all:
        yield replace(found, weight_KD=found.weight_KD @ q_DR.T)
