"""Cross-entropy and its residual of many problems at once, in place: softmax for classes, sigmoid for labels.

# N rows, L problems that share them (strengths, folds, grid members), K classes, B rows of a block, M = B L

Softmax, with d_k = z_k - z_y the logits relative to the one of the true class y, and m = max(0, max_k d_k):

    s      = sum_{k != y} exp(d_k - m)           the others; r = s + exp(-m) - 1, which is s where m = 0
    loss   = m + log(1 + r)                      = -log softmax(z)_y
    p_k    = exp(d_k - m) / (1 + r)              k != y
    z_k   <- w p_k,   z_y <- -w s / (1 + r)      = w (softmax(z) - onehot(y))

Sigmoid, with t = 0 or 1, a = 1 - 2 t and u = a z:

    loss = log(1 + exp(u)),   z <- w a exp(u) / (1 + exp(u))      = w (sigmoid(z) - t)

Nothing here is a difference of nearly equal numbers: p_y - 1 would be 0 once the others are below 6e-8, and a loss
log(sum) likewise, while near-separable problems live on residuals and losses of 1e-10. What is left is the rounding
of the logits themselves, a relative error of 6e-8 |d_k| in exp(d_k).

On the CPU m is taken to be 0 unless some d_k of a block is above `_LARGE`: one maximum of the whole block replaces one
for each row. A block that needs those takes 1.3 (1,000 classes) to 2.7 times as long (10 classes).

Least I/O: 4 N L K bytes read, and as many written.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# exp(70) = 2.5e30: even the sum over a million classes is a float32.
_LARGE = 70.0
# Values of a block. One core of an EPYC (1 MiB of L2), 10 to 1,000 classes: 2**16 took 1.05 to 1.25 times as long, 2**17
# 1.0 to 1.2, 2**14 1.5 to 2; larger ones gained nothing clear. Two threads over blocks took 0.8 to 2.1 times as long as
# one (the interpreter's lock changes hands at every operation), so there is one.
BLOCK_VALUES = 2**18
# Classes from which broadcasting a column is as fast as repeating it, and needs no temporary.
_BROADCAST_FROM = 64


def xent_bytes(values: int) -> int:
    """Least bytes that `values` logits move: read once, written once."""
    return 8 * values


def softmax_xent_ref(
    logits_NLK: NDArray[Any], labels_N: NDArray[np.int64], weight: NDArray[Any] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The definition, in float64, out of place.

    Args:
        logits_NLK: (N, L, K).
        labels_N: (N,) from 0 to K - 1.
        weight: (N,) or (N, L); None for 1.

    Returns:
        Residuals (N, L, K) and losses (L,), summed over rows.
    """
    n, problems, classes = logits_NLK.shape
    weight_NL = _full_weight(weight, n, problems)
    residual_NLK, loss_NL = np.zeros((n, problems, classes)), np.zeros((n, problems))
    for row in range(n):
        others = np.arange(classes) != labels_N[row]
        d_LK = logits_NLK[row].astype(np.float64) - logits_NLK[row, :, labels_N[row], None].astype(np.float64)
        m_L = d_LK.max(axis=1)  # at least 0: that of the true class
        e_LK = np.exp(d_LK - m_L[:, None])
        s_L = e_LK[:, others].sum(axis=1)
        loss_NL[row] = np.where(m_L == 0, np.log1p(s_L), m_L + np.log(s_L + np.exp(-m_L)))
        residual_NLK[row] = e_LK / e_LK.sum(axis=1, keepdims=True)
        residual_NLK[row, :, labels_N[row]] = -s_L / e_LK.sum(axis=1)
    return residual_NLK * weight_NL[:, :, None], (loss_NL * weight_NL).sum(axis=0)


