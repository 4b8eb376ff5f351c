import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tle.backbones.checkpoint import fit_state, is_file_reference, read_state, resolve
from tle.errors import BackboneError


class Small(nn.Module):
    def __init__(self, classes: int | None = 3) -> None:
        super().__init__()
        self.body = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5)
        self.fc = nn.Linear(5, classes) if classes else nn.Identity()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_usual_wrappings_of_a_checkpoint_are_undone(tmp_path, wrap, prefix):
    state = Small().state_dict()
    path = tmp_path / "weights.pth"
    torch.save(wrap({prefix + key: value for key, value in state.items()}), path)
    assert read_state(path).keys() == state.keys()


def test_safetensors_and_pth_hold_the_same(tmp_path):
    state = Small().state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    a, b = read_state(tmp_path / "a.pth"), read_state(tmp_path / "a.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


class Bomb:
    def __reduce__(self):
        return (open, ("pwned", "w"))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb()))
    torch.save({"weight": Bomb()}, tmp_path / "zip.pth")
    for name in ("bomb.pth", "zip.pth"):
        with pytest.raises(BackboneError, match="refused") as caught:
            read_state(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.pth", b""), ("a.pth", b"no checkpoint"), ("a.safetensors", b"\x08" * 40), ("a.pth", b"PK\3\4xx")],
)
def test_damaged_files_are_one_clear_line(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BackboneError) as caught:
        read_state(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_a_state_dict_is_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(BackboneError, match="state dict"):
        read_state(tmp_path / "list.pth")


def test_classifier_keys_that_do_not_fit_are_dropped_and_said():
    headless, state = Small(None), Small(7).state_dict()
    notes = fit_state(headless, state, classifiers=["fc"], origin="x.pth")
    assert torch.equal(headless.body.weight, state["body.weight"])
    assert len(notes) == 1
    assert "fc.bias, fc.weight" in notes[0]


def test_counters_of_old_batchnorm_checkpoints_may_be_missing():
    state = Small(None).state_dict()
    del state["norm.num_batches_tracked"]
    assert fit_state(Small(None), state, classifiers=[], origin="x.pth") == ()


def test_every_other_mismatch_is_an_error_that_names_the_keys():
    state = Small(7).state_dict()
    state["extra.weight"] = torch.zeros(1)
    state["body.weight"] = torch.zeros(2, 2)
    del state["norm.bias"]
    with pytest.raises(BackboneError) as caught:
        fit_state(Small(None), state, classifiers=["fc"], origin="x.pth")
    message = str(caught.value)
    for part in ("missing: norm.bias", "unexpected: extra.weight", "body.weight (2, 2) instead of (5, 4)"):
        assert part in message


def test_a_classifier_is_only_dropped_under_its_full_name():
    state = Small(None).state_dict() | {"fcx.weight": torch.zeros(1)}
    with pytest.raises(BackboneError, match="fcx.weight"):
        fit_state(Small(None), state, classifiers=["fc"], origin="x.pth")


def test_a_file_inside_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "carrier"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "models" / "a.pth").write_bytes(b"x")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:carrier/models/a.pth") == package / "models" / "a.pth"
    with pytest.raises(BackboneError, match="models/a.pth"):
        resolve("package:carrier/models/b.pth")
    with pytest.raises(BackboneError, match="pip install no-such-package"):
        resolve("package:no_such_package/a.pth")
    for escape in ("package:carrier/../secret.pth", "package:carrier", "package:/etc/passwd"):
        with pytest.raises(BackboneError):
            resolve(escape)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BackboneError, match="nowhere.pth"):
        resolve(str(tmp_path / "nowhere.pth"))


def test_names_of_published_weights_are_no_files():
    assert not is_file_reference("IMAGENET1K_V2")
    assert not is_file_reference("none")
    assert not is_file_reference("a1_in1k")
    assert is_file_reference("weights.pth")
    assert is_file_reference("package:p/f.bin")
