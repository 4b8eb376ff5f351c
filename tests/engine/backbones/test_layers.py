import pytest
import torch
import torchvision
from torch import nn

from tle.backbones.layers import channel_axis, cut_layer, list_layers
from tle.backbones.penultimate import probe_images
from tle.errors import BackboneError, UsageError


@pytest.fixture(scope="module")
def resnet():
    return torchvision.models.resnet18(weights=None).eval()


def test_layers_come_in_order_with_their_shapes(resnet):
    shapes = {layer.name: layer.shape for layer in list_layers(resnet, probe_images((64, 64)))}
    assert shapes["conv1"] == (64, 32, 32)
    assert shapes["layer3.1.relu_1"] == (256, 4, 4)
    assert shapes["flatten"] == (512,)
    assert list(shapes).index("layer1.0.conv1") < list(shapes).index("layer4.1.bn2")


@pytest.mark.parametrize(("pool", "reduce"), [("avg", lambda m: m.mean((2, 3))), ("max", lambda m: m.amax((2, 3)))])
def test_a_cut_equals_a_hook_on_the_module(resnet, pool, reduce):
    example, seen = probe_images((64, 64)), []
    handle = resnet.layer3.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    with torch.inference_mode():
        resnet(example)
    handle.remove()
    module, kind, dim = cut_layer(resnet, "layer3", pool, example)
    with torch.inference_mode():
        features = module(example)
    assert (kind, dim) == (pool, 256)
    assert torch.allclose(features, reduce(seen[0]), atol=1e-5)


def test_no_pooling_flattens(resnet):
    module, kind, dim = cut_layer(resnet, "layer4", "none", probe_images((64, 64)))
    assert (kind, dim) == ("none", 512 * 2 * 2)
    assert module(probe_images((64, 64))).shape == (2, 2048)


def test_an_unknown_layer_gets_near_names(resnet):
    with pytest.raises(BackboneError, match=r"near names: .*layer4"):
        cut_layer(resnet, "layer44", None, probe_images((64, 64)))


def test_pools_that_do_not_fit_are_refused(resnet):
    example = probe_images((64, 64))
    with pytest.raises(BackboneError, match="cls needs class tokens"):
        cut_layer(resnet, "layer4", "cls", example)
    with pytest.raises(BackboneError, match="nothing to pool"):
        cut_layer(resnet, "flatten", "avg", example)
    with pytest.raises(UsageError, match="median"):
        cut_layer(resnet, "layer4", "median", example)


class Tokens(nn.Module):
    """Two prefix tokens, then four patches; every token is a constant times the picture's mean."""

    def forward(self, x):
        mean = x.mean((1, 2, 3)).reshape(-1, 1, 1)
        return mean * torch.arange(1.0, 7.0).reshape(1, 6, 1).expand(1, 6, 3)


@pytest.mark.parametrize(
    ("pool", "expected"), [("cls", [1.0]), ("avg", [4.5]), ("max", [6.0]), ("cls+avg", [1.0, 4.5]), (None, [1.0])]
)
def test_token_pools_leave_registers_out(pool, expected):
    module, _, dim = cut_layer(Tokens(), "mul", pool, torch.ones(2, 3, 4, 4), prefix_tokens=2)
    features = module(torch.ones(2, 3, 4, 4))
    assert dim == 3 * len(expected)
    assert features[0].reshape(-1, 3)[:, 0].tolist() == pytest.approx(expected)


def test_channels_last_maps_are_pooled_over_space():
    assert channel_axis((2, 7, 7, 768), (224, 224)) == 3
    assert channel_axis((2, 7, 6, 768), (224, 192)) == 3
    assert channel_axis((2, 768, 7, 6), (224, 192)) == 1
    assert channel_axis((2, 512, 7, 7), (224, 224)) == 1
    assert channel_axis((2, 512, 1, 1), (32, 32)) == 1
    assert channel_axis((2, 197, 768), (224, 224)) == 2
    swin = torchvision.models.swin_t(weights=None).eval()
    assert cut_layer(swin, "features.7", "avg", probe_images((64, 64)))[2] == 768


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_traced_is_one_line():
    with pytest.raises(BackboneError, match="cannot be traced") as caught:
        list_layers(Branching(), probe_images((8, 8)))
    assert "\n" not in str(caught.value)


def test_a_size_that_does_not_run_names_the_network():
    vit = torchvision.models.vit_b_32(weights=None).eval()
    with pytest.raises(BackboneError, match="VisionTransformer does not run on 64x64"):
        list_layers(vit, probe_images((64, 64)))
