"""Newton's method for problems so small that their whole Hessian can be factored: to the last digit, in milliseconds.

# n rows, K classes, D feature dim, E = D + 1 unknowns of a class with its intercept

    H = sum_i v_i (diag(p_i) - p_i p_i^T) (x) (z_i, 1)(z_i, 1)^T + lambda (I, 0)

A step of a limited-memory method costs two milliseconds however small the problem, and where columns of 1e-6 stand
beside columns of 1e6 its objective stops changing long before its bound is closed. Here the Hessian is scaled to a unit
diagonal before it is factored, and p (1 - p) is never taken from 1 - p where p is next to 1.

First the objective is brought down, by steps shortened until it falls enough; then steps are taken for as long as they
narrow the certified gap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from tle.heads.exact.certificate import certify
from tle.heads.exact.design import Design
from tle.heads.exact.objective import Targets, xent_double
from tle.heads.exact.path import Solution

# Unknowns up to which a step takes some milliseconds.
MOST_UNKNOWNS = 512
_MOST_WORK = 2**29
# And up to which it takes some tenths of a second, which is well spent on a solution whose gap is still open.
MOST_TO_FINISH = 1536
_MOST_WORK_TO_FINISH = 2**32
_ARMIJO = 1e-4
_SHORTEST = 1e-10
# Where the objective is expected to fall by less than this part of itself, the gap takes over.
_NEAR = 1e-10
_CLOSING_STEPS = 8
_SHORTEST_CLOSING = 1e-2
# Relative gap at which rounding is all that is left.
_NOTHING_LEFT = 1e-15


def is_small(n: int, outputs: int, dim: int) -> bool:
    """Whether a problem is for `solve_small`."""
    unknowns = outputs * (min(n, dim) + 1)
    return unknowns <= MOST_UNKNOWNS and n * unknowns**2 <= _MOST_WORK


def can_finish(n: int, outputs: int, dim: int) -> bool:
    """Whether a problem is for `finish`."""
    unknowns = outputs * (min(n, dim) + 1)
    return unknowns <= MOST_TO_FINISH and n * unknowns**2 <= _MOST_WORK_TO_FINISH


def solve_small(
    design: Design,
    targets: Targets,
    strengths: Sequence[float],
    *,
    tol: float,
    max_passes: int,
    intercept: bool,
) -> Iterator[Solution]:
    """Solve min f for each strength, strongest first, each from the one before.

    Args:
        design: the rows, in memory and float64.
        targets: classes of a softmax; at least two classes occur.
        strengths: lambdas above 0.
        tol: relative gap that counts as certified; solutions are as good as rounding allows whatever it is.
        max_passes: passes a strength may take.
        intercept: whether there is a free intercept.

    Yields:
        Solutions by descending strength.
    """
    design, basis_DR = _reduce(design)
    problem = _Small(design, targets, intercept)
    at = problem.start()
    for strength in sorted(set(strengths), reverse=True):
        at, passes = _descend(problem, at, strength, max_passes)
        found = _close(problem, at, strength, passes, max_passes)
        at = _with_intercept(found.weight_KD, found.bias_K, intercept)
        weight_KD = found.weight_KD if basis_DR is None else found.weight_KD @ basis_DR.T
        yield replace(found, weight_KD=weight_KD, is_certified=found.gap <= tol * found.objective)


def finish(
    design: Design, targets: Targets, solution: Solution, *, tol: float, max_passes: int, intercept: bool
) -> Solution:
    """The same for one strength from a solution that is there already; see `solve_small`."""
    design, basis_DR = _reduce(design)
    weight_KD = solution.weight_KD if basis_DR is None else solution.weight_KD @ basis_DR
    problem = _Small(design, targets, intercept)
    at = _with_intercept(weight_KD, solution.bias_K, intercept)
    at, passes = _descend(problem, at, solution.strength, max_passes - solution.passes)
    found = _close(problem, at, solution.strength, solution.passes + passes, max_passes)
    if not found.gap < solution.gap:
        return solution
    weight_KD = found.weight_KD if basis_DR is None else found.weight_KD @ basis_DR.T
    return replace(found, weight_KD=weight_KD, is_certified=found.gap <= tol * found.objective)


def _reduce(design: Design) -> tuple[Design, NDArray[np.float64] | None]:
    """With fewer rows than features, weights are combinations of the rows: as many features are enough."""
    if len(design) >= design.dim:
        return design, None
    basis_DR, _ = np.linalg.qr(design.features.T)
    return Design(np.ascontiguousarray(design.features @ basis_DR), None, None, None, design.dtype), basis_DR


@dataclass(frozen=True, slots=True, eq=False)
class _Small:
    """A problem in memory; unknowns are (K, E), with the intercepts, if there are any, as the last column."""

    design: Design
    targets: Targets
    intercept: bool

    @property
    def rows(self) -> NDArray[np.float64]:
        """(n, E): features, and 1 for the intercept."""
        z_ND: NDArray[np.float64] = self.design.features
        return np.concatenate([z_ND, np.ones((len(z_ND), 1))], axis=1) if self.intercept else z_ND

    def start(self) -> NDArray[np.float64]:
        """No weights; with an intercept the log shares of the classes."""
        share_K = self.targets.shares()
        log_K = np.log(share_K) - np.log(share_K).mean()
        return _with_intercept(np.zeros((self.targets.outputs, self.design.dim)), log_K, self.intercept)

    def penalty(self, strength: float) -> NDArray[np.float64]:
        """(E,): lambda for weights, 0 for an intercept."""
        return np.append(np.full(self.design.dim, strength), [0.0] if self.intercept else [])

    def value(self, at_KE: NDArray[np.float64], strength: float) -> float:
        """The objective."""
        return self._residuals(at_KE)[0] + float((self.penalty(strength) / 2 * np.square(at_KE)).sum())

    def gradient(self, at_KE: NDArray[np.float64], strength: float) -> tuple[float, NDArray[np.float64]]:
        """The objective and its gradient (K, E)."""
        loss, r_NK = self._residuals(at_KE)
        penalty_E = self.penalty(strength)
        value = loss + float((penalty_E / 2 * np.square(at_KE)).sum())
        return value, r_NK.T @ self.rows + penalty_E * at_KE

    def _residuals(self, at_KE: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        r_NK = self.rows @ at_KE.T
        loss, _ = xent_double(r_NK, self.targets, slice(0, len(r_NK)), 1)
        return float(loss[0]), r_NK

    def newton(
        self, at_KE: NDArray[np.float64], grad_KE: NDArray[np.float64], strength: float
    ) -> NDArray[np.float64] | None:
        """Inverse Hessian times gradient, (K, E); None where the Hessian cannot be factored."""
        scaled, scale = self._hessian(at_KE, strength)
        if scaled is None:
            return None
        noise = 0.0
        while noise < 1.0:
            try:
                factor = linalg.cho_factor(scaled + noise * np.eye(len(scaled)), lower=True, check_finite=False)
            except linalg.LinAlgError:  # rounding: a ridge makes a shorter step, not a wrong one
                noise = max(16 * noise, 1e-15)
                continue
            step = linalg.cho_solve(factor, grad_KE.reshape(-1) * scale, check_finite=False) * scale
            return np.asarray(step.reshape(grad_KE.shape)) if np.isfinite(step).all() else None
        return None

    def _hessian(
        self, at_KE: NDArray[np.float64], strength: float
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
        """The Hessian with a diagonal of ones, and what each unknown was multiplied by."""
        t_NE, v_N = self.rows, self.targets.weight_N
        p_NK, rest_NK = _probabilities(t_NE @ at_KE.T)
        outputs, width = at_KE.shape
        stacked = ((np.sqrt(v_N)[:, None] * p_NK)[:, :, None] * t_NE[:, None, :]).reshape(len(t_NE), -1)
        hessian = -(stacked.T @ stacked)
        blocks, penalty = hessian.reshape(outputs, width, outputs, width), np.diag(self.penalty(strength))
        for index in range(outputs):
            blocks[index, :, index] = (t_NE * (v_N * p_NK[:, index] * rest_NK[:, index])[:, None]).T @ t_NE + penalty
        # An intercept that nothing can move is as good as fixed.
        diagonal = np.maximum(np.diag(hessian), np.finfo(np.float64).tiny)
        if not np.isfinite(diagonal).all():
            return None, diagonal
        scale = 1.0 / np.sqrt(diagonal)
        hessian *= scale
        hessian *= scale[:, None]
        if self.intercept:
            # All intercepts together move nothing: that direction is made stiff, and the gradient has no part in it.
            together = np.zeros((outputs, width))
            together[:, -1] = 1.0
            stiff = together.reshape(-1) / scale
            stiff /= np.sqrt(stiff @ stiff)
            hessian += stiff[:, None] * stiff
        return hessian, scale


def _probabilities(logits_NK: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities p, and 1 - p, both to full precision."""
    top_N = logits_NK.argmax(axis=1)
    at = (np.arange(len(top_N)), top_N)
    e_NK = np.exp(logits_NK - logits_NK[at][:, None])
    e_NK[at] = 0.0
    others_N = e_NK.sum(axis=1)
    total_N1 = 1.0 + others_N[:, None]
    rest_NK = (total_N1 - e_NK) / total_N1
    rest_NK[at] = others_N / total_N1[:, 0]
    e_NK[at] = 1.0
    return e_NK / total_N1, rest_NK


def _descend(
    problem: _Small, at_KE: NDArray[np.float64], strength: float, max_passes: int
) -> tuple[NDArray[np.float64], int]:
    """Bring the objective down; the unknowns and the passes that it took."""
    passes = 0
    while passes < max_passes:
        value, grad_KE = problem.gradient(at_KE, strength)
        passes += 1
        step_KE = problem.newton(at_KE, grad_KE, strength)
        slope = 0.0 if step_KE is None else float((step_KE * grad_KE).sum())
        if step_KE is None or slope <= _NEAR * value:
            break
        reach = 1.0
        while passes < max_passes and reach > _SHORTEST:
            passes += 1
            if problem.value(at_KE - reach * step_KE, strength) <= value - _ARMIJO * reach * slope:
                break
            reach /= 2
        else:
            break
        at_KE = at_KE - reach * step_KE
    return at_KE, passes


def _close(problem: _Small, at_KE: NDArray[np.float64], strength: float, passes: int, max_passes: int) -> Solution:
    """Steps that narrow the certified gap, until none does."""
    best = _certified(problem, at_KE, strength, passes)
    for _ in range(_CLOSING_STEPS):
        if best.gap <= _NOTHING_LEFT * best.objective or best.passes >= max_passes:
            break
        here_KE = _with_intercept(best.weight_KD, best.bias_K, problem.intercept)
        _, grad_KE = problem.gradient(here_KE, strength)
        step_KE = problem.newton(here_KE, grad_KE, strength)
        reach, before = 1.0, best.gap
        while step_KE is not None and best.gap == before and reach > _SHORTEST_CLOSING:
            found = _certified(problem, here_KE - reach * step_KE, strength, best.passes + 1)
            best = found if found.gap < best.gap else replace(best, passes=found.passes)  # never true of a NaN
            reach /= 4
        if not best.gap < 0.9 * before:
            break
    return best


def _certified(problem: _Small, at_KE: NDArray[np.float64], strength: float, passes: int) -> Solution:
    """A solution with its certificate."""
    dim = problem.design.dim
    bias_K = at_KE[:, dim] if problem.intercept else np.zeros(len(at_KE))
    weight_KD = np.ascontiguousarray(at_KE[:, :dim])
    found = certify(
        problem.design,
        problem.targets,
        weight_KD[None],
        bias_K[None],
        np.array([strength]),
        intercept=problem.intercept,
    )
    value, gap = float(found.value_L[0]), float(found.value_L[0] - found.lower_L[0])
    return Solution(strength, weight_KD, found.bias_LK[0], value, max(gap, 0.0), passes, False)


def _with_intercept(
    weight_KD: NDArray[np.float64], bias_K: NDArray[np.float64], intercept: bool
) -> NDArray[np.float64]:
    return np.concatenate([weight_KD, bias_K[:, None]], axis=1) if intercept else weight_KD
