"""Parameter groups: what shares a learning rate, weight decay, whether it is frozen and whether it is warmed up.

    lr of a layer = lr * decay ** (L - id),   id 0 for the embeddings or the stem, L for the head

Source: Bao et al. 2021 (BEiT), layer-wise learning-rate decay; Clark et al. 2020 (ELECTRA), who had it first; Howard and
Ruder 2018 (ULMFiT), gradual unfreezing and rates spaced geometrically over layers.

# C classes, D feature dim, L layers of the backbone
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tle.finetuning.batchnorm import batchnorm_parameters
from tle.finetuning.group_options import GroupOptions
from tle.finetuning.layer_order import HEAD, HEAD_PARAMETERS, classifier_aliases, layer_order
from tle.finetuning.network import public_name
from tle.finetuning.patterns import Parameters
from tle.finetuning.rates import choose_rates

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "GROUP_COLUMNS",
    "Group",
    "GroupOptions",
    "describe_groups",
    "make_groups",
    "optimiser_groups",
    "unfreeze_epochs",
]

GROUP_COLUMNS = ("group", "layer", "parameters", "values", "lr", "weight decay", "trained", "warmup", "BatchNorm")
# Parameters of more than one axis that are no weights of a product, as torchvision's reference recipes leave them out of
# weight decay; timm's models say the same of theirs.
_UNDECAYED = ("class_token", "cls_token", "dist_token", "reg_token", "pos_embed", "pos_embedding",
              "position_embedding", "relative_position_bias_table")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters that are trained alike.

    Attributes:
        name: of the layer, with what sets a part of it apart; unique.
        layer_id: of the layer: 0 is the stem or the embeddings, the head's is the highest.
        parameters: public names, in the order of the network.
        n_parameters: number of values in them.
        lr: highest learning rate, 0 where frozen.
        weight_decay: 0 for parameters with one axis.
        frozen: whether it stays as it is.
        warmup: whether its rate rises from zero at the start.
        batchnorm: whether a BatchNorm layer's weight or bias is in it.
    """

    name: str
    layer_id: int
    parameters: tuple[str, ...]
    n_parameters: int
    lr: float
    weight_decay: float
    frozen: bool
    warmup: bool
    batchnorm: bool = False

    @property
    def is_head(self) -> bool:
        """Whether it is of the new classifying layer."""
        return self.parameters[0] in HEAD_PARAMETERS

    def to_dict(self, policy: str) -> dict[str, Any]:
        """JSON-able, without the names of the parameters.

        Args:
            policy: of BatchNorm, as `apply_mode` takes it.
        """
        return {
            "name": self.name,
            "layer_id": self.layer_id,
            "n_parameters": self.n_parameters,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "frozen": self.frozen,
            "warmup": self.warmup,
            "batchnorm": self.batchnorm_policy(policy),
        }

    def batchnorm_policy(self, policy: str) -> str | None:
        """What becomes of its BatchNorm, None where it has none: what is frozen is in eval mode whatever the policy."""
        if not self.batchnorm:
            return None
        return "eval" if self.frozen and policy == "train" else policy


