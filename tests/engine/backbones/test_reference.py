import json
import os

import pytest

from tle.backbones.load import PreprocessOverrides
from tle.backbones.reference import backbone_reference
from tle.errors import BackboneError

ASKED = {"weights": "DEFAULT", "layer": None, "pool": None, "overrides": None}


def test_it_changes_with_everything_that_decides(tmp_path):
    base = backbone_reference("torchvision/resnet18", **ASKED)
    assert json.loads(json.dumps(base)) == base
    assert base["versions"].keys() >= {"tle", "torch", "torchvision"}
    for changes in (
        {"weights": "IMAGENET1K_V1"},
        {"layer": "layer3"},
        {"pool": "max"},
        {"overrides": PreprocessOverrides(crop=96)},
        {"overrides": PreprocessOverrides(mean=(0.0, 0.0, 0.0))},
    ):
        other = backbone_reference("torchvision/resnet18", **(ASKED | changes))
        assert other != base, changes
        assert json.loads(json.dumps(other)) == other
    assert backbone_reference("torchvision/resnet34", **ASKED) != base
    assert backbone_reference("torchvision/resnet18", **(ASKED | {"overrides": PreprocessOverrides()})) == base


def test_a_file_of_weights_that_changes_is_another(tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(b"one")
    asked = ASKED | {"weights": str(file)}
    before = backbone_reference("torchvision/resnet18", **asked)
    assert backbone_reference("torchvision/resnet18", **asked) == before
    os.utime(file, (1, 1))
    assert backbone_reference("torchvision/resnet18", **asked) != before
    file.unlink()
    with pytest.raises(BackboneError, match="no such weights file"):
        backbone_reference("torchvision/resnet18", **asked)


@pytest.mark.parametrize("name", ["mynets:make", "onnx:model.onnx", "timm/hf-hub:someone/model", "resnet18"])
def test_where_a_name_does_not_decide_there_is_none(name):
    assert backbone_reference(name, **ASKED) is None
