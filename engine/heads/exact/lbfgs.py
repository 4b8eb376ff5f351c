"""L-BFGS for many problems that share their passes, with a preconditioner as its initial inverse Hessian.

# L problems, K outputs, D feature dim, U = K (D + 1) unknowns: weights, then intercepts

Pairs (s, y) are of the loss alone; lambda s is added where they are used, so that they outlive a change of lambda. A pair
whose curvature is not above the noise of the gradient is not kept. Steps are taken where the objective has fallen
enough (Armijo); otherwise the step is shortened by the parabola through what is known.

Source: Nocedal & Wright 2006, "Numerical Optimization", algorithms 7.4 and 3.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tle.heads.exact.objective import Evaluation

PAIRS = 20
# Numbers of all pairs' steps, at most, of which there are then fewer, but some; and of a problem up to which what is made of
# them for one lambda is kept: 1 GiB of float32 twice, and as much again.
_PAIR_VALUES = 2**28
_LEAST_PAIRS = 5
_KEPT_UNKNOWNS = 2**22
_ARMIJO = 1e-4
_SHORTEST = 1e-10
_LEAST_SCALE = 0.05
# Steps for which that comparison holds good; each costs as much as a direction.
_SCALE_FOR = 4
# A pair is kept if s^T y is above this many roundings of |s| |g|.
_NOISE = 4.0


class InverseHessian(Protocol):
    """An approximation of it."""

    def apply(
        self, grad_LKD: NDArray[Any], grad_LK: NDArray[Any], lambda_L: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """It times a gradient, for each problem; of the type of the gradient."""


@dataclass(slots=True, eq=False)
class Pair:
    """A step and what it did to the gradient of the loss.

    Attributes:
        s_LU: differences of unknowns.
        y_LU: of the loss's gradients.
        kept_L: whether it is worth using.
    """

    s_LU: NDArray[Any]
    y_LU: NDArray[Any]
    kept_L: NDArray[np.bool_]
    _penalised: tuple[NDArray[np.float64], NDArray[Any], NDArray[np.float64]] | None = None

    def of(self, problems: NDArray[np.int64]) -> "Pair":
        """That of some problems."""
        return Pair(self.s_LU[problems], self.y_LU[problems], self.kept_L[problems])

    def astype(self, dtype: DTypeLike) -> "Pair":
        """The same in another type."""
        return Pair(self.s_LU.astype(dtype), self.y_LU.astype(dtype), self.kept_L)

    def penalised(self, lambda_L: NDArray[np.float64], weights: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """The y of the objective, whose first unknowns are so many weights, and 1 / s^T y, or 0 for a pair not to be used.

        Unless they are large they are made once for as long as lambda stays the same.
        """
        found = self._penalised
        if found is None or not np.array_equal(found[0], lambda_L):
            full_LU = self.y_LU.copy()
            full_LU[:, :weights] += lambda_L[:, None].astype(full_LU.dtype) * self.s_LU[:, :weights]
            product_L = _dot(self.s_LU, full_LU)
            usable = self.kept_L & (product_L > 0)
            found = lambda_L, full_LU, np.where(usable, 1.0 / np.where(usable, product_L, 1.0), 0.0)
            self._penalised = found if full_LU.size <= _KEPT_UNKNOWNS else None
        return found[1:]


@dataclass(slots=True, eq=False)
class State:
    """Where the problems are.

    Attributes:
        weight_LKD: weights.
        bias_LK: intercepts.
        lambda_L: strengths.
        at: loss and gradient there.
        pairs: the last steps.
        scale_L: how far the preconditioner's steps are right, of the problems of the last step.
        stale_scale: steps for which that is still to be used.
        passes_L: passes that were made, once they are counted.
    """

    weight_LKD: NDArray[Any]
    bias_LK: NDArray[Any]
    lambda_L: NDArray[np.float64]
    at: Evaluation
    pairs: list[Pair]
    scale_L: NDArray[np.float64] = field(default_factory=lambda: np.ones(0))
    stale_scale: int = 0
    passes_L: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def copy(self) -> "State":
        """A state that steps of this one leave alone."""
        at = Evaluation(self.at.loss_L.copy(), self.at.grad_LKD.copy(), self.at.grad_LK.copy())
        return State(self.weight_LKD.copy(), self.bias_LK.copy(), self.lambda_L, at, list(self.pairs))

    def put(self, problems: NDArray[np.int64], weight: NDArray[Any], bias: NDArray[Any], at: Evaluation) -> None:
        """Move some problems."""
        self.weight_LKD[problems], self.bias_LK[problems] = weight, bias
        self.at.loss_L[problems], self.at.grad_LKD[problems] = at.loss_L, at.grad_LKD
        self.at.grad_LK[problems] = at.grad_LK

    def values(self) -> NDArray[np.float64]:
        """The objectives, float64."""
        return self.at.loss_L + self.lambda_L / 2 * _square(self.weight_LKD)

    def gaps(self) -> NDArray[np.float64]:
        """|gradient by W|^2 / (2 lambda): the duality gap where the intercept's gradient is 0."""
        grad_LKD = self.at.grad_LKD + self.lambda_L[:, None, None].astype(self.weight_LKD.dtype) * self.weight_LKD
        return np.asarray(_square(grad_LKD) / (2 * self.lambda_L))


def descend(
    state: State,
    evaluate: Callable[[NDArray[np.int64], NDArray[Any], NDArray[Any]], Evaluation],
    preconditioner: InverseHessian,
    active: NDArray[np.int64],
) -> NDArray[np.float64]:
    """One step of the problems `active`, in place of `state`.

    Returns:
        The decrease of each active objective; 0 where no step lowered it: its precision is exhausted.
    """
    part = _take(state, active)
    lambdas = part.lambda_L
    grad = _flat(part.at.grad_LKD, part.at.grad_LK) + _penalty(part.weight_LKD, part.bias_LK, lambdas)
    direction, slope = _direction(part, grad, preconditioner, state)
    value, scale = part.values(), np.ones(len(active))
    done = np.zeros(len(active), bool)
    decrease = np.zeros(len(active))
    dim = part.weight_LKD.shape
    new_weight, new_bias = part.weight_LKD.copy(), part.bias_LK.copy()
    loss, grad_w, grad_b = part.at.loss_L.copy(), part.at.grad_LKD.copy(), part.at.grad_LK.copy()
    while not done.all():
        at = np.flatnonzero(~done)
        step = scale[at, None].astype(direction.dtype) * direction[at]
        weight = part.weight_LKD[at] + step[:, : dim[1] * dim[2]].reshape(-1, *dim[1:])
        bias = part.bias_LK[at] + step[:, dim[1] * dim[2] :]
        found = evaluate(active[at], weight, bias)
        reached = found.loss_L + lambdas[at] / 2 * _square(weight)
        wanted = value[at] + _ARMIJO * scale[at] * slope[at]
        # Where the objective stands still within its rounding, a falling gradient is as good.
        flat = np.abs(reached - value[at]) <= 4 * np.finfo(np.float64).eps * np.abs(value[at])
        good = np.isfinite(reached) & ((reached <= wanted) | flat)
        took = at[good]
        decrease[took] = value[took] - reached[good]
        new_weight[took], new_bias[took] = weight[good], bias[good]
        loss[took], grad_w[took], grad_b[took] = found.loss_L[good], found.grad_LKD[good], found.grad_LK[good]
        done[took] = True
        bad = at[~good]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            excess = reached[~good] - value[bad] - scale[bad] * slope[bad]
            parabola = -slope[bad] * scale[bad] ** 2 / (2 * excess)
        shorter = np.clip(np.nan_to_num(parabola, nan=0.0), 0.1 * scale[bad], 0.5 * scale[bad])
        scale[bad] = shorter
        done[bad[shorter < _SHORTEST]] = True
    s = _flat(new_weight - part.weight_LKD, new_bias - part.bias_LK)
    y = _flat(grad_w - part.at.grad_LKD, grad_b - part.at.grad_LK)
    curvature = _dot(s, y)
    eps = np.finfo(s.dtype).eps
    keep = curvature > _NOISE * eps * np.sqrt(_dot(s, s) * _dot(grad, grad))
    _store(state, active, new_weight, new_bias, Evaluation(loss, grad_w, grad_b), Pair(s, y, keep))
    return decrease


