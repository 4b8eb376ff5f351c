"""Which layer a parameter belongs to in the well-known families of networks, told by the names of the parameters alone.

Names are enough, and they stay when a network is cut at a layer or wrapped in another. A family speaks for a network only
if it knows every one of its parameters, so that a network which merely looks like one is left to other rules.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Where a parameter stands among the others: compared as tuples, equal ones are one layer.
Position = tuple[float, ...]
# After the last block: the final normalisation and what else stands between the blocks and the head.
TAIL: Position = (math.inf,)
# As the last number of a position: the layer is that of whatever comes right before.
_WITH_PREVIOUS = math.inf
_LAST = 1e6

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Family:
    """Networks whose parameters are named alike.

    Attributes:
        name: for people.
        first: what its layer 0 is called.
        needs: patterns that must each match the name of some parameter.
        rules: patterns of whole module (or parameter) names from the left, and the position of what they match, made from
            the numbers in their groups; the first that matches decides.
    """

    name: str
    first: str
    needs: tuple[str, ...]
    rules: tuple[tuple[str, Callable[..., Position]], ...]

    def positions(self, shapes: Shapes) -> dict[str, Position] | None:
        """Position of every parameter, or None where this is no network of the family."""
        if not all(any(re.match(need, name) for name in shapes) for need in self.needs):
            return None
        found: dict[str, Position] = {}
        for name in shapes:
            for pattern, position in self.rules:
                if match := re.match(rf"(?:{pattern})(?:\.|$)", name):
                    found[name] = position(*map(int, match.groups()))
                    break
            else:
                return None
        return found


def _at(*position: float) -> Callable[..., Position]:
    return lambda: position


_tail = _at(*TAIL)


def _swin_merging_first(stage: int) -> Position:
    """Patch merging in front of a stage's blocks is the end of the stage before, as SimMIM counts it."""
    return (stage, _WITH_PREVIOUS)


