"""Where to begin the next strength: the best combination of the last solutions.

# n rows, K outputs, D feature dim, A solutions remembered

Logits are linear in the weights, so with those of the last solutions at hand the best combination is a problem of A
unknowns without a product over the features. Weights grow with weaker regularisation, by no fixed law; among the
combinations are the last solution, its multiples, and what the last ones point at.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.exact.design import Design
from tle.heads.exact.device import cast, library, send, zeros
from tle.heads.exact.objective import Targets
from tle.heads.exact.products import times
from tle.kernels.softmax_xent import softmax_xent_

REMEMBERED = 3
# Logits of a solution are kept if they are no more than this, in elements: 256 MiB.
_KEPT_LOGITS = 2**26
_STEPS = 15


class Trail:
    """The last solutions and their logits, which are kept where the rows are."""

    def __init__(self, design: Design, targets: Targets, *, intercept: bool) -> None:
        self.design, self.targets, self.intercept = design, targets.beside(design.tensor), intercept
        self._past: list[tuple[NDArray[Any], NDArray[Any], Any]] = []
        self._keeps = len(design) * targets.outputs <= _KEPT_LOGITS

    def add(self, weight_KD: NDArray[Any], bias_K: NDArray[Any]) -> None:
        """Remember a solution; costs half a pass."""
        logits_NK = None
        if self._keeps:
            bias, columns = send(self.design.tensor, bias_K, np.ascontiguousarray(weight_KD.T, self.design.dtype))
            logits_NK = zeros((len(self.design), len(bias)), np.float32, bias)
            for positions, z_BD in self.design.blocks(len(bias)):
                logits_NK[positions] = times(z_BD, columns) + bias
        self._past = [*self._past[1 - REMEMBERED :], (weight_KD, bias_K, logits_NK)]

    def start(self, strength: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weights (1, K, D) and intercepts (1, K) to begin with."""
        if not self._past:
            bias_K = log_odds(self.targets, intercept=self.intercept)
            return np.zeros((1, self.targets.outputs, self.design.dim)), bias_K[None]
        weight, bias, _ = self._past[-1]
        if len(self._past) == 1 or not self._keeps:
            return weight[None], bias[None]
        flat_AM = np.stack([w.reshape(-1) for w, _, _ in self._past]).astype(np.float64)
        mix_A = _best_mix([z for _, _, z in self._past], self.targets, flat_AM @ flat_AM.T, strength)
        bias_K = mix_A @ np.stack([b for _, b, _ in self._past])
        return (mix_A @ flat_AM).reshape(1, *weight.shape), bias_K[None]


def log_odds(targets: Targets, *, intercept: bool) -> NDArray[np.float64]:
    """The intercept that is best without features: centred log shares of the classes, or log odds of each label."""
    share_K = targets.shares()
    if not intercept:
        return np.zeros(len(share_K))
    if targets.is_sigmoid:
        share_L = share_K.clip(1e-12, 1 - 1e-12)
        return np.asarray(np.log(share_L / (1 - share_L)))
    bias_K = np.log(share_K.clip(1e-12))
    return np.asarray(bias_K - bias_K.mean())


def _best_mix(
    logits: list[Any], targets: Targets, inner_AA: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """The combination of least objective, by BFGS from the last solution; logits are arrays or tensors."""
    from scipy.optimize import minimize

    weight_N, vdot = cast(targets.weights, np.float32), library(targets.weights).vdot

    def objective(mix_A: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        r_NK = logits[0] * float(mix_A[0])
        for mix, logits_NK in zip(mix_A[1:], logits[1:], strict=True):
            r_NK += float(mix) * logits_NK
        loss = float(softmax_xent_(r_NK[:, None, :], targets.labels, weight_N)[0])
        penalty_A = strength * (inner_AA @ mix_A)
        slope_A = [float(vdot(r_NK.reshape(-1), logits_NK.reshape(-1))) for logits_NK in logits]
        gradient_A = np.array(slope_A) + penalty_A
        return float(loss + mix_A @ penalty_A / 2), gradient_A

    start = np.eye(len(logits))[-1]
    found = minimize(objective, start, jac=True, method="BFGS", options={"maxiter": _STEPS})
    return np.asarray(found.x) if found.fun <= objective(start)[0] else start
