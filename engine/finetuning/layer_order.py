"""The layers of a backbone from its input to its output: what learning rates, freezing and unfreezing go by.

Convolutional networks are counted by stage, transformers by block; layer 0 is the stem, or the embeddings. Whatever comes
after the last block of a transformer, its final normalisation first of all, has the id of the head, as in BEiT: it trains
at the head's rate, though it is part of the backbone.

Source: Bao et al. 2021 (BEiT), `optim_factory.get_num_layer_for_vit`; Liu et al. 2022 (ConvNeXt), the stage-wise variant;
Xie et al. 2022 (SimMIM), `get_swin_layer`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tle.errors import BackboneError
from tle.finetuning.execution_order import execution_positions, is_norm
from tle.finetuning.layer_rules import TAIL, Position, family_positions, number_positions
from tle.finetuning.network import public_name

if TYPE_CHECKING:
    from torch import nn

HEAD = "head"
HEAD_PARAMETERS = ("head.weight", "head.bias")
_SHOWN = 2
# Names of parameters of attention, which channel attention ("attn.fc1") does not have.
_ATTENDS = re.compile(r"qkv|attn\.(?:proj|q|kv)\b")
# `norm.weight`, `encoder.ln.weight`; what is deeper is inside of something else.
_FINAL_DEPTH = 2
_FINAL_NORMS = ("norm.", "fc_norm.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOrder:
    """The layers of a backbone.

    Attributes:
        layers: names in order; an index is a layer's id. The head is not among them: its id is `len(layers)`.
        layer_of: public name of each parameter to the id of its layer; of those after the last block, the head's id.
        tail: public name of each parameter after the last block to what to call its layer: "norm" for normalisation.
        rule: what told the order: a family's name, "timm's group_matcher" or "order of execution".
    """

    layers: tuple[str, ...]
    layer_of: Mapping[str, int]
    tail: Mapping[str, str]
    rule: str

    def name_of(self, parameter: str) -> str:
        """What to call the layer of a parameter, by its public name."""
        return self.tail[parameter] if parameter in self.tail else self.layers[self.layer_of[parameter]]


def layer_order(module: "nn.Module", backbone_name: str, *, crop: tuple[int, int] = (224, 224)) -> LayerOrder:
    """Put the parameters of a backbone into layers, from its input to its output.

    The families that `tle.finetuning.layer_rules` knows come first, whoever wrote the network; for others of timm, timm
    says; and what nobody knows is run once: its children in order of execution are the layers, sequences of several
    taken apart. Normalisation is never a layer of its own: it goes with what it follows.

    Args:
        module: `load_backbone(...).module`: normalised float32 (B, 3, H, W) -> (B, D).
        backbone_name: the name it was loaded by, `torchvision/resnet50` for one.
        crop: (H, W) of pictures that it takes, in pixels; used where it has to be run.

    Returns:
        The layers; every parameter has one.

    Raises:
        BackboneError: it has no parameters, one whose name is the head's, or has to be run and does not take `crop`.
    """
    shapes = {public_name(name): tuple(value.shape) for name, value in module.named_parameters()}
    if not shapes:
        raise BackboneError(f"{backbone_name} has no parameters: there is nothing to fine-tune in it")
    if taken := sorted(set(HEAD_PARAMETERS) & set(shapes)):
        raise BackboneError(
            f"{backbone_name} has parameters called {' and '.join(taken)}, the names of the new classifying layer: rename "
            f"the module {HEAD!r} in it, or cut it before with --layer"
        )
    owners = {public_name(name): child for name, child in module.named_modules()}
    first = ""
    if known := family_positions(shapes):
        rule, first, positions = known
    elif grouped := _timm_positions(module, backbone_name, shapes):
        rule, positions = "timm's group_matcher", _join_norms(grouped, owners)
    else:
        rule, positions = "order of execution", _join_norms(execution_positions(module, crop), owners)
    count, layer_of = number_positions(positions)
    layers = [_layer_name((name for name in shapes if layer_of[name] == number), shapes) for number in range(count)]
    if first and layers and min(positions.values()) == (0,):
        layers[0] = first
    return LayerOrder(layers=tuple(layers), layer_of=layer_of, tail=_tail_names(positions, owners, shapes), rule=rule)


def classifier_aliases(module: "nn.Module", backbone_name: str) -> tuple[str, ...]:
    """What the network itself calls the classifying layer that the new head stands for.

    Args:
        module: `load_backbone(...).module`.
        backbone_name: the name it was loaded by.

    Returns:
        Dotted names: of timm's models what their configuration says, of others the identity that stands in its place. None
        where the network was cut at a layer, which leaves no trace of it, or where an identity of a user's own network
        may as well be something else, which is so inside of anything that has parameters.
    """
    from torch import nn

    if backbone_name.startswith("timm/"):
        import timm

        config = timm.get_pretrained_cfg(backbone_name.removeprefix("timm/"), allow_unregistered=False)
        named = config.classifier if config is not None else None
        return (named,) if isinstance(named, str) else tuple(named or ())
    identities = [name for name, child in module.named_modules() if type(child) is nn.Identity]
    if not identities or hasattr(module, "body"):
        return ()
    parent = identities[-1].rpartition(".")[0]
    inside = bool(parent) and any(True for _ in module.get_submodule(parent).parameters())
    return () if inside and not backbone_name.startswith("torchvision/") else (identities[-1],)


def _timm_positions(
    module: "nn.Module", backbone_name: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Position] | None:
    """Layers as timm's model groups its own parameters: by block where it attends, else by stage.

    What timm groups with the classifier is the tail.
    """
    if not backbone_name.startswith("timm/"):
        return None
    from timm.models import group_parameters

    model: Any = _timm_model(module, backbone_name)
    # timm's VGG makes a layer of each convolution and one of each normalisation; running it tells the same, in pairs.
    if not hasattr(model, "group_matcher") or type(model).__name__ == "VGG":
        return None
    coarse = not any(_ATTENDS.search(name) for name in shapes)
    classifier = "(classifier)"  # a name that every matcher leaves to the end, where the classifier belongs
    names = [*model.named_parameters(), (classifier, None)]
    listing = SimpleNamespace(named_parameters=lambda: iter(names))
    try:
        matcher = model.group_matcher(coarse=coarse)
    except AssertionError:  # a few, RDNet for one, know blocks only
        matcher = model.group_matcher(coarse=False)
    ids: dict[str, int] = group_parameters(listing, matcher, reverse=True)
    last = ids.pop(classifier)
    # Some models have their final normalisation grouped with the last block; here it is after it in all of them.
    after = {name for name, number in ids.items() if number == last or name.startswith(_FINAL_NORMS)}
    positions = {public_name(name): TAIL if name in after else (float(number),) for name, number in ids.items()}
    return {name: positions[name] for name in shapes}


def _timm_model(module: "nn.Module", backbone_name: str) -> "nn.Module":
    """The network that knows its groups: the one inside our wrapper, or where that was cut to a graph, a new one."""
    import timm
    import torch

    model = getattr(module, "body", module)
    if hasattr(model, "pretrained_cfg"):
        return model
    with torch.random.fork_rng(devices=[]):
        fresh: nn.Module = timm.create_model(backbone_name.removeprefix("timm/"), pretrained=False, num_classes=0)
    return fresh


def _join_norms(positions: Mapping[str, Position], owners: Mapping[str, "nn.Module"]) -> dict[str, Position]:
    """Give layers that only normalise to the layer in front of them."""
    others = {position for name, position in positions.items() if not is_norm(owners.get(name.rpartition(".")[0]))}
    joined: dict[Position, Position] = {}
    before: Position | None = None
    for position in sorted(set(positions.values())):
        if position in others or position == TAIL or before is None:
            before = position
        joined[position] = before
    return {name: joined[position] for name, position in positions.items()}


def _layer_name(names: Iterable[str], known: Iterable[str]) -> str:
    """The largest modules that hold just these parameters, joined by a plus; of many the first and the last.

    `head` alone is the new head's name, so parts of a backbone's own are named one by one.
    """
    wanted, known = list(names), list(known)
    found: list[str] = []
    for name in wanted:
        parts = name.split(".")
        for depth in range(2 if parts[0] == HEAD else 1, len(parts) + 1):
            prefix = ".".join(parts[:depth])
            inside = [other for other in known if other == prefix or other.startswith(f"{prefix}.")]
            if set(inside) <= set(wanted):
                if prefix not in found:
                    found.append(prefix)
                break
    return "+".join(found) if len(found) <= _SHOWN else f"{found[0]}...{found[-1]}"


def _tail_names(
    positions: Mapping[str, Position], owners: Mapping[str, "nn.Module"], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    tail = [name for name in shapes if positions[name] == TAIL]
    norms = {name for name in tail if is_norm(owners.get(name.rpartition(".")[0])) and name.count(".") <= _FINAL_DEPTH}
    rest = [name for name in tail if name not in norms]
    other = _layer_name(rest, [name for name in shapes if name not in norms])
    return {name: "norm" if name in norms else other for name in tail}
