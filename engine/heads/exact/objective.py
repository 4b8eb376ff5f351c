"""One pass over the rows: loss and gradient of many problems that share them.

# n rows, B rows of a block, L problems (strengths, folds, labels), K outputs of a problem, D feature dim

    f_l(W, b) = sum_i v_i loss(z_i W_l^T + b_l, y_i) + lambda_l / 2 |W_l|^2       v_i >= 0, sum_i v_i = 1

loss: cross-entropy of a softmax over K classes, or, where K is 1, of a sigmoid with a target of its own for each
problem. All problems go through one product a block: on one core 10 columns ran at 30 GFLOP/s and 450 at 100.

Where the rows are on a device the pass is made there: weights go there and sums come back, each in one transfer.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.exact.design import Design
from tle.heads.exact.device import cast, dtype_of, fetch, library, row_numbers, send, zeros
from tle.heads.exact.products import add_outer, times
from tle.kernels.softmax_xent import sigmoid_xent_, softmax_xent_


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the rows should give.

    Attributes:
        labels: (n,) int64 classes; or (n, L) float32 in {0, 1}, a column a problem, for sigmoids. An array or a tensor.
        weight_N: float64 (n,), v: none negative, sum 1.
        outputs: K: classes, or 1 for sigmoids.
        tensor_N: the weights beside labels that are a tensor; None for NumPy.
    """

    labels: Any
    weight_N: NDArray[np.float64]
    outputs: int
    tensor_N: Any = None

    @property
    def is_sigmoid(self) -> bool:
        """Whether each problem is a binary one with its own target."""
        return bool(self.labels.ndim == 2)

    @property
    def weights(self) -> Any:
        """`weight_N`, an array or a tensor like the labels."""
        return self.weight_N if self.tensor_N is None else self.tensor_N

    def beside(self, tensor: Any) -> "Targets":
        """The same where the rows are, if these are a tensor: to be sent there once, not in every pass."""
        if tensor is None or self.tensor_N is not None:
            return self
        weight_N, labels = send(tensor, self.weight_N, self.labels)
        return replace(self, labels=labels, tensor_N=weight_N)

    def shares(self) -> NDArray[np.float64]:
        """Weighted share of each class among the rows, (K,); of sigmoids each label's, (L,)."""
        if self.is_sigmoid:
            (share_L,) = fetch(self.weights @ cast(self.labels, np.float64))
            return np.asarray(share_L)
        (label_N,) = fetch(self.labels)
        return np.bincount(label_N, self.weight_N, minlength=self.outputs).astype(np.float64)

    def of(self, problems: NDArray[np.int64]) -> "Targets":
        """The targets of some problems."""
        if not self.is_sigmoid:
            return self
        (index,) = send(self.tensor_N, problems)
        return replace(self, labels=self.labels[:, index])

    def some(self, rows: NDArray[np.int64]) -> "Targets":
        """The targets of some rows, with their weights as they are."""
        (index,) = send(self.tensor_N, rows)
        tensor_N = None if self.tensor_N is None else self.tensor_N[index]
        return Targets(self.labels[index], self.weight_N[rows], self.outputs, tensor_N)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Loss without the penalty, and its gradient.

    Attributes:
        loss_L: float64.
        grad_LKD: gradient of the loss by the weights.
        grad_LK: by the intercepts.
    """

    loss_L: NDArray[np.float64]
    grad_LKD: NDArray[Any]
    grad_LK: NDArray[Any]


def evaluate(
    design: Design,
    targets: Targets,
    weight_LKD: NDArray[Any],
    bias_LK: NDArray[Any],
    unsure_N: NDArray[np.float64] | None = None,
) -> Evaluation:
    """One pass in the type of the design; residuals and sums keep small losses exact (see the kernel).

    Where `unsure_N` is given, it is filled with each row's share of the loss's slope: the largest weighted 1 - p of the
    truth over the problems.
    """
    problems, outputs, dim = weight_LKD.shape
    dtype, targets = design.dtype, targets.beside(design.tensor)
    weight_DM, bias_M = send(
        design.tensor,
        np.ascontiguousarray(weight_LKD.reshape(-1, dim).T, dtype),
        bias_LK.reshape(-1).astype(dtype),
    )
    grad_MD = zeros((problems * outputs, dim), dtype, weight_DM)
    grad_M = zeros(problems * outputs, np.float64, weight_DM)
    loss_L = zeros(problems, np.float64, weight_DM)
    slope_N: Any = None
    if unsure_N is not None:
        slope_N = unsure_N if design.tensor is None else zeros(len(design), dtype, weight_DM)
    xp = library(weight_DM)
    for positions, z_BD in design.blocks(problems * outputs):
        r_BM = times(z_BD, weight_DM)
        r_BM += bias_M
        loss_L += residuals_(r_BM, targets, positions, problems)
        add_outer(grad_MD, r_BM, z_BD)
        grad_M += r_BM.sum(axis=0, dtype=xp.float64)
        if slope_N is not None:
            if not targets.is_sigmoid:
                at = (row_numbers(r_BM), slice(None), targets.labels[positions])
                r_BM = r_BM.reshape(len(r_BM), problems, outputs)[at]
            slope_N[positions] = xp.amax(abs(r_BM), axis=1)
    loss_L, grad_M, grad_MD, *slopes = fetch(loss_L, grad_M, grad_MD, *([] if slope_N is None else [slope_N]))
    if unsure_N is not None and design.tensor is not None:
        unsure_N[...] = slopes[0]
    shape = (problems, outputs, dim)
    return Evaluation(loss_L, grad_MD.reshape(shape), grad_M.reshape(shape[:2]))


def residuals_(logits_BM: Any, targets: Targets, positions: slice, problems: int) -> Any:
    """Weighted loss of each problem, float64 (L,); the logits become weighted residuals, in their own type."""
    if dtype_of(logits_BM) != np.float32:
        return xent_double(logits_BM, targets, positions, problems)[0]
    label, v_B = targets.labels[positions], cast(targets.weights[positions], np.float32)
    if targets.is_sigmoid:
        return sigmoid_xent_(logits_BM, label, v_B)
    return softmax_xent_(logits_BM.reshape(len(logits_BM), problems, -1), label, v_B)


def xent_double(logits_BM: Any, targets: Targets, positions: slice, problems: int) -> tuple[Any, Any]:
    """Weighted loss and entropy of each problem in float64, (L,) each; the logits become weighted residuals.

    Logits are an array or a tensor, like the targets, and so is what is found.
    The entropy of p is loss - sum_k p_k d_k with d the logits relative to the true class's, so that it is exact where
    both are small.
    """
    v_B1 = targets.weights[positions, None]
    label, xp = targets.labels[positions], library(logits_BM)
    if targets.is_sigmoid:
        sign = 1.0 - 2.0 * label
        u = sign * logits_BM
        zero = xp.zeros_like(u[:1])
        loss, p = xp.logaddexp(zero, u), xp.exp(-xp.logaddexp(zero, -u))
        logits_BM[...] = v_B1 * sign * p
        return (v_B1 * loss).sum(axis=0), (v_B1 * (loss - p * u)).sum(axis=0)
    d_BLK = logits_BM.reshape(len(logits_BM), problems, -1)
    at = (row_numbers(d_BLK), slice(None), label)
    d_BLK -= d_BLK[at][:, :, None]
    m_BL1 = xp.amax(d_BLK, axis=2, keepdims=True)  # at least 0: that of the true class
    p_BLK = xp.exp(d_BLK - m_BL1)
    p_BLK[at] = 0.0
    others_BL1 = p_BLK.sum(axis=2, keepdims=True)
    total_BL1 = others_BL1 + xp.exp(-m_BL1)
    loss_BL = xp.where(m_BL1 == 0.0, xp.log1p(others_BL1), m_BL1 + xp.log(total_BL1))[:, :, 0]
    p_BLK /= total_BL1
    entropy_BL = loss_BL - (p_BLK * d_BLK).sum(axis=2)
    p_BLK[at] = -(others_BL1 / total_BL1)[:, :, 0]
    p_BLK *= v_B1[:, :, None]
    d_BLK[...] = p_BLK
    return (v_B1 * loss_BL).sum(axis=0), (v_B1 * entropy_BL).sum(axis=0)


def predict_rows(z_MD: Any, weight_KD: Any, bias_K: Any) -> Any:
    """Probabilities (M, K) of one problem on some rows, all arrays or all tensors; a sigmoid's for K = 1."""
    xp = library(z_MD)
    logits = times(z_MD, np.ascontiguousarray(weight_KD.T) if xp is np else weight_KD.T) + bias_K
    if logits.shape[1] == 1:
        return xp.exp(-xp.logaddexp(xp.zeros_like(logits[:1]), -logits))
    logits -= xp.amax(logits, axis=1, keepdims=True)
    xp.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits
