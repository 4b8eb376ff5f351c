import os

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import tle
from tle.enums import Status
from tle.errors import (
    AllImagesFailedError,
    BackboneError,
    FingerprintError,
    ImageError,
    OutputError,
    RuntimeChoiceError,
    SourceError,
    UsageError,
)

SMALL = tle.PreprocessOverrides(resize=40, crop=32)
OPTIONS = {"backbone": "torchvision/resnet18", "weights": "none", "overrides": SMALL}


@pytest.fixture
def photos(tmp_path, make_images):
    root = tmp_path / "photos"
    make_images(root, ["cat", "dog"], 5, 48)
    return root


def test_features_are_those_of_a_plain_script(tmp_path, photos):
    """ImageFolder, the weights' own kind of transforms, a plain module: the loop that everybody writes."""
    result = tle.extract(photos, tmp_path / "c.h5", **OPTIONS)
    cache = tle.open_cache(result.path)
    transforms = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(40),
            torchvision.transforms.CenterCrop(32),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    folder = torchvision.datasets.ImageFolder(photos, transforms)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.resnet18(weights=None).eval()
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = model(torch.stack([image for image, _ in folder])).numpy()
    assert list(cache.ids) == [os.path.relpath(path, photos) for path, _ in folder.samples]
    assert cache.labels.tolist() == folder.targets
    assert list(cache.classes) == folder.classes
    np.testing.assert_allclose(cache.features, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("bad", [0, 3, 9])
def test_a_bad_picture_is_recorded_and_every_other_row_stays_in_its_place(tmp_path, photos, bad):
    good = tle.open_cache(tle.extract(photos, tmp_path / "good.h5", **OPTIONS).path)
    broken = photos / good.ids[bad]
    broken.write_bytes(broken.read_bytes()[:200])
    result = tle.extract(photos, tmp_path / "bad.h5", execution=tle.Execution(batch_size=4), **OPTIONS)
    cache = tle.open_cache(result.path)
    assert (result.n_images, result.n_failed) == (10, 1)
    assert cache.ids == good.ids
    assert cache.labels.tolist() == good.labels.tolist()
    assert cache.failures[0][0] == bad
    assert cache.failures[0][1]
    rest = np.arange(10) != bad
    assert cache.status[bad] == Status.FAILED
    assert cache.valid.tolist() == rest.tolist()
    np.testing.assert_allclose(cache.features[rest], good.features[rest], rtol=1e-3, atol=1e-4)


def test_a_picture_that_vanishes_during_the_run_is_a_failure(tmp_path, photos):
    source = tle.open_source(photos)
    (photos / source.ids[2]).unlink()
    from tle.backbones.load import load_backbone
    from tle.pipeline import Decoding, run
    from tle.runtimes.runtime import open_runtime

    backbone = load_backbone("torchvision/resnet18", weights="none", overrides=SMALL)
    decoding = Decoding(preprocess=backbone.preprocess, decoder="turbo/1", max_pixels=10**6)
    batches = list(run(source, open_runtime(backbone), decoding, batch_size=3, dim=backbone.dim, workers=2))
    assert [failure.index for batch in batches for failure in batch.failures] == [2]
    assert sorted(i for batch in batches for i in batch.indices.tolist()) == [0, 1, 3, 4, 5, 6, 7, 8, 9]


def test_strict_stops_at_the_first_bad_picture_and_leaves_nothing(tmp_path, photos):
    (photos / "cat" / "zzz.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"zzz\.jpg.*--strict"):
        tle.extract(photos, tmp_path / "c.h5", strict=True, **OPTIONS)
    assert sorted(os.listdir(tmp_path)) == ["photos"]


def test_when_all_fail_the_reasons_are_kept(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"no picture")
    with pytest.raises(AllImagesFailedError, match="all 2 pictures"):
        tle.extract(tmp_path / "photos", tmp_path / "c.h5", **OPTIONS)
    assert len(tle.open_cache(tmp_path / "c.h5").failures) == 2


def test_pictures_over_the_limit_are_recorded_without_being_decoded(tmp_path, photos):
    Image.new("RGB", (300, 300)).save(photos / "cat" / "big.png")
    result = tle.extract(photos, tmp_path / "c.h5", execution=tle.Execution(max_pixels=50_000), **OPTIONS)
    cache = tle.open_cache(result.path)
    assert [cache.ids[index] for index, _ in cache.failures] == ["cat/big.png"]
    assert "90,000" in cache.failures[0][1] or "90000" in cache.failures[0][1]


def test_the_batch_size_and_the_threads_change_nothing(tmp_path, photos):
    a = tle.open_cache(
        tle.extract(
            photos, tmp_path / "a.h5", execution=tle.Execution(batch_size=1, workers=1, precision="float32"), **OPTIONS
        ).path
    )
    b = tle.open_cache(
        tle.extract(
            photos, tmp_path / "b.h5", execution=tle.Execution(batch_size=64, workers=4, precision="float32"), **OPTIONS
        ).path
    )
    np.testing.assert_allclose(a.features, b.features, rtol=1e-3, atol=1e-4)
    assert a.digests.tolist() == b.digests.tolist()


def test_both_runtimes_make_the_same_features(tmp_path, photos):
    a = tle.open_cache(
        tle.extract(
            photos, tmp_path / "a.h5", execution=tle.Execution(runtime="torch", precision="float32"), **OPTIONS
        ).path
    )
    b = tle.open_cache(
        tle.extract(photos, tmp_path / "b.h5", execution=tle.Execution(runtime="onnxruntime"), **OPTIONS).path
    )
    assert np.abs(a.features - b.features).max() <= 1e-4 * np.abs(a.features).max()
    assert a.fingerprint == b.fingerprint
    assert "onnxruntime" in b.run["runtime"]


def test_running_it_again_does_nothing(tmp_path, photos):
    path = tmp_path / "c.h5"
    assert not tle.extract(photos, path, **OPTIONS).already_done
    before = path.stat().st_mtime_ns
    assert tle.extract(photos, path, **OPTIONS).already_done
    assert path.stat().st_mtime_ns == before


def test_another_backbone_is_refused_and_named(tmp_path, photos):
    path = tmp_path / "c.h5"
    tle.extract(photos, path, **OPTIONS)
    before = path.read_bytes()
    for changes, what in (
        ({"backbone": "torchvision/resnet34"}, "name: torchvision/resnet34 instead of torchvision/resnet18"),
        ({"overrides": tle.PreprocessOverrides(resize=40, crop=40)}, "crop"),
        ({"layer": "layer3"}, "layer: layer3 instead of penultimate"),
        ({"dtype": "float16"}, "dtype: float16 instead of float32"),
    ):
        with pytest.raises(FingerprintError, match=what):
            tle.extract(photos, path, **(OPTIONS | changes))
    assert path.read_bytes() == before
    tle.extract(photos, path, overwrite=True, **(OPTIONS | {"layer": "layer3"}))
    assert tle.open_cache(path).dim == 256


def test_float16_halves_the_cache_and_keeps_the_features(tmp_path, photos):
    full = tle.open_cache(tle.extract(photos, tmp_path / "a.h5", **OPTIONS).path)
    half = tle.open_cache(tle.extract(photos, tmp_path / "b.h5", dtype="float16", **OPTIONS).path)
    assert half.features.nbytes * 2 == full.features.nbytes
    assert half.fingerprint == full.fingerprint
    np.testing.assert_allclose(half.features, full.features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"dtype": "int8"}, UsageError, "--dtype"),
        ({"execution": tle.Execution(runtime="tensorflow")}, RuntimeChoiceError, "--runtime takes auto, torch"),
        ({"execution": tle.Execution(precision="float8")}, RuntimeChoiceError, "--precision takes auto, float32"),
        ({"execution": tle.Execution(runtime="torch", precision="int8")}, RuntimeChoiceError, "takes --precision"),
        ({"target": "sound"}, UsageError, "sound"),
        ({"backbone": "torchvision/resnet999"}, BackboneError, "near names"),
        ({"weights": "nowhere.pth"}, BackboneError, "nowhere.pth"),
    ],
)
def test_bad_options_are_one_line_before_any_work(tmp_path, photos, changes, kind, message):
    with pytest.raises(kind, match=message) as caught:
        tle.extract(photos, tmp_path / "c.h5", **(OPTIONS | changes))
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["photos"]


