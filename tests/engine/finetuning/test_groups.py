"""Learning rates, weight decay and freezing of every parameter, as the optimizer has them."""

import re

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from tle.backbones.load import load_backbone
from tle.errors import UsageError
from tle.finetuning.groups import (
    GROUP_COLUMNS,
    GroupOptions,
    describe_groups,
    make_groups,
    optimiser_groups,
    undecayed_parameters,
    unfreeze_epochs,
)
from tle.finetuning.network import public_name
from tle.finetuning.schedules import Schedule

LR, DECAY, WEIGHT_DECAY = 2e-3, 0.65, 0.05


def options(**changes):
    return GroupOptions(**({"lr": LR, "weight_decay": WEIGHT_DECAY} | changes))


def numbers(name):
    return [int(number) for number in re.findall(r"\d+", name)]


def resnet(name):
    return 0 if name.startswith(("conv1", "bn1")) else int(name[len("layer")])


def convnext_torchvision(name):
    return 5 if name.startswith("classifier") else [0, 1, 2, 2, 3, 3, 4, 4][numbers(name)[0]]


def convnext_timm(name):
    return 0 if name.startswith("stem") else 5 if name.startswith("head") else 1 + numbers(name)[0]


def vit_torchvision(name):
    return 13 if "encoder.ln" in name else 1 + numbers(name)[0] if "encoder_layer" in name else 0


def vit_timm(name):
    return 13 if name.startswith("norm") else 1 + numbers(name)[0] if name.startswith("blocks") else 0


def swin_torchvision(name):
    if name.startswith("norm"):
        return 13
    stage, block = [*numbers(name), 0][:2]  # patch merging has no block
    return {0: 0, 1: 1 + block, 2: 2, 3: 3 + block, 4: 4, 5: 5 + block, 6: 10, 7: 11 + block}[stage]


def swin_timm(name):
    if not name.startswith("layers"):
        return 13 if name.startswith("norm") else 0
    stage = numbers(name)[0]
    return [0, 2, 4, 10][stage] + (0 if "downsample" in name else 1 + numbers(name)[1])


def efficientnet_torchvision(name):
    return numbers(name)[0]


def efficientnet_timm(name):
    return 8 if name.startswith(("conv_head", "bn2")) else 1 + numbers(name)[0] if name.startswith("blocks") else 0


# Layers without the head, and the layer of a parameter by its name.
NETWORKS = {
    "torchvision/resnet18": (5, resnet),
    "timm/resnet18": (5, resnet),
    "torchvision/convnext_tiny": (5, convnext_torchvision),
    "timm/convnext_tiny": (5, convnext_timm),
    "torchvision/vit_b_16": (13, vit_torchvision),
    "timm/vit_base_patch16_224": (13, vit_timm),
    "torchvision/swin_t": (13, swin_torchvision),
    "timm/swin_tiny_patch4_window7_224": (13, swin_timm),
    "torchvision/efficientnet_b0": (9, efficientnet_torchvision),
    "timm/efficientnet_b0": (9, efficientnet_timm),
}


@pytest.fixture(params=NETWORKS)
def unfilled(request):
    """(name, a network without values and without its classifier): names and shapes are all that groups need."""
    provider, _, name = request.param.partition("/")
    with torch.device("meta"):
        if provider == "timm":
            return request.param, timm.create_model(name, num_classes=0)
        model = torchvision.models.get_model(name, weights=None)
    cut = [child for child, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, leaf = cut.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Identity())
    return request.param, model


def test_rates_decay_from_the_head_to_the_stem(unfilled):
    name, module = unfilled
    layers, layer_of = NETWORKS[name]
    groups = make_groups(module, name, (7, 96), options(layer_decay=DECAY))
    expected = {parameter: LR * DECAY ** (layers - layer_of(parameter)) for parameter, _ in module.named_parameters()}
    expected |= {"head.weight": LR, "head.bias": LR}
    found = {parameter: group.lr for group in groups for parameter in group.parameters}
    assert found.keys() == expected.keys()
    assert sum(len(group.parameters) for group in groups) == len(expected)
    for parameter, lr in found.items():
        assert lr == pytest.approx(expected[parameter], rel=1e-12), parameter
    assert [group.layer_id for group in groups] == sorted(group.layer_id for group in groups)
    assert {group.layer_id for group in groups} == {*range(layers + 1)}
    assert groups[-1].is_head
    assert len({group.name for group in groups}) == len(groups)
    assert sum(group.n_parameters for group in groups) == sum(p.numel() for p in module.parameters()) + 7 * 96 + 7


