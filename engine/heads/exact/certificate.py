"""How far from the optimum a solution can be, at most: a duality gap, in float64.

# n rows, K outputs, D feature dim

    primal  f(W, b) = sum_i v_i loss_i + lambda / 2 |W|^2
    dual    g(P)    = sum_i v_i H(p_i) - 1 / (2 lambda) |A(P)|^2      A(P) = sum_i v_i (p_i - y_i) z_i^T

for any P whose rows are distributions and whose columns sum to those of the labels, sum_i v_i p_i = sum_i v_i y_i = N,
because the intercept is free. Every such g(P) is at most the least f. The probabilities of the solution nearly are such
a P; they are off by delta = sum_i v_i (p_i - y_i). Mixing them with one fixed distribution q,

    P' = (1 - e) P + e q        q = N - (1 - e) / e delta,   e = max_k delta_k / (N_k + delta_k)

makes the sums exact, and the entropy is concave, so H(p'_i) >= (1 - e) H(p_i) + e H(q). For a sigmoid q and p stand for
the pair (1 - p, p). Without an intercept P needs no mixing.

Source: Boyd & Vandenberghe 2004, "Convex Optimization", section 5.7 (duals of regularised logistic regression).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.exact.design import Design
from tle.heads.exact.device import cast, fetch, library, row_numbers, send, zeros
from tle.heads.exact.factors import factorise, solve
from tle.heads.exact.objective import Targets, residuals_, xent_double
from tle.heads.exact.preconditioner import MOST_COUPLED
from tle.heads.exact.products import times

_CENTRING_STEPS = 5
_STREAMED_STEPS = 3  # half a pass each
_SMALL_STEP = 1e-6
# Steps of intercepts after which their couplings are taken anew, and rows that these are taken from: at least, and for each
# class.
_LARGE_STEP = 0.05
_COUPLED_ROWS = 20_000
_COUPLED_ROWS_A_CLASS = 50
_FEW_CLASSES = 128
_SINGLE_ROUNDING = 1e-6
_KEPT_BLOCK = 2**18


# Logits that are kept between the two halves of a certificate, in elements: 512 MiB. Beyond, they are made again.
_KEPT_LOGITS = 2**26


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """What is proven of some solutions, all float64.

    Attributes:
        value_L: objectives.
        lower_L: lower bounds of the least objectives, at least 0.
        bias_LK: the intercepts of the solutions, centred: see `certify`.
    """

    value_L: NDArray[np.float64]
    lower_L: NDArray[np.float64]
    bias_LK: NDArray[np.float64]


def certify(
    design: Design,
    targets: Targets,
    weight_LKD: NDArray[np.float64],
    bias_LK: NDArray[np.float64],
    lambda_L: NDArray[np.float64],
    *,
    intercept: bool,
) -> Certificate:
    """Objectives and lower bounds of their optima.

    Free intercepts are first moved to where the probabilities sum to the labels, by Newton's method with the weights as
    they are: it lowers the objective, and a mixture has a price that is divided by lambda.

    Args:
        design: the rows; the problem is the one on its rounded values.
        targets: labels and weights.
        weight_LKD: weights.
        bias_LK: intercepts.
        lambda_L: strengths.
        intercept: whether intercepts are free.

    Returns:
        The certificate, from one pass in float64, or up to two and a half where logits cannot be kept.
    """
    problems, outputs, dim = weight_LKD.shape
    targets = targets.beside(design.tensor)
    logits = _Logits(design, np.ascontiguousarray(weight_LKD.reshape(-1, dim).T))
    if intercept:
        bias_LK = _centre(logits, targets, bias_LK)
    one = problems if targets.is_sigmoid else 1  # classes are the same for all problems
    shapes = (problems, problems, (problems * outputs, dim), problems * outputs, dim, (one * outputs, dim))
    loss_L, entropy_L, grad_MD, delta_M, mean_D, sums_MD = (zeros(s, np.float64, logits.weight_DM) for s in shapes)
    for positions, r_BM, z_BD in logits.blocks(bias_LK):
        loss, entropy = xent_double(r_BM, targets, positions, problems)
        loss_L += loss
        entropy_L += entropy
        grad_MD += r_BM.T @ z_BD
        delta_M += r_BM.sum(axis=0)
        if intercept:
            v_B = targets.weights[positions]
            mean_D += v_B @ z_BD
            sums_MD += _label_sums(z_BD, v_B, targets.labels[positions], outputs)
    loss_L, entropy_L, grad_MD, delta_M, mean_D, sums_MD = fetch(loss_L, entropy_L, grad_MD, delta_M, mean_D, sums_MD)
    shape = (problems, outputs, dim)
    gradient, delta_LK = grad_MD.reshape(shape), delta_M.reshape(shape[:2])
    sums = np.broadcast_to(sums_MD.reshape(one, outputs, dim), shape)
    value_L = loss_L + lambda_L / 2 * np.square(weight_LKD).sum(axis=(1, 2))
    lower_L, shares_K = np.empty(problems), targets.shares()
    for index in range(problems):
        a_KD, entropy = gradient[index], entropy_L[index]
        if intercept:
            mixing, q_K = _mixture(delta_LK[index], shares_K[index : index + 1] if targets.is_sigmoid else shares_K)
            a_KD = (1 - mixing) * a_KD + mixing * (q_K[:, None] * mean_D - sums[index])
            entropy *= 1 - mixing
        lower_L[index] = max(0.0, entropy - np.square(a_KD).sum() / (2 * lambda_L[index]))
    return Certificate(value_L, lower_L, bias_LK)


class _Logits:
    """x W^T for all rows in float64, kept if they are few enough; arrays, or tensors where the rows are such."""

    def __init__(self, design: Design, weight_DM: NDArray[np.float64]) -> None:
        self.design = design
        (self.weight_DM,) = send(design.tensor, weight_DM)
        self.kept_NM: Any = None
        if len(design) * weight_DM.shape[1] <= _KEPT_LOGITS:
            self.kept_NM = zeros((len(design), weight_DM.shape[1]), np.float64, self.weight_DM)
            # The copy in float64 has no name, which would keep it while the next one is made: 8 % of a certificate.
            for positions, z_BD in design.blocks(sum(weight_DM.shape)):
                times(cast(z_BD, np.float64), self.weight_DM, out=self.kept_NM[positions])

    def values(self, bias_LK: NDArray[np.float64]) -> Iterator[tuple[slice, Any]]:
        """Logits, a block at a time, to be overwritten; in float64 where they are kept, else in the type of the rows."""
        (bias_M,) = send(self.design.tensor, bias_LK.reshape(-1))
        if self.kept_NM is None:  # in the type of the rows: what is off by its rounding is paid for by the mixture
            weight_DM = cast(self.weight_DM, self.design.dtype)
            for positions, z_BD in self.design.blocks(sum(weight_DM.shape)):
                yield positions, times(z_BD, weight_DM) + cast(bias_M, self.design.dtype)
            return
        columns = len(bias_M)
        step = max(16, _KEPT_BLOCK // columns) if self.design.tensor is None else self.design.device_step(columns)
        for start in range(0, len(self.kept_NM), step):
            positions = slice(start, min(start + step, len(self.kept_NM)))
            yield positions, self.kept_NM[positions] + bias_M

    def blocks(self, bias_LK: NDArray[np.float64]) -> Iterator[tuple[slice, Any, Any]]:
        """Logits, to be overwritten, with their rows in float64."""
        (bias_M,) = send(self.design.tensor, bias_LK.reshape(-1))
        for positions, z_BD in self.design.blocks(sum(self.weight_DM.shape)):
            z_BD = cast(z_BD, np.float64)
            r_BM = times(z_BD, self.weight_DM) if self.kept_NM is None else self.kept_NM[positions]
            yield positions, r_BM + bias_M, z_BD


class _Coupling:
    """How the intercepts' gradients of one problem move with its intercepts: sum_i v_i (diag(p_i) - p_i p_i^T).

    Where there are many rows what classes have with one another is taken from some of them, and scaled so that what each has
    with itself is exact. Where there are many classes the latter is all. Steps can go too far then; `_centre` takes them back.
    """

    def __init__(self, outputs: int, rows: int, like: Any) -> None:
        self.own_K = zeros(outputs, np.float64, like)
        self.all_KK = zeros((outputs, outputs), np.float64, like) if 1 < outputs <= MOST_COUPLED else None
        self._stride = max(1, rows // max(_COUPLED_ROWS, _COUPLED_ROWS_A_CLASS * outputs))

    def add(self, p_BK: Any, v_B: Any) -> None:
        """Take some rows into account."""
        p_BK = p_BK.clip(0.0, 1.0)  # of float32 they can be a rounding beyond
        self.own_K += v_B @ (p_BK * (1 - p_BK))
        if self.all_KK is not None:
            p_BK, v_B = p_BK[:: self._stride], v_B[:: self._stride]
            self.all_KK += library(p_BK).diag(v_B @ p_BK) - (p_BK * v_B[:, None]).T @ p_BK

    def solve(self, delta_K: NDArray[np.float64]) -> NDArray[np.float64]:
        """The intercepts' steps."""
        own_K, *rest = fetch(self.own_K, *([] if self.all_KK is None else [self.all_KK]))
        if not rest:
            with np.errstate(over="ignore"):  # steps are clipped
                return np.asarray(np.divide(delta_K, own_K, out=np.zeros_like(delta_K), where=own_K > 0))
        (all_KK,) = rest
        if self._stride > 1:
            sampled_K = np.diag(all_KK)
            scale_K = np.sqrt(np.divide(own_K, sampled_K, out=np.ones_like(own_K), where=sampled_K > 0))
            all_KK = all_KK * scale_K * scale_K[:, None]
        # All intercepts together are not seen by a softmax: made stiff, they stay. Rounding, and rows that stand for others,
        # would leave them next to no curvature instead of none.
        all_KK = all_KK + own_K.mean() / len(own_K)
        if len(own_K) <= _FEW_CLASSES:
            step_K = np.linalg.lstsq(all_KK, delta_K, rcond=1e-12)[0]
        else:
            step_K = solve(factorise(all_KK, 0.0), delta_K[:, None])[:, 0]
        return np.asarray(step_K - step_K.mean())


