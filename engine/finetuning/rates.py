"""Which learning rate each parameter gets, and why."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tle.errors import UsageError
from tle.finetuning.group_options import GroupOptions
from tle.finetuning.patterns import Parameters


@dataclass(frozen=True, slots=True)
class Rate:
    """How one parameter is trained.

    Attributes:
        lr: highest learning rate, 0 where frozen.
        frozen: whether it stays as it is.
        warmup: whether its rate is warmed up; never where frozen.
        reason: what sets it apart from others of its layer, empty for nothing; equal reasons in a layer are equal rates.
    """

    lr: float
    frozen: bool
    warmup: bool
    reason: str


def choose_rates(
    parameters: Parameters, layer_ids: Mapping[str, int], options: GroupOptions, *, batchnorm: Collection[str]
) -> dict[str, Rate]:
    """The rate of every parameter: frozen ones first, then the rules in order, then the rest.

    Args:
        parameters: what patterns match.
        layer_ids: public name to layer; the highest is the head's.
        options: how to train.
        batchnorm: public names of the weights and biases of BatchNorm.

    Raises:
        UsageError: a pattern matches nothing, a rule never decides anything, or everything is frozen.
    """
    frozen: dict[str, str] = {}
    for pattern in options.freeze:
        frozen = dict.fromkeys(parameters.match(pattern, flag="--freeze"), f"frozen {pattern}") | frozen
    if not options.train_batchnorm_affine:
        frozen = dict.fromkeys(batchnorm, "BatchNorm") | frozen
    ruled: dict[str, tuple[str, float]] = {}
    for number, (pattern, lr) in enumerate(options.lr_rules):
        found = parameters.match(pattern, flag="--lr")
        decided = [name for name in found if name not in frozen and name not in ruled]
        if not decided:
            others = ", ".join(other for other, _ in options.lr_rules[:number]) or "--freeze"
            raise UsageError(
                f"--lr {pattern}={lr:g} decides nothing: what it matches is frozen or has its rate from rules before it "
                f"({others}); the first rule that matches counts"
            )
        ruled |= dict.fromkeys(decided, (pattern, lr))
    cold: frozenset[str] = frozenset()
    if options.warmup_groups is not None:
        warm = (parameters.match(pattern, flag="--warmup-groups") for pattern in options.warmup_groups)
        cold = frozenset(layer_ids).difference(*warm)
    top = max(layer_ids.values())
    rates = {}
    for name, layer_id in layer_ids.items():
        if name in frozen or (options.freeze_rest and name not in ruled):
            rates[name] = Rate(0.0, frozen=True, warmup=False, reason=frozen.get(name, "frozen rest"))
            continue
        pattern, lr = ruled.get(name, ("", _lr_of_layer(layer_id, top, options)))
        reason = ", ".join(word for word in (pattern, "no warmup" if name in cold else "") if word)
        rates[name] = Rate(lr, frozen=False, warmup=name not in cold, reason=reason)
    if all(rate.frozen for rate in rates.values()):
        raise UsageError(
            "everything is frozen, the head too, and nothing would be trained: leave a part out of --freeze"
        )
    return rates


def _lr_of_layer(layer_id: int, top: int, options: GroupOptions) -> float:
    """What a parameter gets that no rule speaks of."""
    if options.lr_rest is not None:
        return options.lr_rest
    if options.lr_range is not None:
        low, high = options.lr_range
        return float(low * (high / low) ** (layer_id / top))
    return float(options.lr * (options.layer_decay or 1.0) ** (top - layer_id))
