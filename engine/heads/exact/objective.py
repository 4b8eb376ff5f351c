"""One pass over the rows: loss and gradient of many problems that share them.

# n rows, B rows of a block, L problems (strengths, folds, labels), K outputs of a problem, D feature dim

    f_l(W, b) = sum_i v_i loss(z_i W_l^T + b_l, y_i) + lambda_l / 2 |W_l|^2       v_i >= 0, sum_i v_i = 1

loss: cross-entropy of a softmax over K classes, or, where K is 1, of a sigmoid with a target of its own for each
problem. All problems go through one product a block: on one core 10 columns ran at 30 GFLOP/s and 450 at 100.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.exact.design import Design
from tle.heads.exact.products import add_outer, times
from tle.kernels.softmax_xent import sigmoid_xent_, softmax_xent_

# Logits that are held at a time on a device, in elements: 256 MiB.
_DEVICE_LOGITS = 2**26


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the rows should give.

    Attributes:
        labels: (n,) int64 classes; or (n, L) float32 in {0, 1}, a column a problem, for sigmoids.
        weight_N: float64 (n,), v: none negative, sum 1.
        outputs: K: classes, or 1 for sigmoids.
    """

    labels: NDArray[Any]
    weight_N: NDArray[np.float64]
    outputs: int

    @property
    def is_sigmoid(self) -> bool:
        """Whether each problem is a binary one with its own target."""
        return self.labels.ndim == 2

    def shares(self) -> NDArray[np.float64]:
        """Weighted share of each class among the rows, (K,); of sigmoids each label's, (L,)."""
        if self.is_sigmoid:
            return np.asarray(self.weight_N @ self.labels, np.float64)
        return np.bincount(self.labels, self.weight_N, minlength=self.outputs).astype(np.float64)

    def of(self, problems: NDArray[np.int64]) -> "Targets":
        """The targets of some problems."""
        return Targets(self.labels[:, problems], self.weight_N, 1) if self.is_sigmoid else self


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
    dtype = design.dtype
    if design.tensor is not None and dtype == np.float32:
        return _evaluate_on_device(design, targets, weight_LKD, bias_LK, unsure_N)
    weight_DM = np.ascontiguousarray(weight_LKD.reshape(-1, dim).T, dtype)
    bias_M = bias_LK.reshape(-1).astype(dtype)
    grad_MD = np.zeros((problems * outputs, dim), dtype)
    grad_M = np.zeros(problems * outputs)
    loss_L = np.zeros(problems)
    weight_N = targets.weight_N.astype(dtype)
    for positions, z_BD in design.blocks():
        r_BM = times(z_BD, weight_DM)
        r_BM += bias_M
        if dtype == np.float32:
            if targets.is_sigmoid:
                loss_L += sigmoid_xent_(r_BM, targets.labels[positions], weight_N[positions])
            else:
                r_BLK = r_BM.reshape(len(r_BM), problems, outputs)
                loss_L += softmax_xent_(r_BLK, targets.labels[positions], weight_N[positions])
        else:
            loss_L += xent_double(r_BM, targets, positions, problems)[0]
        add_outer(grad_MD, r_BM, z_BD)
        grad_M += r_BM.sum(axis=0, dtype=np.float64)
        if unsure_N is not None:
            if targets.is_sigmoid:
                unsure_N[positions] = np.abs(r_BM).max(axis=1)
            else:
                at = (np.arange(len(r_BM)), slice(None), targets.labels[positions])
                unsure_N[positions] = np.abs(r_BM.reshape(len(r_BM), problems, outputs)[at]).max(axis=1)
    shape = (problems, outputs, dim)
    return Evaluation(loss_L, grad_MD.reshape(shape), grad_M.reshape(shape[:2]))


