"""The descent of problems that share their rows: steps, the curvature they are made with, and when to leave off.

# n rows, L problems, K outputs, D feature dim, m sampled rows

Where regularisation is weak most rows are as good as decided: nearly all of the curvature is in a few of them. Steps are
then made on these alone, the others' loss taken as linear, and every so often on all rows, which makes the linear part
exact again; where that shows that the steps went too far they are shortened.

A problem is left when its gap, |gradient|^2 / (2 lambda), is below `tol` times its objective; or when ten steps
together have gained less than a fiftieth of that, which is where weak strengths end: their objective is found long
before a bound that divides by lambda can tell. What is reported is never the estimate but the certificate of
`tle.heads.exact.certificate`, in float64, whatever it says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.exact.certificate import certify
from tle.heads.exact.curvature import Curvature
from tle.heads.exact.design import Design
from tle.heads.exact.lbfgs import Pair, State, descend
from tle.heads.exact.objective import Evaluation, Targets, evaluate

_WINDOW = 10
_LITTLE = 0.02
# Below this relative decrease over the window float32 has nothing more to say.
_SINGLE_NOISE = 3e-7
_DOUBLE_NOISE = 1e-13
# Steps on decisive rows only: from so many rows, where they are at most this part of all, so many between full passes.
_FOCUS_FROM = 2000
_FOCUS_BELOW = 0.5
_FOCUS_STEPS = 16
_FOCUS_VALUES = 2**27  # their copy is at most 512 MiB of float32
_FOCUS_KEPT = 5e-4
_LEAST_REACH = 0.02
# Tolerances below this are not reached in float32; the last steps are then made in float64. They are for any tolerance where
# the gap is more than this part of the objective, which proves next to nothing.
_SINGLE_TOL = 2e-5
_NOTHING_PROVEN = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """One strength, solved.

    Attributes:
        strength: lambda, against the mean of the losses.
        weight_KD: float64 (K, D), on the rows of the design.
        bias_K: float64 (K,).
        objective: f, float64.
        gap: f minus a proven lower bound of the least f, at least 0.
        passes: passes over the rows.
        is_certified: whether the gap is within the tolerance.
    """

    strength: float
    weight_KD: NDArray[np.float64]
    bias_K: NDArray[np.float64]
    objective: float
    gap: float
    passes: int
    is_certified: bool

    @property
    def relative_gap(self) -> float:
        """Gap over objective; 0 where both are 0."""
        return self.gap / self.objective if self.objective > 0 else 0.0


class Solver:
    """What the groups of a path share: the rows, and what is known of their curvature."""

    def __init__(
        self,
        design: Design,
        targets: Targets,
        tol: float,
        max_passes: int,
        intercept: bool,
        rng: np.random.Generator,
    ) -> None:
        self.design, self.targets = design, targets
        self.tol, self.max_passes, self.intercept = tol, max_passes, intercept
        self.curvature = Curvature(design, targets, rng, intercept=intercept)
        self._pairs: list[Pair] = []
        self._focus_steps = _FOCUS_STEPS
        self._unsure_N = np.empty(len(design))  # of the last pass
        self._passes_L = np.zeros(0)

    def evaluate(self, problems: NDArray[np.int64], weight: NDArray[Any], bias: NDArray[Any]) -> Evaluation:
        """A pass, or an intercept's gradient of 0 where there is none."""
        found = evaluate(self.design, self.targets.of(problems), weight, bias, self._unsure_N)
        self._passes_L[problems] += 1
        self.curvature.count(len(self.design), weight)
        return found if self.intercept else Evaluation(found.loss_L, found.grad_LKD, np.zeros_like(found.grad_LK))

    def descend(self, lambda_L: NDArray[np.float64], weight: NDArray[Any], bias: NDArray[Any]) -> State:
        """Solve some problems together from given starts, in the type of the design."""
        self._passes_L = np.zeros(len(lambda_L))
        weight, bias = weight.astype(self.design.dtype), bias.astype(np.float64)
        at = self.evaluate(np.arange(len(lambda_L)), weight, bias)
        pairs = self._pairs if self._pairs and len(self._pairs[0].kept_L) == len(lambda_L) else []
        state = State(weight, bias, lambda_L, at, list(pairs))
        self._descend(state)
        self._pairs, state.passes_L = state.pairs, self._passes_L
        return state

    def finish(self, states: Sequence[State]) -> list[Solution]:
        """Certify solutions in one go, and go on in float64 with what needs it."""
        final = self._certify(states)
        if self.design.dtype == np.float32:
            enough = self.tol if self.tol < _SINGLE_TOL else max(self.tol, _NOTHING_PROVEN)
            at = np.cumsum([0] + [len(state.lambda_L) for state in states])
            for index, state in enumerate(states):
                part = slice(int(at[index]), int(at[index + 1]))
                if any(found.relative_gap > enough for found in final[part]):
                    final[part] = self._polish(state)
        return final

    def _polish(self, state: State) -> list[Solution]:
        """Go on in float64, for tolerances that float32 cannot reach."""
        single, curvature = self.design, self.curvature
        self.design = replace(single, dtype=np.dtype(np.float64))
        self.curvature = curvature.of(self.design)
        pairs = [pair.astype(np.float64) for pair in state.pairs]
        weight = state.weight_LKD.astype(np.float64)
        self._passes_L = state.passes_L.copy()
        at = self.evaluate(np.arange(len(state.lambda_L)), weight, state.bias_LK)
        polished = State(weight, state.bias_LK, state.lambda_L, at, pairs)
        self._descend(polished)
        polished.passes_L = self._passes_L
        final = self._certify([polished])
        self.design, self.curvature = single, curvature
        return final

    def _descend(self, state: State) -> None:
        """Step until every problem is to be left."""
        history: list[NDArray[np.float64]] = []
        focusing = len(self.design) >= _FOCUS_FROM
        while True:
            active = self._unfinished(state, history)
            if not len(active):
                return
            self.curvature.refresh(state, int(active[len(active) // 2]))
            rows = _decisive(self._unsure_N) if focusing and self.curvature.taken else None
            if rows is None or len(rows) * self.design.dim > _FOCUS_VALUES:
                history.append(self._step(state, active, self.evaluate))
            else:
                focusing = self._focus(state, active, rows, history)

    def _unfinished(self, state: State, history: list[NDArray[np.float64]]) -> NDArray[np.int64]:
        """The problems that are worth another step."""
        value_L = state.values()
        # Half of what is asked for: the certificate is a little above the estimate.
        left = (state.gaps() > 0.5 * self.tol * value_L) & (self._passes_L < self.max_passes) & (value_L > 0)
        if len(history) >= _WINDOW:
            noise = _SINGLE_NOISE if self.design.dtype == np.float32 else _DOUBLE_NOISE
            gained = np.sum(history[-_WINDOW:], axis=0)
            left &= gained > np.maximum(_LITTLE * self.tol, noise) * value_L
        return np.flatnonzero(left)

    def _step(self, state: State, active: NDArray[np.int64], evaluate_some: Any) -> NDArray[np.float64]:
        """One step; the decrease of every problem."""
        preconditioner = self.curvature.preconditioner
        assert preconditioner is not None  # noqa: S101 - made by the refresh
        decrease = np.zeros(len(state.lambda_L))
        decrease[active] = descend(state, evaluate_some, preconditioner, active)
        return decrease

    def _focus(
        self, state: State, active: NDArray[np.int64], rows: NDArray[np.int64], history: list[NDArray[np.float64]]
    ) -> bool:
        """Some steps on the decisive rows, then a pass over all; False where they led nowhere."""
        before = state.copy()
        surrogate = self._surrogate(before, rows)
        recent: list[NDArray[np.float64]] = []
        for _ in range(self._focus_steps):
            inner = np.intersect1d(self._unfinished(state, recent), active)
            if not len(inner):
                break
            recent.append(self._step(state, inner, surrogate))
        reach_L = self._shorten(state, before, active)
        full = reach_L[active].min() == 1.0
        self._focus_steps = min(_FOCUS_STEPS, 2 * self._focus_steps) if full else max(2, self._focus_steps // 2)
        gained = before.values() - state.values()
        history.extend([gained / max(len(recent), 1)] * len(recent))
        return bool(reach_L[active].max() > 0)

    def _shorten(self, state: State, before: State, active: NDArray[np.int64]) -> NDArray[np.float64]:
        """Put all rows' loss and gradient into `state`, and the problems where it is not above where they were.

        The surrogate is convex and has the gradient of the whole, so the way it went leads down; not always so far.

        Returns:
            The part of the way that each problem went.
        """
        went, value_L = state.copy(), before.values()
        reach_L = np.ones(len(value_L))
        pending = active
        while len(pending):
            t = reach_L[pending, None, None]
            weight = before.weight_LKD[pending] + t * (went.weight_LKD[pending] - before.weight_LKD[pending])
            bias = before.bias_LK[pending] + t[:, 0] * (went.bias_LK[pending] - before.bias_LK[pending])
            weight = weight.astype(before.weight_LKD.dtype)
            state.put(pending, weight, bias, self.evaluate(pending, weight, bias))
            pending = pending[~(state.values()[pending] <= value_L[pending])]
            reach_L[pending] /= 2
            if len(lost := pending[reach_L[pending] < _LEAST_REACH]):
                reach_L[lost] = 0.0
                at = Evaluation(before.at.loss_L[lost], before.at.grad_LKD[lost], before.at.grad_LK[lost])
                state.put(lost, before.weight_LKD[lost], before.bias_LK[lost], at)
                pending = np.setdiff1d(pending, lost)
        return reach_L

    def _surrogate(
        self, before: State, rows: NDArray[np.int64]
    ) -> Callable[[NDArray[np.int64], NDArray[Any], NDArray[Any]], Evaluation]:
        """The loss with all rows but `rows` taken as linear around `before`, which is left alone."""
        few, targets = self.design.some(rows), self.targets.some(rows)
        share = len(rows) / len(self.design)
        w0, b0 = before.weight_LKD, before.bias_LK
        here = evaluate(few, targets, w0, b0)
        rest_loss = before.at.loss_L - here.loss_L
        rest_w, rest_b = before.at.grad_LKD - here.grad_LKD, before.at.grad_LK - here.grad_LK
        self._passes_L += share

        def surrogate(problems: NDArray[np.int64], weight: NDArray[Any], bias: NDArray[Any]) -> Evaluation:
            found = evaluate(few, targets.of(problems), weight, bias)
            self._passes_L[problems] += share
            self.curvature.count(len(rows), weight)
            linear = np.array(
                [
                    float(np.vdot(rest_w[problem], w - w0[problem])) + float(rest_b[problem] @ (b - b0[problem]))
                    for problem, w, b in zip(problems, weight, bias, strict=True)
                ]
            )
            grad_b = found.grad_LK + rest_b[problems] if self.intercept else np.zeros_like(found.grad_LK)
            return Evaluation(found.loss_L + rest_loss[problems] + linear, found.grad_LKD + rest_w[problems], grad_b)

        return surrogate

    def _certify(self, states: Sequence[State]) -> list[Solution]:
        weight = np.concatenate([state.weight_LKD for state in states]).astype(np.float64)
        bias = np.concatenate([state.bias_LK for state in states]).astype(np.float64)
        strengths = np.concatenate([state.lambda_L for state in states])
        passes = np.concatenate([state.passes_L for state in states])
        found = certify(self.design, self.targets, weight, bias, strengths, intercept=self.intercept)
        gap_L = np.maximum(found.value_L - found.lower_L, 0.0)
        return [
            Solution(
                strength=float(strengths[index]),
                weight_KD=weight[index],
                bias_K=found.bias_LK[index],
                objective=float(found.value_L[index]),
                gap=float(gap_L[index]),
                passes=round(float(passes[index])),
                is_certified=bool(gap_L[index] <= self.tol * found.value_L[index]),
            )
            for index in range(len(gap_L))
        ]


def _decisive(unsure_N: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """The fewest rows that have all but `_FOCUS_KEPT` of the slope between them; None where they are too many."""
    most = max(1, int(_FOCUS_BELOW * len(unsure_N)))
    rows = np.argpartition(unsure_N, -most)[-most:]  # a tenth of the time of sorting all
    wanted = (1 - _FOCUS_KEPT) * unsure_N.sum()
    order = rows[np.argsort(-unsure_N[rows])] if unsure_N[rows].sum() > wanted else rows[:0]
    count = int(np.searchsorted(np.cumsum(unsure_N[order]), wanted)) + 1
    return np.sort(order[:count]) if count <= len(order) else None