def test_missing_inputs_and_outputs_are_one_line(tmp_path, photos):
    with pytest.raises(SourceError, match="no such folder"):
        tle.extract(tmp_path / "nowhere", tmp_path / "c.h5", **OPTIONS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError):
        tle.extract(tmp_path / "empty", tmp_path / "c.h5", **OPTIONS)
    with pytest.raises(OutputError, match="does not exist"):
        tle.extract(photos, tmp_path / "no" / "c.h5", **OPTIONS)


def test_features_that_are_not_finite_are_failures(tmp_path, photos, monkeypatch):
    (tmp_path / "nannet.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.where(x[:, :1].amax((2, 3)) < -2, torch.nan, 1.0) * x.mean((2, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save(photos / "dog" / "black.png")
    result = tle.extract(photos, tmp_path / "c.h5", backbone="nannet:Net", layer="output", overrides=SMALL)
    cache = tle.open_cache(result.path)
    assert [(cache.ids[index], reason) for index, reason in cache.failures] == [
        ("dog/black.png", "the backbone's features of it are not finite")
    ]
    assert np.isfinite(cache.features[cache.valid]).all()


def test_an_earlier_run_ends_as_it_did_then(tmp_path, photos):
    """What failed is not forgotten because the cache is there: same exit, and another limit is another question."""
    (photos / "cat" / "bad.jpg").write_bytes(b"no picture")
    path = tmp_path / "c.h5"
    assert tle.extract(photos, path, **OPTIONS).n_failed == 1
    assert tle.extract(photos, path, **OPTIONS).n_failed == 1
    with pytest.raises(ImageError, match="without --strict"):
        tle.extract(photos, path, strict=True, **OPTIONS)
    with pytest.raises(OutputError, match="--max-pixels 178956970, now it is 5000"):
        tle.extract(photos, path, execution=tle.Execution(max_pixels=5000), **OPTIONS)
    with pytest.raises(AllImagesFailedError):
        tle.extract(photos, path, execution=tle.Execution(max_pixels=5), overwrite=True, **OPTIONS)
    with pytest.raises(AllImagesFailedError):
        tle.extract(photos, path, execution=tle.Execution(max_pixels=5), **OPTIONS)


def test_the_manifest_is_not_overwritten_by_its_own_cache(tmp_path, photos):
    manifest = photos / "m.csv"
    manifest.write_text("path\ncat/000.jpg\n")
    with pytest.raises(OutputError, match="read by this very command"):
        tle.extract(manifest, manifest, overwrite=True, **OPTIONS)
    assert manifest.read_text() == "path\ncat/000.jpg\n"
