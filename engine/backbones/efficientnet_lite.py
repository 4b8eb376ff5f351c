"""EfficientNet-Lite checkpoints in the key layout of the TensorFlow port, mapped onto timm's by structure.

Their blocks are numbered through (`_blocks.7._depthwise_conv`), timm's by stage (`blocks.3.1.conv_dw`). Block i of one
is block i of the other in order, so the numbers of blocks a stage are read off the module instead of being tabulated.
Verified for `tf_efficientnet_lite0` by equal outputs (difference 0.0) on the published weights.
"""

import re
from typing import TYPE_CHECKING

from tle.errors import BackboneError

if TYPE_CHECKING:
    import torch
    from torch import nn

_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first stage has no expansion; its projection is timm's only pointwise convolution, followed by its second norm.
_UNEXPANDED = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def uses_lite_keys(state: "dict[str, torch.Tensor]") -> bool:
    """Whether a checkpoint has the key layout that `map_lite_keys` reads."""
    return "_conv_stem.weight" in state and any(key.startswith("_blocks.0.") for key in state)


def map_lite_keys(state: "dict[str, torch.Tensor]", module: "nn.Module") -> "dict[str, torch.Tensor]":
    """Rename the keys of `state` to those of timm's `module`.

    Args:
        state: checkpoint whose keys `uses_lite_keys` recognises.
        module: a timm EfficientNet-Lite, whose `blocks` is a sequence of stages of blocks.

    Returns:
        The same tensors under timm's names.

    Raises:
        BackboneError: a key that the layout does not have.
    """
    stages: list[list[object]] = [list(stage) for stage in module.blocks]  # type: ignore[union-attr]
    places = [(stage, block) for stage, blocks in enumerate(stages) for block in range(len(blocks))]
    expanded = {int(found[1]) for key in state if (found := re.match(r"_blocks\.(\d+)\._expand_conv\.", key))}
    mapped = {}
    for key, tensor in state.items():
        if found := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
            number, layer, leaf = int(found[1]), found[2], found[3]
            name = (_EXPANDED if number in expanded else _UNEXPANDED).get(layer)
            if number < len(places) and name is not None:
                stage, block = places[number]
                mapped[f"blocks.{stage}.{block}.{name}.{leaf}"] = tensor
                continue
        else:
            layer, _, leaf = key.partition(".")
            if layer in _TOP:
                mapped[f"{_TOP[layer]}.{leaf}"] = tensor
                continue
        raise BackboneError(f"this is no EfficientNet-Lite checkpoint of the known layout: unexpected key {key!r}")
    return mapped
