"""What a user may say about learning rates, freezing and warmup of the parts of a network."""

import math
from dataclasses import dataclass

from tle.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """How parameters are to be trained. A pattern is as `tle.finetuning.patterns` reads it.

    Attributes:
        lr: learning rate of the head, and of all that nothing else speaks of; above 0.
        weight_decay: of weights with more than one axis; at least 0.
        layer_decay: factor from a layer to the one below it, above 0; None is the same rate for all layers.
        lr_rules: (pattern, learning rate above 0) in order; the first that matches a parameter decides. To have a rate of
            0, freeze.
        lr_rest: learning rate of parameters that no rule matches; None leaves them the rate of their layer.
        freeze_rest: freeze the parameters that no rule matches.
        freeze: patterns of parameters to freeze, whatever the rules say of them.
        lr_range: rates of layer 0 and of the head, the layers between them geometrically spaced; `lr` plays no part then.
        warmup_groups: patterns of parameters whose rate is warmed up; None is all.
        train_batchnorm_affine: whether weights and biases of BatchNorm are trained.

    Raises:
        UsageError: a number out of range, or options that exclude each other.
    """

    lr: float
    weight_decay: float
    layer_decay: float | None = None
    lr_rules: tuple[tuple[str, float], ...] = ()
    lr_rest: float | None = None
    freeze_rest: bool = False
    freeze: tuple[str, ...] = ()
    lr_range: tuple[float, float] | None = None
    warmup_groups: tuple[str, ...] | None = None
    train_batchnorm_affine: bool = True

    def __post_init__(self) -> None:
        rates = [("--lr", self.lr), *((f"--lr {pattern}", lr) for pattern, lr in self.lr_rules)]
        rates += [("--lr-rest", self.lr_rest)] if self.lr_rest is not None else []
        rates += [("--lr-range", lr) for lr in self.lr_range or ()]
        for flag, lr in rates:
            if not (math.isfinite(lr) and lr > 0):
                raise UsageError(
                    f"{flag} takes a learning rate above 0, got {lr:g}; --freeze leaves parameters as they are"
                )
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UsageError(f"--weight-decay takes a number of at least 0, got {self.weight_decay:g}")
        if self.layer_decay is not None and not (math.isfinite(self.layer_decay) and self.layer_decay > 0):
            raise UsageError(f"--layer-decay takes a number above 0 (1 for none), got {self.layer_decay:g}")
        rest = "--lr-rest" if self.lr_rest is not None else "--freeze-rest" if self.freeze_rest else ""
        spaced = "--lr-range" if self.lr_range is not None else "--layer-decay" if self.layer_decay is not None else ""
        if self.lr_rest is not None and self.freeze_rest:
            raise UsageError(
                "--lr-rest trains what no --lr PATTERN=LR matches, --freeze-rest freezes it: take one of them"
            )
        if rest and not self.lr_rules:
            raise UsageError(f"{rest} is about what no --lr PATTERN=LR matches: give one, {_instead(rest)}")
        if self.lr_range is not None and self.layer_decay is not None:
            raise UsageError("--lr-range and --layer-decay both say how rates go over the layers: take one of them")
        if rest and spaced:
            raise UsageError(f"{spaced} would change nothing: --lr PATTERN=LR and {rest} speak for every parameter")


def _instead(rest: str) -> str:
    return "or --lr LR for everything" if rest == "--lr-rest" else "or --freeze PATTERN"
