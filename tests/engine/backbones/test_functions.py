import sys

import pytest
import torch

from tle.backbones.load import PreprocessOverrides, load_backbone
from tle.errors import BackboneError, UsageError

SMALL = PreprocessOverrides(resize=32, crop=32)


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


def test_random_weights_of_a_function_are_the_same_in_every_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unseeded.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 2))\n"
    )
    torch.manual_seed(1)
    a = load_backbone("unseeded:make", overrides=SMALL)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert load_backbone("unseeded:make", overrides=SMALL).weights_digest == a.weights_digest
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's generator was moved"
    assert any("noticed in unseeded.py" in note for note in a.notes)


def test_the_identity_covers_the_class_and_not_the_folder(tmp_path, monkeypatch):
    """The function and its network in two files; moved elsewhere they are the same, changed they are not."""
    digests = []
    for folder, pool in (("b", "Avg"), ("a", "Avg"), ("c", "Max")):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        (tmp_path / folder / "zclass.py").write_text(
            "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            f"        self.pool, self.fc = nn.Adaptive{pool}Pool2d(1), nn.Linear(3, 2)\n"
            "    def forward(self, x):\n        return self.fc(self.pool(x).flatten(1))\n"
        )
        (tmp_path / folder / "amake.py").write_text("def make():\n    from zclass import Net\n    return Net()\n")
        path = list(sys.path)
        digests.append(load_backbone("amake:make", overrides=SMALL).weights_digest)
        assert sys.path == path
        for name in ("zclass", "amake"):
            del sys.modules[name]
    assert digests[0] == digests[1] != digests[2]


def test_code_that_leaves_the_folder_or_the_program_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wanderer.py").write_text("import os\nos.chdir('/')\ndef make(size):\n    return size\n")
    (tmp_path / "script.py").write_text("import sys\nsys.exit('usage: script.py FILE')\n")
    path = list(sys.path)
    for name, message in (("wanderer:make", "missing 1 required"), ("script:make", r"usage: script\.py")):
        with pytest.raises(BackboneError, match=message) as caught:
            load_backbone(name)
        assert "\n" not in str(caught.value)
        assert sys.path == path
        monkeypatch.chdir(tmp_path)
