"""Optimizers: torch's own, and timm's LAMB and LARS."""

from collections.abc import Sequence
from typing import Any

import torch

from tle.errors import MissingPackageError
from tle.finetuning.options import FinetuneOptions


def make_optimizer(groups: Sequence[dict[str, Any]], options: FinetuneOptions) -> torch.optim.Optimizer:
    """The optimizer of a run.

    Args:
        groups: of torch's form; each with its own `lr` and `weight_decay`.
        options: which, and its momentum.

    Raises:
        MissingPackageError: lamb or lars without timm.
    """
    params = list(groups)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(params, lr=options.peak_lr, weight_decay=options.decay)
    if options.optimizer == "sgd":
        return torch.optim.SGD(params, lr=options.peak_lr, momentum=options.inertia, weight_decay=options.decay)
    try:
        from timm.optim import Lamb, Lars
    except ImportError as error:
        raise MissingPackageError(f"--optimizer {options.optimizer} needs timm: pip install timm") from error
    made: torch.optim.Optimizer
    if options.optimizer == "lamb":
        made = Lamb(params, lr=options.peak_lr, weight_decay=options.decay)
    else:
        made = Lars(params, lr=options.peak_lr, momentum=options.inertia, weight_decay=options.decay)
    return made
