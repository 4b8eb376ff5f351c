"""One file for a finished classifier: the same network after a round trip, the same bytes, and refusals in one line."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

import tle
from tle.artefact import read_artefact, write_artefact
from tle.backbones.backbone import digest_state
from tle.bundle import DOCUMENT, MODEL_CARD, Bundle, describe_data, is_bundle, read_bundle, state_arrays, write_bundle
from tle.errors import BackboneError, FingerprintError, HeadError, OutputError, UsageError
from tle.heads.head import load_head

TRAINING = {
    "options": {"lr": 0.001, "epochs": 2},
    "groups": [
        {"name": "stem", "n_parameters": 10, "frozen": True},
        {"name": "head", "n_parameters": 6, "frozen": False},
    ],
    "history": [{"epoch": 0, "step": 0, "val_loss": 1.0}, {"epoch": 1, "step": 3, "val_loss": 0.5}],
}
PARTS = {
    "data": {"images": "/photos", "kind": "folder", "counts": {"train": 4, "val": 2}},
    "metrics": {"val": {"n": 2, "top1": 0.5, "top1_interval": [0.1, 0.9], "confusion": [[1, 0], [1, 0]]}},
    "training": TRAINING,
    "arrays": {"lr": np.arange(6.0).reshape(3, 2), "val_digests": np.array([7, 8], np.uint64)},
}


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, make_finetuned):
    return make_finetuned(tmp_path_factory.mktemp("bundle") / "a.tle", ["cat", "dog"], **PARTS)


@pytest.fixture
def frozen(tmp_path, make_images):
    make_images(tmp_path / "photos", ["cat", "dog"], 6, 48)
    small = tle.PreprocessOverrides(resize=40, crop=32)
    tle.extract(
        tmp_path / "photos", tmp_path / "c.h5", backbone="torchvision/resnet18", weights="none", overrides=small
    )
    return tle.fit_head(tmp_path / "c.h5", tmp_path / "c.head").path


def rewrite(path, output, change):
    """Write a classifier again with its document and tensors changed."""
    artefact = read_artefact(path, document_name=DOCUMENT, allowed=[MODEL_CARD])
    change(artefact.document, artefact.tensors)
    return write_artefact(output, artefact.document, artefact.tensors, artefact.files, document_name=DOCUMENT)


def test_all_comes_back_and_the_same_content_gives_the_same_bytes(finetuned, tmp_path):
    bundle = read_bundle(finetuned)
    assert bundle.head.classes == ("cat", "dog")
    assert bundle.head.spec["backbone"]["weights"] == "fine-tuned"
    assert bundle.base["weights"] == "none"
    assert (bundle.data, bundle.metrics, bundle.training) == (PARTS["data"], PARTS["metrics"], TRAINING)
    for name, array in PARTS["arrays"].items():
        np.testing.assert_array_equal(bundle.arrays[name], array)
        assert bundle.arrays[name].dtype == array.dtype
    assert write_bundle(tmp_path / "b.tle", bundle).read_bytes() == finetuned.read_bytes()


def test_a_fine_tuned_network_is_the_same_after_loading_and_has_no_note_about_random_weights(finetuned):
    bundle = read_bundle(finetuned)
    classifier = tle.load_classifier(finetuned)
    backbone = classifier.backbone
    assert (backbone.name, backbone.weights, backbone.notes) == ("torchvision/squeezenet1_1", "fine-tuned", ())
    assert backbone.spec() == bundle.head.spec["backbone"]
    for name, tensor in backbone.module.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), bundle.state[name])
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert not backbone.module.training


@pytest.mark.parametrize("name", ["timm/mobilenetv3_small_050", "mine:make"])
def test_other_providers(tmp_path, monkeypatch, make_finetuned, name):
    monkeypatch.chdir(tmp_path)
    code = (
        "from torch import nn\n"
        "def make():\n"
        "    first = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2)\n"
        "    return nn.Sequential(*first, nn.Flatten(), nn.Linear(16, 5))\n"
    )
    (tmp_path / "mine.py").write_text(code)
    path = make_finetuned(tmp_path / "a.tle", ["cat", "dog"], backbone=name)
    backbone = tle.load_classifier(path).backbone
    assert (backbone.name, backbone.weights) == (name, "fine-tuned")
    assert backbone.weights_digest == digest_state(backbone.module.state_dict(), backbone.code)
    assert not any("random weights" in note for note in backbone.notes)
    if name == "mine:make":
        (tmp_path / "mine.py").write_text(code + "# changed\n")
        with pytest.raises(FingerprintError, match="the code of its network was changed since"):
            tle.load_classifier(path)


def test_a_vision_transformer_of_another_size_is_built_for_that_size(tmp_path, make_finetuned):
    path = make_finetuned(tmp_path / "a.tle", ["cat", "dog"], backbone="timm/vit_tiny_patch16_384", crop=384)
    assert tle.load_classifier(path).backbone.dim == 192


def test_weights_cannot_be_named_for_a_classifier_that_holds_its_own(finetuned):
    with pytest.raises(UsageError, match="leave --weights out"):
        tle.load_classifier(finetuned, weights="none")


def test_changed_weights_are_found_out_when_the_network_is_built(finetuned, tmp_path):
    def change(document, tensors):
        name = next(name for name in tensors if name.startswith("backbone/") and name.endswith("weight"))
        tensors[name] = tensors[name] + np.float32(1e-3)

    path = rewrite(finetuned, tmp_path / "b.tle", change)
    with pytest.raises(FingerprintError, match="it is damaged"):
        tle.load_classifier(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(next(name for name in t if name.startswith("backbone/"))), "lacks weights of"),
        (lambda t: t.update({"backbone/more": np.zeros(3, np.float32)}), "unexpected: more"),
        (
            lambda t: t.update({name: t[name][:1] for name in t if name.endswith("bias") and "back" in name}),
            "other shape",
        ),
    ],
)
def test_weights_of_another_network(finetuned, tmp_path, change, message):
    path = rewrite(finetuned, tmp_path / "b.tle", lambda document, tensors: change(tensors))
    with pytest.raises(BackboneError, match=message) as caught:
        tle.load_classifier(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: d.update(format="x"), "not a classifier of tle"),
        (lambda d, t: d.update(version=9), "classifier version 9, this version of tle reads 1"),
        (lambda d, t: d.pop("head"), "head should be a JSON object"),
        (lambda d, t: d["head"].pop("kind"), "'kind'"),
        (lambda d, t: d["head"].update(dim=7), "'weight' of shape"),
        (lambda d, t: d.update(data=[]), "data should be a JSON object"),
        (lambda d, t: d.update(training=3), "training should be a JSON object or null"),
        (lambda d, t: d.update(metrics={"val": 3}), "metrics of 'val'"),
        (lambda d, t: d.update(fine_tuned=1), "fine_tuned should be true or false"),
        (lambda d, t: d.update(fine_tuned=False), "says that none was fine-tuned"),
        (lambda d, t: d.update(base=None), "comes with its weights and its base"),
        (lambda d, t: d["head"]["spec"]["backbone"].update(weights="DEFAULT"), "another with neither"),
        (lambda d, t: d["training"].update(groups=[]), r"learning rates \(steps, 0\)"),
        (lambda d, t: d["training"].update(history={}), "history should be a list"),
        (lambda d, t: d["training"].update(options=None), "options should be a JSON object"),
        (lambda d, t: d["training"].update(verdict="good"), "verdict should be a JSON object"),
        (lambda d, t: t.update({"array/lr": np.full((3, 2), np.nan)}), "finite float64"),
        (lambda d, t: t.update({"array/val_digests": np.zeros(2)}), "val_digests"),
        (lambda d, t: t.update({"other/x": np.zeros(2)}), "unexpected tensor 'other/x'"),
        (lambda d, t: t.update({"loose": np.zeros(2)}), "unexpected tensor 'loose'"),
        (lambda d, t: t.pop("head/bias"), "'bias'"),
    ],
)
def test_damaged_classifiers_are_refused_in_one_line(finetuned, tmp_path, change, message):
    path = rewrite(finetuned, tmp_path / "b.tle", change)
    with pytest.raises(HeadError, match=message) as caught:
        read_bundle(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec["backbone"].update(layer=3), "layer should be a text"),
        (lambda spec: spec["preprocess"].update(crop="big"), "preprocessing cannot be used"),
        (lambda spec: spec.update(preprocess=[1]), "preprocessing cannot be used"),
        (lambda spec: spec["backbone"].update(name="imported:clip"), "imported features"),
        (lambda spec: spec.update(decoder="other/1"), "decoded by 'other/1'"),
    ],
)
def test_a_backbone_that_is_described_badly(finetuned, tmp_path, change, message):
    path = rewrite(finetuned, tmp_path / "b.tle", lambda d, t: change(d["head"]["spec"]))
    with pytest.raises(tle.TleError, match=message) as caught:
        tle.load_classifier(path)
    assert "\n" not in str(caught.value)


def test_cut_and_scrambled_files_are_one_line(finetuned, tmp_path):
    whole = finetuned.read_bytes()
    rng = np.random.default_rng(0)
    for number in range(20):
        data = bytearray(whole[: rng.integers(1, len(whole))] if number % 2 else whole)
        for at in rng.integers(0, len(data), 5):
            data[at] ^= 255
        (tmp_path / "b.tle").write_bytes(data)
        with pytest.raises(HeadError) as caught:
            read_bundle(tmp_path / "b.tle")
        assert "\n" not in str(caught.value)


def test_no_entry_is_a_pickle_or_compressed(finetuned):
    with zipfile.ZipFile(finetuned) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist() == [DOCUMENT, "tensors.safetensors", MODEL_CARD]
        assert not any(archive.read(name).startswith(b"\x80") for name in archive.namelist())


def test_a_head_and_a_classifier_are_told_by_content_not_by_name(frozen, finetuned, tmp_path):
    assert is_bundle(finetuned)
    assert not is_bundle(frozen)
    assert not is_bundle(tmp_path / "nowhere")
    assert not is_bundle(tmp_path)
    renamed = tmp_path / "odd.head"
    renamed.write_bytes(finetuned.read_bytes())
    assert tle.load_classifier(renamed).head.classes == ("cat", "dog")
    with pytest.raises(HeadError, match="unexpected entry"):
        load_head(finetuned)
    with pytest.raises(HeadError, match="unexpected entry"):
        read_bundle(frozen)


def test_a_frozen_classifier_predicts_as_its_head(frozen, tmp_path):
    write_bundle(tmp_path / "c.tle", Bundle(head=load_head(frozen)))
    ours, theirs = (
        np.concatenate([batch.scores for batch in tle.load_classifier(path).predict(tmp_path / "photos")])
        for path in (tmp_path / "c.tle", frozen)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert (tmp_path / "c.tle").stat().st_size < 100_000


def test_the_head_of_a_fine_tuned_backbone_alone_is_not_enough(finetuned, tmp_path):
    path = read_bundle(finetuned).head.save(tmp_path / "alone.head")
    with pytest.raises(HeadError, match="without its weights"):
        tle.load_classifier(path)


def test_parts_that_do_not_belong_together_are_not_written(finetuned, tmp_path):
    bundle = read_bundle(finetuned)
    for changes in ({"state": None}, {"base": None}, {"training": {**TRAINING, "groups": [1]}}, {"training": None}):
        with pytest.raises(HeadError):
            write_bundle(tmp_path / "b.tle", replace(bundle, **changes))
    assert not (tmp_path / "b.tle").exists()


def test_an_existing_file_is_kept_where_it_may_not_be_replaced(finetuned, tmp_path):
    (tmp_path / "b.tle").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write_bundle(tmp_path / "b.tle", read_bundle(finetuned), overwrite=False)
    assert (tmp_path / "b.tle").read_text() == "mine"


def test_state_arrays_are_copies_and_of_types_that_numpy_has():
    layer = torch.nn.BatchNorm1d(3)
    state = state_arrays(layer)
    with torch.no_grad():
        layer.weight.zero_()
    np.testing.assert_array_equal(state["weight"], 1)
    with pytest.raises(HeadError, match="bfloat16"):
        state_arrays(layer.to(torch.bfloat16))


def test_pictures_are_described_by_split_and_class(tmp_path, make_images):
    root = make_images(tmp_path / "p", ["cat", "dog"], 3, 16, splits=["train", "val"])
    described = describe_data(tle.open_source(root))
    assert described == {
        "images": str(root),
        "kind": "folder",
        "counts": {"train": 6, "val": 6},
        "classes": {name: {"train": 3, "val": 3} for name in ("cat", "dog")},
    }
    assert json.loads(json.dumps(described)) == described


def test_a_summary_is_for_people_and_for_json(finetuned):
    summary = json.loads(json.dumps(read_bundle(finetuned).summary()))
    assert summary["fine_tuned"] is True
    assert summary["training"]["last_epoch"]["epoch"] == 1
    assert "confusion" not in summary["metrics"]["val"]
    assert summary["backbone"]["weights"] == "fine-tuned"
