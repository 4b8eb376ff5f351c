import socket

import pytest
import torch
import torchvision

from tle.backbones.load import load_backbone
from tle.backbones.torchvision_models import load, names
from tle.errors import BackboneError


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


def test_damaged_weights_are_called_damaged(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["conv1.weight"] = state["conv1.weight"] * torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(BackboneError, match="not finite"):
        load_backbone("torchvision/resnet18", weights=str(tmp_path / "nan.pth"))


def test_without_a_network_nothing_is_announced(tmp_path, monkeypatch, capfd):
    """torch hub would write its "Downloading: ..." before it fails."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path), raising=False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def no_network(*arguments):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(BackboneError, match=r"download\.pytorch\.org.*resnet18-f37072fd\.pth") as caught:
        load("resnet18", "DEFAULT")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_classifier_is_cut_and_named():
    loaded = load("resnet18", "none")
    assert loaded.cut == "fc"
    assert isinstance(loaded.model.fc, torch.nn.Identity)
    assert "resnet18" in names()
    assert "fcn_resnet50" not in names(), "segmentation"
    assert loaded.preprocess.crop == tuple(torchvision.models.ResNet18_Weights.DEFAULT.transforms().crop_size) * 2
