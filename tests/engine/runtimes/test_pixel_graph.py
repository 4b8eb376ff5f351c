import copy

import numpy as np
import pytest
import torch
from torch import nn

from tle.errors import RuntimeChoiceError
from tle.runtimes.pixel_graph import pixel_graph
from tle.runtimes.plan import Plan

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Channels(nn.Module):
    """Mean of each channel: shows what the normalisation did."""

    def forward(self, x):
        return x.mean((2, 3))


class Branching(nn.Module):
    """A network that torch.fx cannot trace."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))

    def forward(self, x):
        y = self.body(x).mean((2, 3))
        return y if y.sum() > 1e9 else 2 * y


def normalisations(graph):
    return [layer for layer in graph.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_normalisation_channel_order_and_layout_are_inside(make_backbone, pictures, channels):
    backbone = make_backbone(Channels(), 3, mean=MEAN, std=STD, channels=channels)
    pixels = pictures(3)
    features = pixel_graph(backbone)(torch.from_numpy(pixels))
    ordered = pixels if channels == "rgb" else pixels[..., ::-1]
    expected = ((ordered / 255.0 - np.array(MEAN)) / np.array(STD)).mean((1, 2))
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_in_32_bits_the_module_itself_is_run(tiny, precision):
    assert pixel_graph(tiny, precision).body is tiny.module


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_fewer_bits_work_on_a_copy(tiny, pictures, precision):
    before = copy.deepcopy(tiny.module.state_dict())
    names = [name for name, _ in tiny.module.named_modules()]
    graph = pixel_graph(tiny, precision)
    with torch.inference_mode():
        features = graph(torch.from_numpy(pictures(2)))
    assert features.dtype == torch.float32
    assert {tensor.dtype for tensor in graph.body.parameters()} == {getattr(torch, precision)}
    assert [name for name, _ in tiny.module.named_modules()] == names
    assert not tiny.module.training
    for name, tensor in tiny.module.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_batchnorm_is_folded_in_float32_before_the_cast(make_backbone, pictures):
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers[1].running_mean.uniform_(-1, 1)
    layers[1].running_var.uniform_(0.5, 2)
    layers[1].weight.data.uniform_(0.5, 2)
    backbone = make_backbone(layers, 6)
    graph = pixel_graph(backbone, "bfloat16")
    assert normalisations(backbone.module)
    assert not normalisations(graph)
    pixels = torch.from_numpy(pictures(4))
    with torch.inference_mode():
        a, b = graph(pixels), pixel_graph(backbone)(pixels)
    assert torch.nn.functional.cosine_similarity(a, b).min() > 0.999


def test_a_network_that_cannot_be_traced_keeps_its_batchnorm(make_backbone, check_runtime):
    backbone = make_backbone(Branching(), 5)
    assert normalisations(pixel_graph(backbone, "bfloat16"))
    check_runtime(backbone, Plan(runtime="torch", precision="bfloat16", batch_size=3), 0.999)


@pytest.mark.parametrize(("precision", "least"), [("float32", None), ("bfloat16", 0.999)])
def test_torch_makes_the_features_of_the_reference(tiny, check_runtime, precision, least):
    runtime = check_runtime(tiny, Plan(runtime="torch", precision=precision, batch_size=4, replicas=2), least)
    assert runtime.batch is None


def test_an_onnx_graph_has_no_module(make_onnx_backbone):
    with pytest.raises(RuntimeChoiceError, match="--runtime onnxruntime or openvino"):
        pixel_graph(make_onnx_backbone())