def test_every_group_rises_linearly_from_zero_to_its_own_peak(unfilled):
    name, module = unfilled
    schedule = Schedule(kind="cosine", total_steps=40, warmup_steps=8)
    for group in make_groups(module, name, (7, 96), options(layer_decay=DECAY)):
        rates = [group.lr * schedule.factor(step, warmup=group.warmup) for step in range(40)]
        assert rates[0] == 0.0
        np.testing.assert_allclose(rates[:9], group.lr * np.arange(9) / 8, rtol=1e-12)
        assert np.argmax(rates) == 8


def test_only_weights_of_more_than_one_axis_decay(unfilled):
    name, module = unfilled
    groups = make_groups(module, name, (7, 96), options())
    decayed = {parameter for group in groups if group.weight_decay for parameter in group.parameters}
    assert {group.weight_decay for group in groups} == {0.0, WEIGHT_DECAY}
    tables = ("relative_position_bias_table", "_token", "pos_embed", "pos_embedding", "layer_scale")
    expected = {
        parameter for parameter, value in module.named_parameters() if value.ndim > 1 and not parameter.endswith(tables)
    }
    assert decayed == expected | {"head.weight"}


@pytest.fixture(scope="module")
def small():
    """timm's smallest ResNet: one block a stage, and a stem of several convolutions."""
    return load_backbone("timm/test_resnet", weights="none")


def groups_of(backbone, **changes):
    return make_groups(backbone.module, backbone.name, (3, backbone.dim), options(**changes))


def lrs(groups):
    return {parameter: group.lr for group in groups for parameter in group.parameters}


def test_the_first_rule_that_matches_decides(small):
    groups = groups_of(small, lr_rules=(("fc", 1.0), ("layer4.0.conv1", 0.5), ("layer4", 0.25), ("*.bias", 0.125)))
    found = lrs(groups)
    assert found["head.weight"] == found["head.bias"] == 1.0  # `fc` is what the network calls it
    assert {lr for name, lr in found.items() if name.startswith("layer4.0.conv1.")} == {0.5}
    assert {lr for name, lr in found.items() if name.startswith("layer4.") and ".conv1." not in name} == {0.25}
    assert found["layer3.0.bn1.bias"] == found["bn1.bias"] == 0.125
    assert found["layer3.0.bn1.weight"] == found["conv1.0.weight"] == LR
    assert {"layer3 (no decay)", "layer3 [*.bias] (no decay)"} <= {group.name for group in groups}


def test_what_no_rule_matches_keeps_the_rate_of_its_layer_or_gets_one_or_is_frozen(small):
    rule = (("head", 1.0),)
    assert lrs(groups_of(small, lr_rules=rule, layer_decay=0.5))["layer4.0.conv1.weight"] == LR / 2
    assert set(lrs(groups_of(small, lr_rules=rule, lr_rest=1e-5)).values()) == {1.0, 1e-5}
    frozen = groups_of(small, lr_rules=rule, freeze_rest=True)
    assert [group.name for group in frozen if not group.frozen] == ["head", "head (no decay)"]
    assert {group.lr for group in frozen if group.frozen} == {0.0}


def test_a_range_is_geometric_over_the_layers(small):
    groups = groups_of(small, lr_range=(1e-5, 1e-3))
    by_layer = [{group.lr for group in groups if group.layer_id == layer} for layer in range(6)]
    for layer, found in enumerate(by_layer):
        assert [*found] == [pytest.approx(1e-5 * 100 ** (layer / 5), rel=1e-12)]


