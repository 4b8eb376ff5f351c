"""Losses a picture, so that a step's gradient is the mean over its pictures however they are cut into batches.

# B batch, C classes, K outputs
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tle.enums import Target

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (B, K), targets -> (B,)


def make_loss(target: Target, *, label_smoothing: float = 0.0, weights_C: Tensor | None = None) -> Loss:
    """The loss of a target.

    CLASS: cross-entropy, for class indices or, after mixing, (B, C) probabilities. MULTILABEL: binary cross-entropy, mean
    over the labels. REGRESSION: half the squared error.

    Args:
        target: what the labels are.
        label_smoothing: part of a class target that is spread over all classes.
        weights_C: (C,) weight of the pictures of each class, mean 1 over the train pictures.

    Returns:
        A function of logits (B, K) and targets that gives (B,) float32.
    """
    if target is Target.CLASS:

        def cross_entropy(logits_BC: Tensor, targets: Tensor) -> Tensor:
            return functional.cross_entropy(
                logits_BC, targets, weight=weights_C, label_smoothing=label_smoothing, reduction="none"
            )

        return cross_entropy
    if target is Target.MULTILABEL:
        return lambda logits_BC, targets_BC: functional.binary_cross_entropy_with_logits(
            logits_BC, targets_BC.float(), reduction="none"
        ).mean(1)
    return lambda values_B1, targets_B: (values_B1[:, 0] - targets_B).square() / 2


def balanced_weights(labels_N: NDArray[np.int64], n_classes: int) -> Tensor:
    """(C,) float32 weights in inverse proportion to the size of the classes, mean 1 over the pictures; absent classes 0."""
    counts_C = np.bincount(labels_N, minlength=n_classes)
    present_C = counts_C > 0
    weights_C = np.zeros(n_classes)
    weights_C[present_C] = len(labels_N) / (present_C.sum() * counts_C[present_C])
    return torch.from_numpy(weights_C.astype(np.float32))