def _centre(logits: _Logits, targets: Targets, bias_LK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intercepts for which the probabilities sum to the labels, as nearly as a few steps get there."""
    problems, outputs = bias_LK.shape
    moved, couplings = np.inf, []
    best_L, best_LK = np.full(problems, np.inf), bias_LK
    for _ in range(_CENTRING_STEPS if logits.kept_NM is not None else _STREAMED_STEPS):
        delta_LK, loss_L = (zeros(s, np.float64, logits.weight_DM) for s in ((problems, outputs), problems))
        fresh = moved > _LARGE_STEP
        if fresh:
            couplings = [_Coupling(outputs, len(logits.design), logits.weight_DM) for _ in range(problems)]
        for positions, r_BM in logits.values(bias_LK):
            loss_L += residuals_(r_BM, targets, positions, problems)
            if fresh:
                p_BLK = _probabilities(r_BM, targets, positions, problems)
                for index, coupling in enumerate(couplings):
                    coupling.add(p_BLK[:, index], targets.weights[positions])
            delta_LK += r_BM.sum(axis=0, dtype=delta_LK.dtype).reshape(problems, outputs)
        found_LK, found_L = fetch(delta_LK, loss_L)
        better = found_L <= best_L * (1 + _SINGLE_ROUNDING)
        if not better.all():  # a step that went too far is taken back, and no other made
            return np.where(better[:, None], bias_LK, best_LK)
        best_L, best_LK = found_L, bias_LK
        step_LK = np.stack([coupling.solve(own) for coupling, own in zip(couplings, found_LK, strict=True)])
        bias_LK = bias_LK - step_LK.clip(-1.0, 1.0)
        moved = float(np.abs(step_LK).max())
        if moved < _SMALL_STEP:  # what is left is of the order of its square
            break
    return bias_LK


def _probabilities(r_BM: Any, targets: Targets, positions: slice, problems: int) -> Any:
    """Probabilities float64 (B, L, K) from weighted residuals."""
    label, v_B = targets.labels[positions], targets.weights[positions]
    safe_B = library(v_B).where(v_B > 0, v_B, 1.0)
    p_BLK = r_BM.reshape(len(r_BM), problems, -1) / safe_B[:, None, None]
    if targets.is_sigmoid:
        return p_BLK + label[:, :, None]
    p_BLK[row_numbers(p_BLK), :, label] += 1.0
    return p_BLK


def _mixture(delta_K: NDArray[np.float64], counts_K: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """E and q of the header."""
    if len(delta_K) == 1:  # a sigmoid: the other output has what is left
        delta_K, counts_K = np.array([-delta_K[0], delta_K[0]]), np.array([1 - counts_K[0], counts_K[0]])
        mixing, q_2 = _mixture(delta_K, counts_K)
        return mixing, q_2[1:]
    delta_K = delta_K - delta_K.mean()  # sums to 0 but for rounding
    total_K = counts_K + delta_K
    share_K = np.divide(delta_K, total_K, out=np.zeros_like(delta_K), where=total_K > 0)
    mixing = float(np.clip(share_K.max(initial=0.0), 0.0, 1.0))
    if mixing == 0.0:
        return 0.0, counts_K
    return mixing, np.maximum(counts_K - (1 - mixing) / mixing * delta_K, 0.0)


def _label_sums(z_BD: Any, v_B: Any, labels: Any, outputs: int) -> Any:
    """Sum v y z^T: (K, D), or (L, D) of sigmoids."""
    if labels.ndim == 2:
        return (labels * v_B[:, None]).T @ z_BD
    if not isinstance(z_BD, np.ndarray):
        return zeros((outputs, z_BD.shape[1]), np.float64, z_BD).index_add_(0, labels, v_B[:, None] * z_BD)
    from scipy.sparse import csr_array

    starts_B = np.arange(len(labels) + 1)
    return csr_array((v_B, labels, starts_B), shape=(len(labels), outputs)).T @ z_BD
