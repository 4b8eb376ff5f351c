"""What is in train mode, seen by what moves and what does not."""

import copy

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from tle.backbones.load import load_backbone
from tle.errors import UsageError
from tle.finetuning.batchnorm import POLICIES, apply_mode, batchnorm_parameters, is_batchnorm


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.25), nn.ReLU(), nn.Dropout(0.5))
        self.top = nn.Sequential(
            nn.Conv2d(4, 4, 3), timm.layers.BatchNormAct2d(4), FrozenBatchNorm2d(4), nn.Dropout(0.5)
        )

    def forward(self, x):
        return self.top(self.low(x)).mean((2, 3))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Small()


LOW = frozenset({"low.0.weight", "low.0.bias", "low.1.weight", "low.1.bias"})
PICTURES = torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def train(network, frozen=frozenset(), steps=3):
    """Some steps of SGD on what is not frozen; names of the state dict's entries that moved."""
    before = copy.deepcopy(network.state_dict())
    trained = [value for name, value in network.named_parameters() if name not in frozen]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        network(PICTURES).square().sum().backward()
        optimizer.step()
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def statistics(moved):
    return {name for name in moved if "running" in name or "batches" in name}


def of(*layers):
    return {f"{layer}.{name}" for layer in layers for name in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("policy", ["eval", "frozen-affine"])
def test_statistics_stay_bit_identical(network, policy):
    apply_mode(network, (), policy)
    moved = train(network)
    assert not statistics(moved)
    assert {"low.0.weight", "low.1.weight", "top.1.weight"} <= moved
    assert network.low[3].training
    assert network.top[3].training


def test_statistics_move_where_batchnorm_trains(network):
    apply_mode(network, (), "train")
    with torch.no_grad():
        entering = network.low[0](PICTURES)
        network(PICTURES)
    torch.testing.assert_close(network.low[1].running_mean, 0.25 * entering.mean((0, 2, 3)))  # by its own momentum
    assert statistics(train(network)) == of("low.1", "top.1")


def test_frozen_parts_keep_their_statistics_and_their_dropout_is_off(network):
    apply_mode(network, LOW, "train")
    assert statistics(train(network, LOW)) == of("top.1")
    assert not network.low[3].training
    assert network.top[3].training
    with torch.no_grad():
        assert torch.equal(network.low(PICTURES), network.low(PICTURES))


def test_batchnorm_alone_can_be_frozen(network):
    frozen = batchnorm_parameters(network)
    assert frozen == {"low.1.weight", "low.1.bias", "top.1.weight", "top.1.bias"}
    apply_mode(network, frozen, "train")
    moved = train(network, frozen)
    assert not statistics(moved)
    assert moved == {"low.0.weight", "low.0.bias", "top.0.weight", "top.0.bias"}


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_called_before_does_not_matter(network, policy):
    apply_mode(network, LOW, policy)
    modes = [child.training for child in network.modules()]
    for call in (network.train, network.eval, network.low.train, network.top.eval):
        call()
        apply_mode(network, LOW, policy)
        assert [child.training for child in network.modules()] == modes


def test_layers_that_are_released_train(network):
    apply_mode(network, LOW, "train")
    apply_mode(network, (), "train")
    assert statistics(train(network)) == of("low.1", "top.1")


def test_a_network_frozen_as_a_whole_is_in_eval_mode(network):
    apply_mode(network, [name for name, _ in network.named_parameters()], "train")
    assert not any(child.training for child in network.modules())


def test_batchnorm_is_told_from_other_normalisation():
    layers = {
        nn.BatchNorm1d(2): True,
        nn.SyncBatchNorm(2): True,
        timm.layers.BatchNormAct2d(2): True,
        FrozenBatchNorm2d(2): False,
        nn.GroupNorm(1, 2): False,
        nn.InstanceNorm2d(2): False,
        nn.LayerNorm(2): False,
    }
    assert {layer: is_batchnorm(layer) for layer in layers} == layers


def test_an_unknown_policy_is_refused(network):
    with pytest.raises(UsageError, match="--bn takes eval, train, frozen-affine, got 'off'"):
        apply_mode(network, (), "off")


@pytest.mark.parametrize(("name", "layer"), [("timm/test_resnet", None), ("torchvision/resnet18", "layer2")])
def test_loaded_backbones_are_known_by_their_public_names(name, layer):
    backbone = load_backbone(name, weights="none", layer=layer)
    module = backbone.module
    names = batchnorm_parameters(module)
    assert {"bn1.weight", "layer1.0.bn1.bias"} <= names
    assert not any(found.startswith("body.") for found in names)
    stem = {"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"}
    apply_mode(module, stem, "train")
    states = {child for child in module.modules() if is_batchnorm(child) and not child.training}
    assert states == {module.get_submodule("body.bn1")}
    before = copy.deepcopy(module.state_dict())
    module(torch.randn(4, 3, *backbone.preprocess.crop))
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"body.{found}" for found in of(*{name.rpartition(".")[0] for name in names - stem})}


def test_auxiliary_classifiers_do_not_run():
    module = load_backbone("torchvision/googlenet", weights="none").module
    apply_mode(module, (), "train")
    assert module.inception4a.branch1.bn.training
    assert module(torch.randn(2, 3, 64, 64)).shape == (2, 1024)