_SWIN_BLOCKS = (r"(?:layers|stages)\.(\d+)\.blocks\.(\d+)", lambda stage, block: (stage + 1, block))
_SWIN_ENDS = (r"patch_embed|absolute_pos_embed", _at(0)), (r"norm|head", _tail)
_FAMILIES = (
    Family("ResNet", "stem", (r"layer1\.",), ((r"conv1|bn1", _at(0)), (r"layer(\d+)", lambda n: (n,)))),
    Family(
        "ConvNeXt of torchvision",
        "stem",
        (r"features\.1\.0\.layer_scale",),
        # Odd numbers are stages, even ones the downsampling in front of them.
        ((r"features\.0", _at(0)), (r"features\.(\d+)", lambda n: (n // 2 + 1,)), (r"classifier\.0", _tail)),
    ),
    Family(
        "ConvNeXt of timm",
        "stem",
        (r"stem\.", r"stages\.0\.blocks\.0\.conv_dw\."),
        ((r"stem", _at(0)), (r"stages\.(\d+)", lambda n: (n + 1,)), (r"norm_pre|head", _tail)),
    ),
    Family(
        "ViT of torchvision",
        "embeddings",
        (r"conv_proj\.", r"encoder\.layers\."),
        (
            (r"class_token|conv_proj|encoder\.pos_embedding", _at(0)),
            (r"encoder\.layers\.encoder_layer_(\d+)", lambda n: (n + 1,)),
            (r"encoder\.ln|heads", _tail),
        ),
    ),
    Family(
        "ViT of timm",
        "embeddings",
        (r"patch_embed\.", r"blocks\.\d+\.attn\."),
        (
            (r"(?:cls|dist|reg|mask)_token|pos_embed\w*|patch_embed|norm_pre|rel_pos_bias|rope", _at(0)),
            (r"blocks\.(\d+)", lambda n: (n + 1,)),
            (r"norm|fc_norm|attn_pool|head", _tail),
        ),
    ),
    Family(
        "Swin of torchvision",
        "embeddings",
        (r"features\.1\.0\.attn\.",),
        (
            (r"features\.0", _at(0)),
            (r"features\.(\d*[13579])\.(\d+)", lambda stage, block: (stage, block)),
            (r"features\.(\d+)", lambda merging: (merging - 1, _WITH_PREVIOUS)),
            (r"norm|head", _tail),
        ),
    ),
    Family(
        "Swin, patch merging at the end of a stage",
        "embeddings",
        (r"patch_embed\.", r"(?:layers|stages)\.0\.blocks\.0\.attn\.", r"(?:layers|stages)\.0\.downsample\."),
        (
            _SWIN_BLOCKS,
            (r"(?:layers|stages)\.(\d+)\.downsample", lambda stage: (stage + 1, _WITH_PREVIOUS)),
            *_SWIN_ENDS,
        ),
    ),
    Family(
        "Swin, patch merging at the start of a stage",
        "embeddings",
        (r"patch_embed\.", r"(?:layers|stages)\.0\.blocks\.0\.attn\."),
        (_SWIN_BLOCKS, (r"(?:layers|stages)\.(\d+)\.downsample", _swin_merging_first), *_SWIN_ENDS),
    ),
    Family(
        "EfficientNet of torchvision",
        "stem",
        (r"features\.1\.0\.block\.",),
        ((r"features\.(\d+)", lambda n: (n,)),),
    ),
    Family(
        "EfficientNet and MobileNet of timm",
        "stem",
        (r"conv_stem\.", r"blocks\.0\."),
        (
            (r"conv_stem|bn1", _at(0)),
            (r"blocks\.(\d+)", lambda n: (n + 1,)),
            (r"conv_head|bn2|norm_head", _at(_LAST)),
        ),
    ),
    Family(
        "DenseNet",
        "stem",
        (r"features\.denseblock1\.",),
        (
            (r"features\.(?:conv|norm)[012]", _at(0)),
            (r"features\.(?:denseblock|transition)(\d+)", lambda n: (n,)),
            (r"features\.norm5", _tail),
        ),
    ),
    Family(
        "RegNet",
        "stem",
        (r"stem\.", r"trunk_output\.block1\.|s1\.b1\."),
        (
            (r"stem", _at(0)),
            (r"(?:trunk_output\.block|s)(\d+)", lambda n: (n,)),
            (r"final_conv", _at(_LAST)),
        ),
    ),
    Family(
        "ShuffleNet V2",
        "stem",
        (r"stage2\.0\.branch\d",),
        ((r"conv1", _at(0)), (r"stage(\d+)", lambda n: (n,)), (r"conv5", _at(_LAST))),
    ),
    Family(
        "GoogLeNet",
        "stem",
        (r"inception3a\.",),
        # The auxiliary classifiers branch off among the fours; in eval mode they do not run.
        ((r"conv\d", _at(0)), (r"inception(\d)\w", lambda n: (n,)), (r"aux\d", _at(4))),
    ),
    Family(
        "Inception v3",
        "stem",
        (r"Mixed_5b\.",),
        ((r"Conv2d_\w+", _at(0)), (r"Mixed_(\d)\w", lambda n: (n,)), (r"AuxLogits", _at(6))),
    ),
    Family(
        "MNASNet",
        "stem",
        (r"layers\.8\.0\.layers\.0\.",),
        # A separable stem in 0 to 7, six stacks, and a last convolution with its normalisation in 14 and 15.
        ((r"layers\.[0-7]", _at(0)), (r"layers\.(\d+)", lambda n: (min(n, 14),))),
    ),
    Family(
        "MaxViT of torchvision",
        "stem",
        (r"blocks\.0\.layers\.0\.layers\.MBconv\.",),
        (
            (r"stem", _at(0)),
            (r"blocks\.(\d+)\.layers\.(\d+)", lambda stage, block: (stage + 1, block)),
            (r"classifier", _tail),
        ),
    ),
)


def _mobilenet(shapes: Shapes) -> dict[str, Position] | None:
    """MobileNet V2 and V3 of torchvision: blocks in a row, numbered through; a stage is a run of equal output channels."""
    blocks: dict[int, int] = {}
    for name, shape in shapes.items():
        if match := re.match(r"features\.(\d+)\.(?:conv|block)\.", name):
            blocks[int(match[1])] = shape[0]  # the last parameter of a block, its last normalisation, decides
    if not any(re.match(r"features\.1\.(?:conv|block)\.0\.0\.", name) for name in shapes):
        return None
    stages, stage, channels = {0: 0}, 0, 0
    for number in sorted(blocks):
        stage += blocks[number] != channels
        stages[number], channels = stage, blocks[number]
    family = Family(
        "MobileNet of torchvision",
        "stem",
        (),
        # What is behind the blocks is the last convolution; V3 has a linear layer after that.
        ((r"features\.(\d+)", lambda n: (stages.get(n, _LAST),)), (r"classifier\.0", _at(_LAST + 1))),
    )
    return family.positions(shapes)


def family_positions(shapes: Shapes) -> tuple[str, str, dict[str, Position]] | None:
    """The family that knows all parameters: its name, what its first layer is called, and the parameters' positions.

    Args:
        shapes: names of parameters, in their order, to shapes.
    """
    for family in _FAMILIES:
        if (found := family.positions(shapes)) is not None:
            return family.name, family.first, found
    if (found := _mobilenet(shapes)) is not None:
        return "MobileNet of torchvision", "stem", found
    return None


def number_positions(positions: Mapping[str, Position]) -> tuple[int, dict[str, int]]:
    """Number of layers L, and the layer of each name: 0 to L - 1 in the order of positions, L for the tail."""
    ids: dict[Position, int] = {}
    count = 0
    for position in sorted(set(positions.values()) - {TAIL}):
        # Nothing comes before the first one, so it is a layer of its own.
        count += not count or position[-1] != _WITH_PREVIOUS
        ids[position] = count - 1
    ids[TAIL] = count
    return count, {name: ids[position] for name, position in positions.items()}
