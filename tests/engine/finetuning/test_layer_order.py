"""Layers of networks: tables by hand for the usual ones, the order of execution for all."""

import pytest
import timm
import torch
from torch import nn

from tle.backbones.load import load_backbone
from tle.errors import BackboneError
from tle.finetuning.layer_order import classifier_aliases, layer_order
from tle.finetuning.network import public_name

EFFICIENTNET = ["conv_stem bn1", *(f"blocks.{stage}" for stage in range(7)), "conv_head bn2"]
# What is in each layer, from the first one on, and then what trains at the head's rate.
BY_HAND = {
    "torchvision/resnet18": (["conv1 bn1", "layer1", "layer2", "layer3", "layer4"], ""),
    "timm/resnet18": (["conv1 bn1", "layer1", "layer2", "layer3", "layer4"], ""),
    "torchvision/convnext_tiny": (
        ["features.0", "features.1", "features.2 features.3", "features.4 features.5", "features.6 features.7"],
        "classifier.0",
    ),
    "timm/convnext_tiny": (["stem", "stages.0", "stages.1", "stages.2", "stages.3"], "head.norm"),
    "torchvision/vit_b_16": (
        [
            "class_token conv_proj encoder.pos_embedding",
            *(f"encoder.layers.encoder_layer_{block}" for block in range(12)),
        ],
        "encoder.ln",
    ),
    "timm/vit_small_patch16_224": (
        ["cls_token pos_embed patch_embed", *(f"blocks.{block}" for block in range(12))],
        "norm",
    ),
    "torchvision/swin_t": (
        [
            "features.0",
            "features.1.0",
            "features.1.1 features.2",
            "features.3.0",
            "features.3.1 features.4",
            *(f"features.5.{block}" for block in range(5)),
            "features.5.5 features.6",
            "features.7.0",
            "features.7.1",
        ],
        "norm",
    ),
    "timm/swin_tiny_patch4_window7_224": (
        [
            "patch_embed",
            "layers.0.blocks.0",
            "layers.0.blocks.1 layers.1.downsample",
            "layers.1.blocks.0",
            "layers.1.blocks.1 layers.2.downsample",
            *(f"layers.2.blocks.{block}" for block in range(5)),
            "layers.2.blocks.5 layers.3.downsample",
            "layers.3.blocks.0",
            "layers.3.blocks.1",
        ],
        "norm",
    ),
    "torchvision/efficientnet_b0": ([f"features.{stage}" for stage in range(9)], ""),
    "timm/efficientnet_b0": (EFFICIENTNET, ""),
    "timm/tf_efficientnet_lite0": (EFFICIENTNET, ""),
    "torchvision/mobilenet_v2": (
        [
            "features.0",
            "features.1",
            "features.2 features.3",
            "features.4 features.5 features.6",
            "features.7 features.8 features.9 features.10",
            "features.11 features.12 features.13",
            "features.14 features.15 features.16",
            "features.17",
            "features.18",
        ],
        "",
    ),
    "torchvision/densenet121": (
        [
            "features.conv0 features.norm0",
            *(f"features.denseblock{n} features.transition{n}" for n in (1, 2, 3)),
            "features.denseblock4",
        ],
        "features.norm5",
    ),
    "torchvision/alexnet": ([f"features.{n}" for n in (0, 3, 6, 8, 10)] + ["classifier.1", "classifier.4"], ""),
    "torchvision/regnet_y_400mf": (["stem", *(f"trunk_output.block{stage}" for stage in (1, 2, 3, 4))], ""),
}
OTHERS = [
    "torchvision/googlenet",
    "torchvision/maxvit_t",
    "torchvision/mnasnet0_5",
    "torchvision/mobilenet_v3_large",
    "torchvision/resnet50",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
    "torchvision/swin_v2_t",
    "torchvision/vgg11",
    "timm/deit3_small_patch16_224",
    "timm/densenet121",
    "timm/dla34",
    "timm/eva02_tiny_patch14_224",
    "timm/levit_128s",
    "timm/maxvit_tiny_tf_224",
    "timm/mobilenetv3_large_100",
    "timm/poolformer_s12",
    "timm/rdnet_tiny",
    "timm/regnety_004",
    "timm/swinv2_cr_tiny_ns_224",
    "timm/vgg11_bn",
]


@pytest.fixture(scope="module", params=[*BY_HAND, *OTHERS])
def backbone(request):
    return load_backbone(request.param, weights="none")


@pytest.fixture(scope="module")
def order(backbone):
    return layer_order(backbone.module, backbone.name, crop=backbone.preprocess.crop)


def in_which(name, layers):
    """Number of the only entry of `layers` that has a prefix of `name`."""
    found = [
        number
        for number, prefixes in enumerate(layers)
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes.split())
    ]
    assert len(found) == 1, (name, found)
    return found[0]


def test_layers_are_those_written_down_by_hand(backbone, order):
    layers, tail = BY_HAND.get(backbone.name, (order.layers, ""))
    assert len(order.layers) == len(layers)
    if backbone.name in BY_HAND:
        assert order.layer_of == {name: in_which(name, [*layers, tail]) for name in order.layer_of}
        assert set(order.tail.values()) <= {"norm"}
    assert set(order.tail) == {name for name, layer in order.layer_of.items() if layer == len(layers)}


