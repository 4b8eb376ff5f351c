"""Mixup and CutMix of a batch by torchvision's transforms, with draws that follow from seed, epoch and batch.

A batch is mixed with itself, rolled by one: pictures come shuffled. With several processes each mixes its own pictures, all
with the same strength, since that follows from the batch's number.

# B batch, H W height and width, C classes
"""

import numpy as np
import torch
from torchvision.transforms import v2

from tle.errors import UsageError
from tle.finetuning.sampling import Stream

__all__ = ["mix"]


def mix(
    pixels_BHW3: torch.Tensor,
    labels: torch.Tensor,
    n_classes: int,
    *,
    mixup: float,
    cutmix: float,
    seed: int,
    epoch: int,
    batch: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix the pictures of a batch and their targets; with both kinds on, one of them is drawn for the batch.

    The caller's generator of random numbers is left as it was. It is shared by all threads, so call this from the training
    thread alone.

    Args:
        pixels_BHW3: (B, H, W, 3) uint8 or float32 of 0 to 255, on any device; stays as it is.
        labels: (B,) int64 class indices, or (B, C) float32 targets, on the same device.
        n_classes: C.
        mixup: parameter of mixup's Beta distribution; 0 is off, 0.2 usual when fine-tuning.
        cutmix: likewise of CutMix, 1.0 usual.
        seed: of the training, 0 or more.
        epoch: which.
        batch: number of the batch in its epoch.

    Returns:
        (B, H, W, 3) pixels and (B, C) float32 targets whose rows sum to 1 as those of the labels do. With mixup on, pixels
        are float32 for every batch, whichever kind is drawn, since a mean of bytes is no byte; else of the type given.

    Raises:
        UsageError: a parameter below 0.

    Source: Zhang et al., mixup (2018); Yun et al., CutMix (2019); torchvision.transforms.v2.MixUp and CutMix.
    """
    if not (mixup >= 0 and cutmix >= 0):
        raise UsageError(f"mixup and cutmix should be 0 (off) or more, got {mixup!r} and {cutmix!r}")
    if mixup:
        pixels_BHW3 = pixels_BHW3.float()
    if not len(labels) or not (mixup or cutmix):
        targets_BC = torch.nn.functional.one_hot(labels, n_classes) if labels.ndim == 1 else labels
        return pixels_BHW3, targets_BC.float()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs as well, which nothing puts back
        state = np.random.SeedSequence([Stream.MIX, seed, epoch, batch]).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(state[0]))
        kinds = [v2.MixUp(alpha=mixup, num_classes=n_classes)] if mixup else []
        kinds += [v2.CutMix(alpha=cutmix, num_classes=n_classes)] if cutmix else []
        mixed_B3HW, targets_BC = v2.RandomChoice(kinds)(pixels_BHW3.permute(0, 3, 1, 2), labels)
    return mixed_B3HW.permute(0, 2, 3, 1).contiguous(), targets_BC