def make_groups(
    module: "nn.Module",
    backbone_name: str,
    head_shape: tuple[int, int],
    options: GroupOptions,
    *,
    crop: tuple[int, int] = (224, 224),
) -> tuple[Group, ...]:
    """Put every parameter of a backbone and of its new head into one group.

    Args:
        module: `load_backbone(...).module`.
        backbone_name: the name it was loaded by.
        head_shape: (C, D) of the head's weight; its bias has C values.
        options: how to train them.
        crop: (H, W) of pictures that the backbone takes, in pixels; see `layer_order`.

    Returns:
        Groups by layer, from the input to the output, the head last; in a layer, those with weight decay first.

    Raises:
        BackboneError: the layers cannot be told.
        UsageError: a pattern matches nothing, a rule never decides anything, or nothing is left to train.
    """
    order = layer_order(module, backbone_name, crop=crop)
    weight, bias = HEAD_PARAMETERS
    sizes = {public_name(name): value.numel() for name, value in module.named_parameters()}
    sizes |= {weight: head_shape[0] * head_shape[1], bias: head_shape[0]}
    aliases = classifier_aliases(module, backbone_name)
    called = {name: [name] for name in sizes}
    called |= {
        name: [name, *(f"{alias}.{name.removeprefix(HEAD + '.')}" for alias in aliases)] for name in HEAD_PARAMETERS
    }
    layers = {name: HEAD if name in HEAD_PARAMETERS else order.name_of(name) for name in sizes}
    layer_ids = {**order.layer_of, **dict.fromkeys(HEAD_PARAMETERS, len(order.layers))}
    batchnorm = batchnorm_parameters(module)
    rates = choose_rates(Parameters(called, layers), layer_ids, options, batchnorm=batchnorm)
    plain = undecayed_parameters(module) | {bias}
    split = {
        layer for layer in layers.values() if len({rates[name].reason for name in sizes if layers[name] == layer}) > 1
    }
    members: dict[tuple[int, bool, str, bool], list[str]] = {}
    for name in sizes:
        label, reason = layers[name], rates[name].reason
        label += f" [{reason}]" if reason and label in split else ""
        members.setdefault((layer_ids[name], name in HEAD_PARAMETERS, label, name in plain), []).append(name)
    seen = list(dict.fromkeys(label for _, _, label, _ in members))
    return tuple(
        Group(
            name=f"{label} (no decay)" if undecayed else label,
            layer_id=layer_id,
            parameters=tuple(names),
            n_parameters=sum(sizes[name] for name in names),
            lr=rates[names[0]].lr,
            weight_decay=0.0 if undecayed else options.weight_decay,
            frozen=rates[names[0]].frozen,
            warmup=rates[names[0]].warmup,
            batchnorm=not batchnorm.isdisjoint(names),
        )
        for (layer_id, _, label, undecayed), names in sorted(
            members.items(), key=lambda item: (item[0][0], item[0][1], seen.index(item[0][2]), item[0][3])
        )
    )


def undecayed_parameters(module: "nn.Module") -> set[str]:
    """Public names of the backbone's parameters that weight decay leaves alone.

    Those with one axis, as biases, normalisation and layer scale have (torchvision's layer scale is (C, 1, 1)); class tokens,
    position embeddings and tables of relative positions; and what timm's model says itself.
    """
    told = getattr(getattr(module, "body", module), "no_weight_decay", None)
    found = {public_name(name) for name in told()} if callable(told) else set()
    for name, value in module.named_parameters():
        leaf = name.rpartition(".")[2]
        one_axis = value.ndim <= 1 or (value.numel() == max(value.shape) and leaf != "weight")
        if one_axis or leaf in _UNDECAYED:
            found.add(public_name(name))
    return found


def optimiser_groups(groups: Sequence[Group], named: "Mapping[str, torch.Tensor]") -> "list[dict[str, Any]]":
    """What an optimizer of torch takes: `params`, `lr`, `weight_decay` and `name` of each group that is not frozen.

    Args:
        groups: of the network.
        named: its parameters by public name; `requires_grad` is set in all of them.
    """
    for group in groups:
        for name in group.parameters:
            named[name].requires_grad_(not group.frozen)
    return [
        {
            "params": [named[name] for name in group.parameters],
            "lr": group.lr,
            "weight_decay": group.weight_decay,
            "name": group.name,
        }
        for group in groups
        if not group.frozen
    ]


def unfreeze_epochs(groups: Sequence[Group]) -> dict[str, int]:
    """Gradual unfreezing: the epoch, from 0, at which each group that is not frozen begins to train.

    The head begins, and each epoch one layer more joins it, from the last to the first; the final normalisation comes with
    the last layer. Layers that are frozen for good take no epoch.
    """
    top = max(group.layer_id for group in groups)
    stage_of = {
        group.name: top if group.is_head else min(group.layer_id, top - 1) for group in groups if not group.frozen
    }
    stages = sorted(set(stage_of.values()), reverse=True)
    return {name: stages.index(stage) for name, stage in stage_of.items()}


def describe_groups(groups: Sequence[Group], policy: str) -> list[tuple[str, ...]]:
    """A row of text for each group, with the columns of `GROUP_COLUMNS`.

    Args:
        groups: of the network.
        policy: of BatchNorm, as `apply_mode` takes it.
    """
    return [
        (
            group.name,
            str(group.layer_id),
            _shorten(group.parameters),
            f"{group.n_parameters:,}",
            f"{group.lr:.3g}",
            f"{group.weight_decay:g}",
            "frozen" if group.frozen else "yes",
            "yes" if group.warmup else "no",
            group.batchnorm_policy(policy) or "-",
        )
        for group in groups
    ]


def _shorten(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"
