import numpy as np
import pytest
import torch

from tle.finetuning.network import Network, public_name
from tle.heads.affine import Affine, Link
from tle.runtimes.pixel_graph import pixel_graph


@pytest.mark.parametrize("unit_rows", [False, True])
def test_logits_are_those_of_the_head_on_the_features(tiny, pictures, unit_rows):
    rng = np.random.default_rng(0)
    layer = Affine(rng.normal(size=(5, 24)).astype("f"), rng.normal(size=5).astype("f"), Link.SOFTMAX, unit_rows)
    network = Network(tiny, 5, unit_rows=unit_rows).eval()
    network.set_head(layer)
    pixels = torch.from_numpy(pictures(6))
    with torch.no_grad():
        features = pixel_graph(tiny)(pixels).numpy()
        found = network(pixels).numpy()
    np.testing.assert_allclose(found, layer.logits(features), atol=1e-5)
    assert network(pixels.float()).dtype == torch.float32  # what mixing gives
    assert network(pixels[:0]).shape == (0, 5)


def test_a_row_of_zeros_has_no_length_and_stays_zero(make_backbone, pictures):
    class Nothing(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * 0.0

    network = Network(make_backbone(Nothing(), 3), 2, unit_rows=True)
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(pictures(2))), network.head.bias.expand(2, 2))


def test_the_head_computes_in_float32_under_autocast(tiny, pictures):
    network = Network(tiny, 5).eval()
    seen = []
    network.head.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0].dtype, output.dtype)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert network(torch.from_numpy(pictures(2))).dtype == torch.float32
    assert seen == [torch.float32, torch.float32]


def test_parameters_have_the_names_that_users_know(tiny):
    names = Network(tiny, 5).public_parameters().keys()
    assert names == {name for name, _ in tiny.module.named_parameters()} | {"head.weight", "head.bias"}
    assert public_name("body.body.layer4.0.conv1.weight") == "layer4.0.conv1.weight"
    assert public_name("embody.weight") == "embody.weight"
