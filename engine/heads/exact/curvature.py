"""When the curvature of a descent is taken anew, from which rows, and how fine.

# n rows, L problems, K outputs, D feature dim, m sampled rows

It is first an upper bound, which needs no solution. Then, whenever passes have cost about as much as it does, it is taken
where the descent has come to, and finer each time until a solve with it would be felt beside a pass: what has cost so much
already will cost more. 16,928 x 1,280 rows of 144 classes took 105, 381 and 1,142 passes at C = 0.018, 0.18 and 1.8 with
1,024 unknowns in the dense block; with up to 3,532 75, 191 and 616, in 0.9, 0.6 and 0.6 times the seconds.

It is taken where the rows are. On an H100 a path of 45 values took 50 s with the curvature on one core of the host (0.7 s each
time, 4 ms a solve, beside passes of 1 ms) and 10 s with it on the GPU.
"""

from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.exact.bound import bound
from tle.heads.exact.design import Design
from tle.heads.exact.device import cast, fetch, send, zeros
from tle.heads.exact.lbfgs import InverseHessian, State
from tle.heads.exact.objective import Targets, predict_rows
from tle.heads.exact.preconditioner import two_level

# Multiply-adds of passes that one of the curvature's is worth, passes being slower, by how often it has been taken: the
# first bound is soon worth less, and what a path has reached is good for several strengths. 0.2 for all but the first took
# 42 s for 45 values on 20,000 x 1,280 rows of 10 classes, 0.4 36, 0.8 35; one value from zero took 1.2 times as long with 0.8.
_WORTHS = (0.05, 0.2, 0.4, 0.8)
# A smaller change of the objective does not make the curvature worth taking again.
_MOVED = 0.03
# Unknowns of the dense block: at first, at most, and one for so many multiply-adds of a product with all rows: a solve then
# takes about a tenth of a pass. 45 values on 20,000 x 1,280 rows of 10 classes took 35 s with 1,536, 28 with 1,024.
_FIRST_UNKNOWNS = 1024
_MOST_UNKNOWNS = 4096
_UNKNOWN_WORTH = 250
# Features from which curvature is in float32 though passes are in float64, where its noise is below what counts: eigenvectors
# of 1,280 took 0.36 s in float64 and 0.2 in float32.
_SINGLE_FROM = 256
# Squares of larger rows, and larger strengths, are not for float32.
_LARGEST_SINGLE = 1e12
# Rows of a sample, at least, and for each unknown.
_SAMPLE = 5000
_ROWS_AN_UNKNOWN = 2.5