def sigmoid_xent_ref(
    logits_NL: NDArray[Any], targets: NDArray[Any], weight: NDArray[Any] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The definition, in float64, out of place.

    Args:
        logits_NL: (N, L).
        targets: (N,) or (N, L), 0 or 1.
        weight: (N,) or (N, L); None for 1.

    Returns:
        Residuals (N, L) and losses (L,), summed over rows.
    """
    weight_NL = _full_weight(weight, *logits_NL.shape)
    sign_NL = 1.0 - 2.0 * _full_weight(targets, *logits_NL.shape)
    u_NL = sign_NL * logits_NL.astype(np.float64)
    tail_NL = np.exp(-np.abs(u_NL))
    probability_NL = np.where(u_NL >= 0, 1.0, tail_NL) / (1.0 + tail_NL)
    loss_NL = np.maximum(u_NL, 0.0) + np.log1p(tail_NL)
    return weight_NL * sign_NL * probability_NL, (weight_NL * loss_NL).sum(axis=0)


@overload
def softmax_xent_(
    logits_NLK: NDArray[np.float32], labels_N: NDArray[np.int64], weight: NDArray[np.float32] | None = None
) -> NDArray[np.float64]: ...
@overload
def softmax_xent_(
    logits_NLK: "torch.Tensor", labels_N: "torch.Tensor", weight: "torch.Tensor | None" = None
) -> "torch.Tensor": ...
def softmax_xent_(logits_NLK: Any, labels_N: Any, weight: Any = None) -> Any:
    """Overwrite logits with weight (softmax - onehot), and give the weighted loss of each problem.

    Args:
        logits_NLK: float32 (N, L, K), C-contiguous; a NumPy array, or a torch tensor on the CPU or CUDA.
        labels_N: int64 (N,), from 0 to K - 1. On CUDA a label out of range is not looked for: it makes its row NaN.
        weight: float32 (N,) for all problems, or (N, L); None for 1. A row of weight 0 must have finite logits too.

    Returns:
        float64 (L,): sums over rows of weight times loss, an array or a tensor like the logits. Logits that are NaN or
        +inf make the loss of their own problem NaN, and no other; -inf is a class that cannot be, unless it is the true
        one.

    Raises:
        ValueError: a shape, type, layout or device is another, or a label is out of range.
    """
    if not isinstance(logits_NLK, np.ndarray):
        return _on_tensors("softmax_xent", logits_NLK, labels_N, weight)
    if logits_NLK.ndim != 3:
        raise ValueError(f"expected logits (N, L, K), got {logits_NLK.shape}")
    n, problems, classes = logits_NLK.shape
    _check(logits_NLK, weight)
    if labels_N.shape != (n,) or labels_N.dtype != np.int64:
        raise ValueError(f"expected labels ({n},) int64, got {labels_N.shape} {labels_N.dtype}")
    if n and not (labels_N.min() >= 0 and labels_N.max() < classes):
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {labels_N.min()} to {labels_N.max()}")
    ones_K = np.ones(classes, np.float32)

    def work(rows: slice) -> NDArray[np.float64]:
        z_MK = logits_NLK[rows].reshape(-1, classes)
        label_M = np.repeat(labels_N[rows], problems) if problems > 1 else labels_N[rows]
        return _softmax_block(z_MK, label_M, _block_weight(weight, rows, problems), ones_K, problems)

    return _run_blocks(work, n, problems, classes)


def _softmax_block(
    z_MK: NDArray[np.float32],
    label_M: NDArray[np.int64],
    weight_M: NDArray[np.float32] | None,
    ones_K: NDArray[np.float32],
    problems: int,
) -> NDArray[np.float64]:
    """Losses (L,) of one block, whose logits become residuals.

    For 10 classes `np.repeat` and a plain subtraction take 0.6 of the time of broadcasting, and the product with ones an
    eighth of that of `sum(axis=1)`.
    """
    classes = z_MK.shape[1]
    z = z_MK.reshape(-1)  # a view: blocks are contiguous
    true_M = np.arange(len(z_MK)) * classes + label_M
    _each_row(np.subtract, z_MK, z[true_M])
    large_M: NDArray[np.float32] | None = None
    if not z.max(initial=0.0) <= _LARGE:  # NaN too
        large_M = z_MK.max(axis=1)  # at least 0: that of the true class
        _each_row(np.subtract, z_MK, large_M)
    np.exp(z, out=z)
    z[true_M] = 0.0
    others_M = z_MK @ ones_K
    if large_M is None:
        loss_M, total_M = np.log1p(others_M), 1.0 + others_M
    else:
        total_M = others_M + np.exp(-large_M)
        # Where m = 0 the loss may be tiny and needs log1p; elsewhere it is at least log 2.
        loss_M = np.where(large_M == 0.0, np.log1p(others_M), large_M + np.log(total_M))
        total_M = np.where(large_M == 0.0, 1.0 + others_M, total_M)
    scale_M = np.reciprocal(total_M, out=total_M)
    if weight_M is not None:
        scale_M *= weight_M
        loss_M = loss_M * weight_M
    _each_row(np.multiply, z_MK, scale_M)
    z[true_M] = -(others_M * scale_M)
    return np.asarray(loss_M.reshape(-1, problems).sum(axis=0, dtype=np.float64))


@overload
def sigmoid_xent_(
    logits_NL: NDArray[np.float32],
    targets: NDArray[Any],
    weight: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]: ...
@overload
def sigmoid_xent_(
    logits_NL: "torch.Tensor", targets: "torch.Tensor", weight: "torch.Tensor | None" = None
) -> "torch.Tensor": ...
def sigmoid_xent_(logits_NL: Any, targets: Any, weight: Any = None) -> Any:
    """Overwrite logits with weight (sigmoid - target), and give the weighted loss of each problem.

    Args:
        logits_NL: float32 (N, L), C-contiguous; a NumPy array, or a torch tensor on the CPU or CUDA.
        targets: (N,) for all problems, or (N, L); 0 or 1, of bool, an integer type or float32. On CUDA other values are
            not looked for.
        weight: float32 (N,) or (N, L); None for 1.

    Returns:
        float64 (L,): sums over rows of weight times loss, an array or a tensor like the logits. NaN logits
        make the loss of their own problem NaN; infinite ones are limits.

    Raises:
        ValueError: a shape, type, layout or device is another, or a target is neither 0 nor 1.
    """
    if not isinstance(logits_NL, np.ndarray):
        return _on_tensors("sigmoid_xent", logits_NL, targets, weight)
    if logits_NL.ndim != 2:
        raise ValueError(f"expected logits (N, L), got {logits_NL.shape}")
    n, problems = logits_NL.shape
    _check(logits_NL, weight)
    if targets.shape not in ((n,), (n, problems)):
        raise ValueError(f"expected targets ({n},) or ({n}, {problems}), got {targets.shape}")
    if targets.dtype != np.bool_ and not ((targets == 0) | (targets == 1)).all():
        raise ValueError("expected targets of 0 and 1, got others: soft targets are not taken")

    def work(rows: slice) -> NDArray[np.float64]:
        target_M = np.asarray(_block_weight(targets, rows, problems), np.float32)
        z_M = logits_NL[rows].reshape(-1)
        return _sigmoid_block(z_M, target_M, _block_weight(weight, rows, problems), problems)

    return _run_blocks(work, n, problems, 1)


def _sigmoid_block(
    z_M: NDArray[np.float32],
    target_M: NDArray[np.float32],
    weight_M: NDArray[np.float32] | None,
    problems: int,
) -> NDArray[np.float64]:
    """Losses (L,) of one block, whose logits become residuals."""
    sign_M = np.float32(1) - np.float32(2) * target_M
    z_M *= sign_M
    beyond_M: NDArray[np.float32] | None = None
    if not z_M.max(initial=0.0) <= _LARGE:
        beyond_M = np.maximum(z_M - np.float32(_LARGE), np.float32(0))  # log(1 + exp(u)) = u to 30 digits out there
        np.minimum(z_M, np.float32(_LARGE), out=z_M)
    np.exp(z_M, out=z_M)
    loss_M = np.log1p(z_M)
    if beyond_M is not None:
        loss_M += beyond_M
    z_M /= np.float32(1) + z_M
    z_M *= sign_M
    if weight_M is not None:
        z_M *= weight_M
        loss_M *= weight_M
    return np.asarray(loss_M.reshape(-1, problems).sum(axis=0, dtype=np.float64))


def _each_row(operation: np.ufunc, z_MK: NDArray[np.float32], value_M: NDArray[np.float32]) -> None:
    """Apply an operation in place, with one value for each row."""
    if z_MK.shape[1] < _BROADCAST_FROM:
        operation(z := z_MK.reshape(-1), np.repeat(value_M, z_MK.shape[1]), out=z)
    else:
        operation(z_MK, value_M[:, None], out=z_MK)


def _check(logits: NDArray[Any], weight: NDArray[Any] | None) -> None:
    if logits.dtype != np.float32 or not logits.flags.c_contiguous:
        raise ValueError(f"expected logits float32, C-contiguous, got {logits.dtype} with strides {logits.strides}")
    n, problems = logits.shape[:2]
    if weight is not None and (weight.dtype != np.float32 or weight.shape not in ((n,), (n, problems))):
        raise ValueError(f"expected weight float32 ({n},) or ({n}, {problems}), got {weight.dtype} {weight.shape}")


def _block_weight(values: NDArray[Any] | None, rows: slice, problems: int) -> NDArray[Any] | None:
    """Values of the rows of a block, one for each row and problem: (B L,)."""
    if values is None:
        return None
    return np.repeat(values[rows], problems) if values.ndim == 1 else values[rows].reshape(-1)


def _full_weight(values: NDArray[Any] | None, n: int, problems: int) -> NDArray[np.float64]:
    if values is None:
        return np.ones((n, problems))
    return np.broadcast_to(values if values.ndim == 2 else values[:, None], (n, problems)).astype(np.float64)


def _run_blocks(
    work: Callable[[slice], NDArray[np.float64]], n: int, problems: int, classes: int
) -> NDArray[np.float64]:
    """The sum of `work` over blocks of rows."""
    total_L = np.zeros(problems)
    if not n * problems * classes:
        return total_L
    step = max(1, BLOCK_VALUES // (problems * classes))
    with np.errstate(all="ignore"):  # what is not finite comes back as such
        for start in range(0, n, step):
            total_L += work(slice(start, start + step))
    return total_L


def _on_tensors(name: str, logits: "torch.Tensor", truth: "torch.Tensor", weight: "torch.Tensor | None") -> Any:
    """The same for torch tensors: on the CPU through views as arrays, on CUDA by Triton."""
    import torch

    if {truth.device, logits.device if weight is None else weight.device} != {logits.device}:
        raise ValueError(f"expected labels and weight on {logits.device}, where the logits are, got {truth.device}")
    if logits.device.type == "cuda":
        from tle.kernels import softmax_xent_triton as kernels

        implementation: Callable[..., torch.Tensor] = getattr(kernels, f"{name}_triton_")
        return implementation(logits, truth, weight)
    if logits.device.type != "cpu":
        raise ValueError(f"expected logits on cuda or cpu, got {logits.device}: move them there")
    arrays = (logits.numpy(), truth.numpy(), None if weight is None else weight.numpy())
    function: Any = softmax_xent_ if name == "softmax_xent" else sigmoid_xent_
    return torch.from_numpy(function(*arrays))