def _evaluate_on_device(
    design: Design,
    targets: Targets,
    weight_LKD: NDArray[Any],
    bias_LK: NDArray[Any],
    unsure_N: NDArray[np.float64] | None,
) -> Evaluation:
    """The same pass by torch, where the rows are; only weights go there and gradients come back."""
    import torch

    problems, outputs, dim = weight_LKD.shape
    device = design.tensor.device
    weight_MD = torch.from_numpy(np.ascontiguousarray(weight_LKD.reshape(-1, dim), np.float32)).to(device)
    bias_M = torch.from_numpy(bias_LK.reshape(-1).astype(np.float32)).to(device)
    grad_MD, grad_M = torch.zeros_like(weight_MD), torch.zeros(len(bias_M), dtype=torch.float64, device=device)
    loss_L = torch.zeros(problems, dtype=torch.float64, device=device)
    step = max(1, _DEVICE_LOGITS // (problems * outputs))
    for start in range(0, len(design), step):
        rows = slice(start, min(start + step, len(design)))
        z_BD = design.tensor[rows]
        r_BM = torch.addmm(bias_M, z_BD, weight_MD.T)
        weight_B = torch.from_numpy(targets.weight_N[rows].astype(np.float32)).to(device)
        label = torch.from_numpy(np.ascontiguousarray(targets.labels[rows])).to(device)
        if targets.is_sigmoid:
            loss_L += sigmoid_xent_(r_BM, label, weight_B)
            slope_B = r_BM.abs().amax(dim=1)
        else:
            r_BLK = r_BM.view(len(r_BM), problems, outputs)
            loss_L += softmax_xent_(r_BLK, label, weight_B)
            index = label[:, None, None].expand(-1, problems, 1)
            slope_B = r_BLK.gather(2, index)[:, :, 0].abs().amax(dim=1)
        if unsure_N is not None:
            unsure_N[rows] = slope_B.double().cpu().numpy()
        grad_MD.addmm_(r_BM.T, z_BD)
        grad_M += r_BM.sum(dim=0, dtype=torch.float64)
    shape = (problems, outputs, dim)
    return Evaluation(
        loss_L.cpu().numpy(), grad_MD.cpu().numpy().reshape(shape), grad_M.cpu().numpy().reshape(shape[:2])
    )


def xent_double(
    logits_BM: NDArray[np.float64], targets: Targets, positions: slice, problems: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted loss and entropy of each problem in float64, (L,) each; the logits become weighted residuals.

    The entropy of p is loss - sum_k p_k d_k with d the logits relative to the true class's, so that it is exact where
    both are small.
    """
    v_B1 = targets.weight_N[positions, None]
    label = targets.labels[positions]
    if targets.is_sigmoid:
        sign = 1.0 - 2.0 * label
        u = sign * logits_BM
        loss, p = np.logaddexp(0.0, u), np.exp(-np.logaddexp(0.0, -u))
        logits_BM[...] = v_B1 * sign * p
        return (v_B1 * loss).sum(axis=0), (v_B1 * (loss - p * u)).sum(axis=0)
    d_BLK = logits_BM.reshape(len(logits_BM), problems, -1)
    at = (np.arange(len(d_BLK)), slice(None), label)
    d_BLK -= d_BLK[at][:, :, None]
    m_BL1 = np.maximum(d_BLK.max(axis=2, keepdims=True), 0.0)
    p_BLK = np.exp(d_BLK - m_BL1)
    p_BLK[at] = 0.0
    others_BL1 = p_BLK.sum(axis=2, keepdims=True)
    total_BL1 = others_BL1 + np.exp(-m_BL1)
    loss_BL = np.where(m_BL1 == 0.0, np.log1p(others_BL1), m_BL1 + np.log(total_BL1))[:, :, 0]
    p_BLK /= total_BL1
    entropy_BL = loss_BL - (p_BLK * d_BLK).sum(axis=2)
    p_BLK[at] = -(others_BL1 / total_BL1)[:, :, 0]
    p_BLK *= v_B1[:, :, None]
    d_BLK[...] = p_BLK
    return (v_B1 * loss_BL).sum(axis=0), (v_B1 * entropy_BL).sum(axis=0)


def predict_rows(z_MD: NDArray[Any], weight_KD: NDArray[Any], bias_K: NDArray[Any]) -> NDArray[Any]:
    """Probabilities (M, K) of one problem on some rows; a sigmoid's for K = 1."""
    logits = times(z_MD, np.ascontiguousarray(weight_KD.T)) + bias_K
    if logits.shape[1] == 1:
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return np.asarray(logits)