def _direction(
    part: State, grad: NDArray[Any], preconditioner: InverseHessian, whole: State
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Descent directions (the two loops) and their slopes."""
    shape, q = part.weight_LKD.shape, grad.copy()
    split = shape[1] * shape[2]
    lambdas = part.lambda_L
    kept: list[tuple[NDArray[Any], NDArray[Any], NDArray[np.float64], NDArray[np.float64]]] = []
    for pair in reversed(part.pairs):
        full, rho = pair.penalised(lambdas, split)
        alpha = rho * _dot(pair.s_LU, q)
        q -= alpha[:, None].astype(q.dtype) * full
        kept.append((pair.s_LU, full, rho, alpha))
    weight, bias = preconditioner.apply(q[:, :split].reshape(shape), q[:, split:], lambdas)
    r = _flat(weight, bias)
    if kept:
        # The curvature along the last step against what the preconditioner took it for: a sample finds directions in
        # which its own rows hardly bend, and without this every first step was twice too long (C = 1, 5,000 of 20,000).
        if whole.stale_scale <= 0 or len(whole.scale_L) != len(q):
            full, rho = kept[0][1], kept[0][2]
            weight, bias = preconditioner.apply(full[:, :split].reshape(shape), full[:, split:], lambdas)
            expected = rho * _dot(full, _flat(weight, bias))
            whole.scale_L = np.where(expected > 0, 1.0 / np.where(expected > 0, expected, 1.0), 1.0).clip(
                _LEAST_SCALE, 1.0
            )
            whole.stale_scale = _SCALE_FOR
        whole.stale_scale -= 1
        r *= whole.scale_L[:, None].astype(r.dtype)
    for s, full, rho, alpha in reversed(kept):
        beta = rho * _dot(full, r)
        r += (alpha - beta)[:, None].astype(r.dtype) * s
    slope = -_dot(grad, r)
    # Rounding can turn a direction of next to no slope around: the plain preconditioned gradient cannot be.
    if (wrong := slope >= 0).any():
        weight, bias = preconditioner.apply(
            grad[wrong][:, :split].reshape(-1, *shape[1:]), grad[wrong][:, split:], lambdas[wrong]
        )
        r[wrong] = _flat(weight, bias)
        slope = -_dot(grad, r)
    return -r, np.minimum(slope, 0.0)


def _store(
    state: State,
    active: NDArray[np.int64],
    weight: NDArray[Any],
    bias: NDArray[Any],
    at: Evaluation,
    pair: Pair,
) -> None:
    """Put the results of the active problems back."""
    state.put(active, weight, bias, at)
    problems = len(state.lambda_L)
    if len(active) == problems:
        state.pairs.append(pair)
    else:
        s, y = (np.zeros((problems, pair.s_LU.shape[1]), pair.s_LU.dtype) for _ in range(2))
        kept = np.zeros(problems, bool)
        s[active], y[active], kept[active] = pair.s_LU, pair.y_LU, pair.kept_L
        state.pairs.append(Pair(s, y, kept))
    del state.pairs[: -int(np.clip(_PAIR_VALUES // pair.s_LU.size, _LEAST_PAIRS, PAIRS))]


def _take(state: State, active: NDArray[np.int64]) -> State:
    if len(active) == len(state.lambda_L):
        return state
    at = Evaluation(state.at.loss_L[active], state.at.grad_LKD[active], state.at.grad_LK[active])
    pairs = [pair.of(active) for pair in state.pairs]
    return State(state.weight_LKD[active], state.bias_LK[active], state.lambda_L[active], at, pairs)


def _flat(weight_LKD: NDArray[Any], bias_LK: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([weight_LKD.reshape(len(weight_LKD), -1), bias_LK.astype(weight_LKD.dtype)], axis=1)


def _penalty(weight_LKD: NDArray[Any], bias_LK: NDArray[Any], lambdas: NDArray[np.float64]) -> NDArray[Any]:
    return _flat(lambdas[:, None, None].astype(weight_LKD.dtype) * weight_LKD, np.zeros_like(bias_LK))


def _square(weight_LKD: NDArray[Any]) -> NDArray[np.float64]:
    flat = weight_LKD.reshape(len(weight_LKD), -1)
    return np.array([np.dot(row.astype(np.float64), row.astype(np.float64)) for row in flat])


def _dot(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    return np.array([float(np.dot(left, right)) for left, right in zip(a, b, strict=True)])