def test_frozen_parameters_are_left_out_and_have_no_gradient(small):
    groups = groups_of(small, freeze=("stem", "layer1", "*.bn?.*"), lr_rules=(("layer2", 1.0),))
    head = nn.Linear(small.dim, 3)
    named = {public_name(name): value for name, value in small.module.named_parameters()}
    named |= {f"head.{name}": value for name, value in head.named_parameters()}
    wanted = optimiser_groups(groups, named)
    frozen = {name for name in named if name.startswith(("conv1", "bn1", "layer1")) or re.search(r"\.bn\d\.", name)}
    assert {name for name, value in named.items() if not value.requires_grad} == frozen
    held = [value for group in wanted for value in group["params"]]
    assert {id(value) for value in held} == {id(value) for name, value in named.items() if name not in frozen}
    assert len(held) == len(named) - len(frozen)
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in wanted} == {
        group.name: (group.lr, group.weight_decay) for group in groups if not group.frozen
    }
    torch.optim.AdamW(wanted)
    small.module.requires_grad_(requires_grad=False)


def test_what_the_optimizer_moves_goes_by_the_rates(small):
    """One step of plain SGD moves a parameter by its rate times its gradient, and at step 0 nothing at all."""
    groups = groups_of(small, layer_decay=DECAY, freeze=("stem",))
    head = nn.Linear(small.dim, 3)
    named = {public_name(name): value for name, value in small.module.named_parameters()}
    named |= {f"head.{name}": value for name, value in head.named_parameters()}
    wanted = [group | {"weight_decay": 0.0} for group in optimiser_groups(groups, named)]
    optimizer = torch.optim.SGD(wanted)
    by_name = {group.name: group for group in groups}
    schedule = Schedule(kind="constant", total_steps=10, warmup_steps=4)
    for step in range(2):
        before = {name: value.detach().clone() for name, value in named.items()}
        optimizer.zero_grad()
        head(small.module(torch.ones(2, 3, 64, 64))).square().sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = by_name[group["name"]].lr * schedule.factor(step, warmup=by_name[group["name"]].warmup)
        optimizer.step()
        for group in groups:
            for name in group.parameters:
                gradient = 0.0 if group.frozen else named[name].grad
                torch.testing.assert_close(named[name].detach(), before[name] - group.lr * step / 4 * gradient)
    small.module.requires_grad_(requires_grad=False)


def test_batchnorm_weights_can_be_left_alone(small):
    groups = groups_of(small, train_batchnorm_affine=False)
    frozen = {name for group in groups if group.frozen for name in group.parameters}
    owners = {public_name(name): module for name, module in small.module.named_modules()}
    assert frozen == {name for name in lrs(groups) if "BatchNorm" in type(owners.get(name.rpartition(".")[0])).__name__}
    assert len(frozen) > 8
    assert {group.to_dict("frozen-affine")["batchnorm"] for group in groups if group.frozen} == {"frozen-affine"}


def test_warmup_is_for_the_groups_that_are_named(small):
    warm = {name for group in groups_of(small) if group.warmup for name in group.parameters}
    assert warm == set(lrs(groups_of(small)))
    groups = groups_of(small, warmup_groups=("fc", "layer4"))
    assert {group.layer_id for group in groups if group.warmup} == {4, 5}
    assert not any(group.warmup for group in groups_of(small, warmup_groups=()))


def test_layers_are_released_from_the_head_on(unfilled):
    name, module = unfilled
    layers, layer_of = NETWORKS[name]
    groups = make_groups(module, name, (7, 96), options())
    epochs = unfreeze_epochs(groups)
    for group in groups:
        if group.is_head:
            assert epochs[group.name] == 0
        else:
            # The final normalisation has the head's number and comes with the last layer.
            assert {max(1, layers - layer_of(parameter)) for parameter in group.parameters} == {epochs[group.name]}


