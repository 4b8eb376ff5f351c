"""Which parts of a network are in train mode while it is trained: BatchNorm by policy, frozen parts never.

A frozen layer has to be in eval mode as well: its BatchNorm statistics would drift under features that must not change,
and its dropout would make noise that no weight can learn from. In LP-FT, BatchNorm stays in eval mode everywhere, so that
the fitted head still matches the features that it was fitted on.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from tle.errors import UsageError
from tle.finetuning.network import public_name
from tle.finetuning.options import BATCHNORM as POLICIES

if TYPE_CHECKING:
    from torch import nn


def apply_mode(module: "nn.Module", frozen: Collection[str], policy: str) -> None:
    """Put a backbone into the mode that it trains in; to be called again after any `train()` or `eval()`.

    Train mode, but for: parts whose parameters are all frozen, with all that is in them, dropout too; BatchNorm, unless
    the policy is "train"; and networks whose auxiliary classifiers would have them answer with several tensors (GoogLeNet,
    Inception v3), whose root stays in eval mode, so that those do not run. A part without parameters, such as dropout, has
    the mode of what it is in. BatchNorm with frozen weights that is part of something trained is in eval mode too.

    Args:
        module: the backbone; changed in place.
        frozen: public names of its frozen parameters.
        policy: "eval" (running statistics are used and kept), "train" (those of the batch, and the running ones move), or
            "frozen-affine" (as "eval"; that the weights and biases are frozen is a matter of the groups).

    Raises:
        UsageError: an unknown policy.
    """
    if policy not in POLICIES:
        raise UsageError(f"--bn takes {', '.join(POLICIES)}, got {policy!r}")
    module.train()
    _quieten(module, "", frozenset(frozen), policy)


def batchnorm_parameters(module: "nn.Module") -> set[str]:
    """Public names of the weights and biases of all BatchNorm layers."""
    return {
        public_name(f"{path}.{name}".lstrip("."))
        for path, child in module.named_modules()
        if is_batchnorm(child)
        for name, _ in child.named_parameters(recurse=False)
    }


def is_batchnorm(module: "nn.Module") -> bool:
    """Whether a module is BatchNorm that keeps statistics: of any dimension, synchronised, or timm's with activation."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(module, _BatchNorm)


def _quieten(module: "nn.Module", path: str, frozen: frozenset[str], policy: str) -> None:
    """Put into eval mode what belongs there, from `module` down."""
    names = {public_name(f"{path}.{name}".lstrip(".")) for name, _ in module.named_parameters()}
    if (names and names <= frozen) or (is_batchnorm(module) and policy != "train"):
        module.eval()
        return
    if getattr(module, "aux_logits", False):
        module.training = False
    for name, child in module.named_children():
        _quieten(child, f"{path}.{name}".lstrip("."), frozen, policy)