class Curvature:
    """What is known of the curvature of problems that share their rows.

    Attributes:
        preconditioner: it; None before the first refresh.
        taken: how often it was taken from a solution.
    """

    def __init__(self, design: Design, targets: Targets, rng: np.random.Generator, *, intercept: bool) -> None:
        self.preconditioner: InverseHessian | None = None
        self.taken = 0
        self._design, self._targets, self._rng, self._intercept = design, targets, rng, intercept
        self._spent = 0.0  # multiply-adds of passes since
        self._value = np.inf  # objective of the problem it was taken at
        self._noise: float | None = None  # of curvature in float32

    def of(self, design: Design) -> "Curvature":
        """The same of a design of another type, to be refreshed on its own."""
        found = copy(self)
        found._design = design
        return found

    def count(self, rows: int, weight: NDArray[Any]) -> None:
        """Take note of a pass with some weights over some rows."""
        self._spent += 2.0 * rows * weight.size

    def refresh(self, state: State, problem: int) -> None:
        """Take it anew at a problem once passes have cost as much as that does and its objective has moved."""
        value, strength = float(state.values()[problem]), float(state.lambda_L[problem])
        if self.preconditioner is None:
            rows = np.arange(len(self._design))
            if len(rows) > _SAMPLE:
                rows = np.sort(self._rng.choice(len(rows), _SAMPLE, replace=False))
            share = self._targets.weight_N[rows] / self._targets.weight_N[rows].sum()
            z_MD = self._take(rows, strength)
            self.preconditioner = bound(z_MD, share, self._targets.outputs, intercept=self._intercept)
            self._spent, self._value = 0.0, value
            return
        moved = abs(value - self._value) > _MOVED * value or self.taken == 0
        if self._spent >= self._price() and moved:
            rows, share, p_MK = self._sample(state, problem)
            z_MD = self._take(rows, strength)
            self.preconditioner = two_level(z_MD, share, p_MK, self._unknowns(), intercept=self._intercept)
            self._spent, self._value = 0.0, value
            self.taken += 1

    def _take(self, rows: NDArray[np.int64], strength: float) -> Any:
        """Some rows, where they are and in the type that curvature is taken in."""
        z_MD = self._design.take(rows)
        if self._design.dim < _SINGLE_FROM or self._design.dtype == np.float32:
            return z_MD
        if self._noise is None:
            self._noise = _single_noise(z_MD)
        return cast(z_MD, np.float32) if self._noise < strength < _LARGEST_SINGLE else z_MD

    def _price(self) -> float:
        """Multiply-adds that taking the curvature is worth, in terms of passes at their slower rate."""
        dim, sample = self._design.dim, min(self._sample_size(), len(self._design))
        dense = min(self._unknowns(), self._targets.outputs * (dim + 1))
        worth = _WORTHS[min(self.taken, len(_WORTHS) - 1)]
        return worth * (sample * (2.0 * dim**2 + dense**2) + 10.0 * dim**3 + dense**3 / 3)

    def _unknowns(self) -> int:
        """Of the dense block of the next curvature, at most."""
        worth = int((len(self._design) * self._design.dim * self._targets.outputs / _UNKNOWN_WORTH) ** 0.5)
        return min(max(_FIRST_UNKNOWNS, worth), _MOST_UNKNOWNS, _FIRST_UNKNOWNS << self.taken)

    def _sample_size(self) -> int:
        """Rows of the next curvature's sample, m."""
        return max(_SAMPLE, int(_ROWS_AN_UNKNOWN * self._unknowns()))

    def _sample(self, state: State, problem: int) -> tuple[NDArray[np.int64], NDArray[np.float64], Any]:
        """Rows drawn by how unsure they are, what each stands for, and their probabilities where the rows are."""
        weight, bias = state.weight_LKD[problem], state.bias_LK[problem]
        bias_beside, weight_beside = send(self._design.tensor, bias, weight)
        n, wanted = len(self._design), self._sample_size()
        p_NK = zeros((n, self._targets.outputs), np.float32, bias_beside) if n <= wanted else None
        unsure_N = np.empty(n)
        for positions, z_BD in self._design.blocks(self._targets.outputs):
            p_BK = predict_rows(z_BD, weight_beside, bias_beside)
            (unsure_N[positions],) = fetch((p_BK * (1 - p_BK)).sum(axis=1))
            if p_NK is not None:
                p_NK[positions] = p_BK
        v_N = self._targets.weight_N
        if p_NK is not None:
            return np.arange(n), v_N, p_NK
        importance_N = v_N * (unsure_N + 1e-3 * unsure_N.mean() + np.finfo(np.float32).tiny)
        chance_N = _inclusion(importance_N, wanted)
        rows = np.flatnonzero(self._rng.random(n) < chance_N)
        return rows, v_N[rows] / chance_N[rows], predict_rows(self._design.take(rows), weight_beside, bias_beside)


def _single_noise(z_MD: Any) -> float:
    """The least eigenvalue that float32 can tell from 0 in the curvature of some rows; infinite where it fails them."""
    largest = float(abs(z_MD).max())
    if largest > _LARGEST_SINGLE:
        return np.inf
    mean_D = z_MD.mean(axis=0)
    spread = float(((z_MD - mean_D) ** 2).mean(axis=0).max())
    eps = float(np.finfo(np.float32).eps)
    return max(4 * eps * spread, (8 * eps * float(abs(mean_D).max())) ** 2)


def _inclusion(importance_N: NDArray[np.float64], wanted: int) -> NDArray[np.float64]:
    """Chances proportional to importance, none above 1, that sum to about `wanted`."""
    chance_N = np.minimum(1.0, importance_N * wanted / importance_N.sum())
    for _ in range(5):
        free = chance_N < 1.0
        rest = wanted - int((~free).sum())
        if rest <= 0 or not free.any():
            break
        chance_N[free] = np.minimum(1.0, importance_N[free] * rest / importance_N[free].sum())
    return np.asarray(chance_N.clip(1e-9, 1.0))
