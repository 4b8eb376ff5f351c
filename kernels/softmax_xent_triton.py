"""Triton kernels of `tle.kernels.softmax_xent`, for CUDA; imported only where they are used.

# N rows, L problems, K classes, M = N L rows of logits, R of them a block, X classes of a block

Softmax is one program for R rows of logits. Where K fits one block, logits are read once and written once; else the
classes go by in blocks of X, twice: for m and s (rescaled whenever m grows), then for the residuals. Losses are written
for each row, float32 (N, L), and summed by torch in float64, so that the same input gives the same sum.

The interpreter (TRITON_INTERPRET=1 before triton is imported) runs the same kernels on CPU
tensors, slowly.
"""

# Triton has no type stubs, and what a kernel takes has no types of Python's.
# mypy: disable-error-code="import-untyped,import-not-found"
# mypy: allow-untyped-defs, allow-incomplete-defs, disallow-untyped-decorators=false

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

# 2,048 values of a program are 16 for each of 128 threads.
BLOCK_VALUES = 2048
MAX_BLOCK_CLASSES = 2048


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0 with all digits: log(u) x / (u - 1), where u = 1 + x as rounded."""
    u = 1.0 + x
    exact = u - 1.0
    return tl.where(
        (exact == 0.0) | (u == float("inf")), x, tl.log(u) * tl.div_rn(x, tl.where(exact == 0.0, 1.0, exact))
    )


@triton.jit
def _relative(logits, start_R, true_R, class_X, is_row_R, classes):
    """Logits relative to the true one, (R, X); -inf beyond the last row or class."""
    is_value_RX = is_row_R[:, None] & (class_X < classes)[None, :]
    z_RX = tl.load(logits + start_R[:, None] + class_X[None, :], mask=is_value_RX, other=-float("inf"))
    return z_RX - true_R[:, None]


@triton.jit
def _softmax(
    logits,
    labels,
    weight,
    losses,
    rows,
    problems,
    classes,
    weight_row,
    weight_problem,
    HAS_WEIGHT: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_row_R = row_R < rows
    start_R = row_R * classes
    label_R = tl.load(labels + row_R // problems, mask=is_row_R, other=0)
    is_label_R = is_row_R & (label_R >= 0) & (label_R < classes)
    true_R = tl.load(logits + start_R + label_R, mask=is_label_R, other=float("nan"))
    true_R = tl.where(is_row_R, true_R, 0.0)
    block_X = tl.arange(0, BLOCK_CLASSES)

    large_R = tl.zeros((BLOCK_ROWS,), tl.float32)  # m
    others_R = tl.zeros((BLOCK_ROWS,), tl.float32)  # s
    e_RX = tl.zeros((BLOCK_ROWS, BLOCK_CLASSES), tl.float32)
    bad_R = true_R != true_R
    for first in range(0, classes, BLOCK_CLASSES):
        class_X = first + block_X
        d_RX = _relative(logits, start_R, true_R, class_X, is_row_R, classes)
        bad_R = bad_R | (tl.max((d_RX != d_RX).to(tl.int32), axis=1) > 0)  # a maximum need not show a NaN
        grown_R = tl.maximum(large_R, tl.max(d_RX, axis=1))
        e_RX = tl.where(class_X[None, :] == label_R[:, None], 0.0, tl.exp(d_RX - grown_R[:, None]))
        others_R = others_R * tl.exp(large_R - grown_R) + tl.sum(e_RX, axis=1)
        large_R = grown_R
    bad_R = bad_R | (large_R == float("inf"))

    # Where m = 0 the loss may be tiny and needs log1p; elsewhere it is at least log 2.
    total_R = tl.where(large_R == 0.0, 1.0 + others_R, others_R + tl.exp(-large_R))
    loss_R = tl.where(large_R == 0.0, _log1p(others_R), large_R + tl.log(total_R))
    scale_R = tl.div_rn(1.0, total_R)
    if HAS_WEIGHT:
        weight_R = tl.load(
            weight + (row_R // problems) * weight_row + (row_R % problems) * weight_problem, mask=is_row_R, other=0.0
        )
        loss_R *= weight_R
        scale_R *= weight_R
    tl.store(losses + row_R, tl.where(bad_R, float("nan"), loss_R), mask=is_row_R)
    scale_R = tl.where(bad_R, float("nan"), scale_R)

    for first in range(0, classes, BLOCK_CLASSES):
        class_X = first + block_X
        if not ONE_BLOCK:
            d_RX = _relative(logits, start_R, true_R, class_X, is_row_R, classes)
            e_RX = tl.exp(d_RX - large_R[:, None])
        residual_RX = tl.where(class_X[None, :] == label_R[:, None], -others_R[:, None], e_RX) * scale_R[:, None]
        is_value_RX = is_row_R[:, None] & (class_X < classes)[None, :]
        tl.store(logits + start_R[:, None] + class_X[None, :], residual_RX, mask=is_value_RX)


@triton.jit
def _sigmoid(
    logits,
    targets,
    weight,
    losses,
    rows,
    problems,
    target_row,
    target_problem,
    weight_row,
    weight_problem,
    HAS_WEIGHT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_row_R = row_R < rows
    sample_R, problem_R = row_R // problems, row_R % problems
    target_R = tl.load(targets + sample_R * target_row + problem_R * target_problem, mask=is_row_R, other=0)
    sign_R = 1.0 - 2.0 * target_R.to(tl.float32)
    u_R = tl.load(logits + row_R, mask=is_row_R, other=0.0) * sign_R
    tail_R = tl.exp(-tl.abs(u_R))
    residual_R = sign_R * tl.div_rn(tl.where(u_R >= 0.0, 1.0, tail_R), 1.0 + tail_R)
    loss_R = tl.where(u_R >= 0.0, u_R, 0.0) + _log1p(tail_R)
    if HAS_WEIGHT:
        weight_R = tl.load(weight + sample_R * weight_row + problem_R * weight_problem, mask=is_row_R, other=0.0)
        loss_R *= weight_R
        residual_R *= weight_R
    tl.store(losses + row_R, loss_R, mask=is_row_R)
    tl.store(logits + row_R, residual_R, mask=is_row_R)


def softmax_xent_triton_(
    logits_NLK: torch.Tensor, labels_N: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Takes and returns what `tle.kernels.softmax_xent.softmax_xent_` does, for tensors on CUDA.

    Besides the result it allocates 12 bytes for each row and problem.

    Raises:
        ValueError: an argument is not as there, or the logits are not on CUDA and the interpreter is off.
    """
    _check(logits_NLK, weight, 3)
    n, problems, classes = logits_NLK.shape
    if labels_N.shape != (n,) or labels_N.dtype != torch.int64:
        raise ValueError(f"expected labels ({n},) int64, got {tuple(labels_N.shape)} {labels_N.dtype}")
    loss_NL = torch.zeros((n, problems), dtype=torch.float32, device=logits_NLK.device)
    if logits_NLK.numel():
        block_classes = min(triton.next_power_of_2(classes), MAX_BLOCK_CLASSES)
        block_rows = max(1, BLOCK_VALUES // block_classes)
        with _on(logits_NLK.device):
            _softmax[(triton.cdiv(n * problems, block_rows),)](
                logits_NLK,
                labels_N.contiguous(),
                loss_NL if weight is None else weight,
                loss_NL,
                n * problems,
                problems,
                classes,
                *_strides(weight),
                HAS_WEIGHT=weight is not None,
                ONE_BLOCK=classes <= block_classes,
                BLOCK_ROWS=block_rows,
                BLOCK_CLASSES=block_classes,
            )
    return loss_NL.sum(dim=0, dtype=torch.float64)


def sigmoid_xent_triton_(
    logits_NL: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Takes and returns what `tle.kernels.softmax_xent.sigmoid_xent_` does, for tensors on CUDA.

    Raises:
        ValueError: an argument is not as there, or the logits are not on CUDA and the interpreter is off.
    """
    _check(logits_NL, weight, 2)
    n, problems = logits_NL.shape
    if tuple(targets.shape) not in ((n,), (n, problems)):
        raise ValueError(f"expected targets ({n},) or ({n}, {problems}), got {tuple(targets.shape)}")
    targets = targets.to(torch.uint8) if targets.dtype == torch.bool else targets
    loss_NL = torch.zeros((n, problems), dtype=torch.float32, device=logits_NL.device)
    if logits_NL.numel():
        with _on(logits_NL.device):
            _sigmoid[(triton.cdiv(n * problems, BLOCK_VALUES),)](
                logits_NL,
                targets,
                loss_NL if weight is None else weight,
                loss_NL,
                n * problems,
                problems,
                *_strides(targets),
                *_strides(weight),
                HAS_WEIGHT=weight is not None,
                BLOCK_ROWS=BLOCK_VALUES,
            )
    return loss_NL.sum(dim=0, dtype=torch.float64)


def _strides(values: torch.Tensor | None) -> tuple[int, int]:
    """Steps from a row and from a problem to the next, of (N,) or (N, L) values."""
    if values is None:
        return 0, 0
    return values.stride(0), values.stride(1) if values.ndim == 2 else 0


def _on(device: torch.device) -> "torch.cuda.device | nullcontext[None]":
    """Triton launches on the current device, which need not be the one of the logits."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _check(logits: torch.Tensor, weight: torch.Tensor | None, ndim: int) -> None:
    if logits.device.type != "cuda" and isinstance(_softmax, triton.JITFunction):
        raise ValueError(f"expected logits on cuda, got {logits.device}: move them there, or call the dispatcher")
    if logits.ndim != ndim or logits.dtype != torch.float32 or not logits.is_contiguous():
        raise ValueError(
            f"expected logits float32 of {ndim} dimensions, contiguous, got {logits.dtype} {tuple(logits.shape)}"
        )
    n, problems = logits.shape[:2]
    if weight is not None and (weight.dtype != torch.float32 or tuple(weight.shape) not in ((n,), (n, problems))):
        raise ValueError(
            f"expected weight float32 ({n},) or ({n}, {problems}), got {weight.dtype} {tuple(weight.shape)}"
        )