def test_every_parameter_has_a_layer_and_every_layer_a_parameter(backbone, order):
    assert list(order.layer_of) == [public_name(name) for name, _ in backbone.module.named_parameters()]
    assert {*order.layer_of.values(), len(order.layers)} == {*range(len(order.layers) + 1)}
    assert len({*order.layers, *order.tail.values()}) == len(order.layers) + len(set(order.tail.values()))
    assert "head" not in order.layers
    assert "head" not in order.tail.values()
    assert len(order.layers) >= 3
    assert order.layer_of[next(iter(order.layer_of))] == 0


def test_layers_run_in_their_order(backbone, order):
    begun = []

    def watch(module, name):
        layers = {
            order.layer_of[public_name(f"{name}.{leaf}".lstrip("."))]
            for leaf, _ in module.named_parameters(recurse=False)
        }
        return module.register_forward_pre_hook(lambda *_: begun.extend(layers - {*begun}))

    owners = [(module, name) for name, module in backbone.module.named_modules() if [*module.parameters(recurse=False)]]
    handles = [watch(module, name) for module, name in owners]
    with torch.inference_mode():
        backbone.module(torch.zeros(1, 3, *backbone.preprocess.crop))
    for handle in handles:
        handle.remove()
    # Class tokens and position embeddings are parameters of the network itself, which begins before all others.
    assert begun == sorted(begun)
    assert len(begun) >= len(order.layers)


@pytest.mark.parametrize(
    ("name", "layer", "layers"),
    [
        ("torchvision/resnet18", "layer3.0", ("stem", "layer1", "layer2", "layer3")),
        ("torchvision/squeezenet1_1", "features.4", ("features.0", "features.3", "features.4")),
        ("timm/dla34", "level2", ("base_layer", "level0", "level1", "level2")),
        ("timm/test_vit", "blocks.1", ("embeddings", "blocks.0", "blocks.1")),
    ],
)
def test_a_network_cut_at_a_layer_keeps_the_layers_before_it(name, layer, layers):
    cut = load_backbone(name, weights="none", layer=layer)
    assert layer_order(cut.module, name, crop=cut.preprocess.crop).layers == layers


@pytest.mark.parametrize(
    ("name", "aliases"),
    [
        ("torchvision/resnet18", ("fc",)),
        ("torchvision/mobilenet_v3_small", ("classifier.3",)),
        ("timm/resnet10t", ("fc",)),
        ("timm/test_vit", ("head",)),
        ("timm/levit_128s", ("head.linear", "head_dist.linear")),
    ],
)
def test_the_classifying_layer_has_its_own_name_in_the_network(name, aliases):
    assert classifier_aliases(load_backbone(name, weights="none").module, name) == aliases


class Late(nn.Module):
    """Registered in another order than it runs in, with a normalisation at its end and a part that never runs."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.norm = nn.LayerNorm(4)
        self.last = nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.first = nn.Conv2d(3, 6, 3)
        self.auxiliary = nn.Linear(6, 2)
        self.fc = nn.Identity()

    def forward(self, x):
        return self.fc(self.norm(self.last(self.first(x)).mean((2, 3)) + self.token))


def test_a_network_that_nobody_knows_has_the_layers_that_it_runs():
    network = Late()
    order = layer_order(network, "mine:network", crop=(8, 8))
    assert order.rule == "order of execution"
    assert order.layers == ("token...auxiliary", "last.0+last.1", "last.3")
    assert {name: order.name_of(name) for name in ("norm.weight", "last.1.bias", "auxiliary.bias")} == {
        "norm.weight": "norm",
        "last.1.bias": "last.0+last.1",
        "auxiliary.bias": "token...auxiliary",
    }
    assert classifier_aliases(network, "mine:network") == ("fc",)


def test_the_run_changes_nothing():
    network = Late().train()
    network.last.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layer_order(network, "mine:network", crop=(8, 8))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [child.training for child in (network, network.norm, network.last, network.last[1])] == [
        True,
        True,
        False,
        False,
    ]
    assert not any(child._forward_pre_hooks for child in network.modules())


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.encoder = inner
        self.out = nn.Identity()

    def forward(self, x):
        return self.out(self.encoder(x))


def test_a_known_network_inside_of_another_is_known():
    inner = load_backbone("torchvision/resnet18", weights="none").module
    order = layer_order(Wrapped(inner), "mine:network", crop=(64, 64))
    assert order.layers == ("encoder.conv1+encoder.bn1", *(f"encoder.layer{stage}" for stage in (1, 2, 3, 4)))
    behind = nn.Sequential(timm.create_model("test_vit", num_classes=0).eval(), nn.Linear(64, 8))
    order = layer_order(behind, "mine:network", crop=(160, 160))
    assert order.layers[-2:] == ("0.blocks.5+0.norm", "1")  # no longer the last thing before the head
    assert not order.tail


def test_an_identity_inside_a_block_is_not_taken_for_the_classifier():
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity())
    assert classifier_aliases(nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten()), "mine:network") == ()


def test_networks_that_cannot_be_ordered_are_refused():
    with pytest.raises(BackboneError, match="no parameters"):
        layer_order(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "mine:network")
    taken = nn.Sequential()
    taken.add_module("head", nn.Linear(3, 4))
    with pytest.raises(BackboneError, match="head.bias and head.weight"):
        layer_order(taken, "mine:network")
    with pytest.raises(BackboneError, match="8x8"):
        layer_order(nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4)), "mine:network", crop=(8, 8))