def test_frozen_layers_take_no_epoch_of_the_release(small):
    groups = groups_of(small, freeze=("layer3", "stem"))
    epochs = unfreeze_epochs(groups)
    assert {group.layer_id: epochs[group.name] for group in groups if not group.frozen} == {5: 0, 4: 1, 2: 2, 1: 3}
    assert not any(group.name in epochs for group in groups if group.frozen)
    assert min(unfreeze_epochs(groups_of(small, freeze=("head",))).values()) == 0


def test_a_table_says_what_becomes_of_each_group(small):
    groups = groups_of(small, freeze=("stem",), layer_decay=0.5)
    rows = [dict(zip(GROUP_COLUMNS, row, strict=True)) for row in describe_groups(groups, "train")]
    assert rows[0]["group"] == "stem"
    assert (rows[0]["parameters"], rows[0]["lr"], rows[0]["trained"], rows[0]["warmup"]) == (
        "conv1.0.weight +2", "0", "frozen", "no",
    )  # fmt: skip
    assert rows[1]["BatchNorm"] == "eval"  # the policy is to train it, but it is frozen
    assert rows[-1] == {
        "group": "head (no decay)",
        "layer": "5",
        "parameters": "head.bias",
        "values": "3",
        "lr": "0.002",
        "weight decay": "0",
        "trained": "yes",
        "warmup": "yes",
        "BatchNorm": "-",
    }
    assert groups[-1].to_dict("train") == {
        "name": "head (no decay)",
        "layer_id": 5,
        "n_parameters": 3,
        "lr": LR,
        "weight_decay": 0.0,
        "frozen": False,
        "warmup": True,
        "batchnorm": None,
    }


def test_what_timm_leaves_out_of_weight_decay_is_left_out():
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 2))
            self.query = nn.Parameter(torch.zeros(2, 2))
            self.scale = nn.Parameter(torch.zeros(2, 1, 1))

        def no_weight_decay(self):
            return {"query"}

    assert undecayed_parameters(Told()) == {"query", "scale"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ("layer9",)}, "--freeze 'layer9' matches no parameter; did you mean .*layer"),
        ({"lr_rules": (("backbone", 1.0),)}, "--lr 'backbone' matches no parameter.*layers are stem, layer1, .*, head"),
        ({"warmup_groups": ("neck",)}, "--warmup-groups 'neck' matches no parameter"),
        ({"lr_rules": (("layer4", 1.0), ("layer4.0", 0.5))}, "--lr layer4.0=0.5 decides nothing"),
        ({"lr_rules": (("layer4", 1.0),), "freeze": ("layer4",)}, "--lr layer4=1 decides nothing"),
        ({"freeze": ("*",)}, "everything is frozen"),
    ],
)
def test_patterns_that_do_nothing_are_refused(small, changes, message):
    with pytest.raises(UsageError, match=message):
        groups_of(small, **changes)


RULE = (("head", 1.0),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "--lr takes a learning rate above 0, got 0"),
        ({"lr": float("nan")}, "--lr takes"),
        ({"lr_rules": (("layer1", 0.0),)}, "--lr layer1 takes a learning rate above 0, got 0; --freeze"),
        ({"lr_rules": RULE, "lr_rest": -1.0}, "--lr-rest takes"),
        ({"lr_range": (0.0, 1.0)}, "--lr-range takes"),
        ({"weight_decay": -0.1}, "--weight-decay takes"),
        ({"layer_decay": 0.0}, "--layer-decay takes"),
        ({"lr_rest": 1.0}, "--lr-rest is about what no --lr PATTERN=LR matches"),
        ({"freeze_rest": True}, "--freeze-rest is about what no --lr PATTERN=LR matches"),
        ({"lr_rules": RULE, "lr_rest": 1.0, "freeze_rest": True}, "take one of them"),
        ({"lr_range": (1e-5, 1e-3), "layer_decay": 0.5}, "--lr-range and --layer-decay"),
        ({"lr_rules": RULE, "lr_rest": 1.0, "layer_decay": 0.5}, "--layer-decay would change nothing.*--lr-rest"),
        ({"lr_rules": RULE, "freeze_rest": True, "lr_range": (1e-5, 1e-3)}, "--lr-range would change nothing.*--freeze-rest"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        options(**changes)
