"""A fine-tuned network is built without its published weights, whatever these were."""

from dataclasses import replace

import pytest

import tle
from tle.backbones import torchvision_models
from tle.bundle import read_bundle, write_bundle
from tle.tuning.memory import ChoiceMemory


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, make_finetuned):
    path = make_finetuned(tmp_path_factory.mktemp("f") / "a.tle", ["cat", "dog"], backbone="timm/mobilenetv3_small_050")
    return read_bundle(path)


@pytest.mark.parametrize(
    "weights", ["lamb_in1k", "none", "DEFAULT", "/gone/weights.pth", "package:gone/weights.pth", "fine-tuned"]
)
def test_neither_a_network_nor_a_file_is_needed_for_the_weights_it_came_from(bundle, tmp_path, monkeypatch, weights):
    def refuse(*_):
        raise AssertionError("looked for weights")

    monkeypatch.setattr("tle.backbones.timm_models._pretrained", refuse)
    path = write_bundle(tmp_path / "a.tle", replace(bundle, base={**bundle.base, "weights": weights}))
    assert tle.load_classifier(path).backbone.name == "timm/mobilenetv3_small_050"


def test_a_vision_transformer_is_built_for_the_size_that_its_weights_were_for():
    assert torchvision_models.load("vit_b_16", "none", crop=(64, 64)).model.image_size == 64
    assert torchvision_models.load("vit_b_16", "none").model.image_size == 224


def test_what_was_measured_of_its_base_is_not_taken_for_it(bundle, tmp_path):
    path = write_bundle(tmp_path / "a.tle", bundle)
    ours = tle.load_classifier(path).backbone
    theirs = tle.load_backbone(ours.name, weights="none", overrides=ours.preprocess)
    keys = {ChoiceMemory(backbone, device="cpu", replicas=1)._key for backbone in (ours, theirs)}
    assert len(keys) == 2
