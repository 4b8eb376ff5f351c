"""What a user may fix, and what becomes of it from the extraction to the prediction."""

import json
from pathlib import Path

import numpy as np
import pytest

import tle
from tle.cores import usable_cores
from tle.errors import FingerprintError, RuntimeChoiceError, UsageError
from tle.execution import Execution
from tle.images import EXACT_DECODER, FAST_DECODER

OPTIONS = {
    "backbone": "torchvision/resnet18",
    "weights": "none",
    "overrides": tle.PreprocessOverrides(resize=40, crop=32),
}
LOSSY = """
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        return (x.mean((2, 3)) + 4096.0) - 4096.0
"""


@pytest.fixture
def photos(tmp_path, make_images):
    return make_images(tmp_path / "photos", ["cat", "dog"], 6, 48)


@pytest.fixture
def extract(photos):
    """extract(name, precision, **options): a cache of the photos beside them."""

    def run(name, precision="auto", *, overwrite=False, images=photos, **execution):
        execution = {"workers": 2, "device": "cpu", "precision": precision} | execution
        output = photos.parent / name
        return tle.extract(images, output, execution=Execution(**execution), overwrite=overwrite, **OPTIONS)

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size takes 1 or more, got 0"),
        ({"workers": -1}, "--workers takes 1 or more, got -1"),
        ({"max_pixels": 0}, "--max-pixels takes 1 or more, got 0"),
        ({"min_cosine": 2}, "--min-cosine takes a number from -1 to 1, got 2"),
        ({"min_cosine": float("nan")}, "--min-cosine takes a number from -1 to 1, got nan"),
        ({"tuning_limit_s": -1}, "--tuning-limit-s takes 0 or more seconds, got -1"),
        ({"tuning_limit_s": float("nan")}, "--tuning-limit-s takes 0 or more seconds, got nan"),
        ({"exact_decode": True, "gpu_decode": True}, "exclude each other"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Execution(**options)


def test_what_is_left_open_has_a_default():
    assert Execution().threads == usable_cores()
    assert Execution(workers=3).threads == 3
    assert Execution().decoder == FAST_DECODER
    assert Execution(exact_decode=True).decoder == EXACT_DECODER
    Execution(min_cosine=-1, tuning_limit_s=0)


def test_a_cache_says_how_it_was_made(extract):
    result = extract("c.h5", "bfloat16", batch_size=4)
    cache = tle.open_cache(result.path)
    assert (result.precision, result.batch_size) == ("bfloat16", 4)
    assert cache.spec["precision"] == "bfloat16"
    assert cache.spec["decoder"] == FAST_DECODER
    assert cache.run["precision"] == "bfloat16"
    assert cache.run["runtime"] == result.runtime
    assert "bfloat16" in result.runtime
    assert (cache.run["batch_size"], cache.run["replicas"]) == (4, 2)
    assert cache.run["tuning_s"] > 0
    assert cache.run["parity"] == result.parity
    assert result.parity["n"] == 12
    assert 0.999 <= result.parity["min_cosine"] < 1
    json.dumps(cache.summary(), default=str)


def test_again_with_auto_is_nothing_to_do_whatever_it_was_computed_in(extract):
    extract("c.h5", "bfloat16")
    before = Path(extract("c.h5").path).read_bytes()
    again = extract("c.h5")
    assert again.already_done
    assert (again.precision, again.batch_size) == ("bfloat16", 0)
    assert again.parity["n"] == 12
    assert extract("c.h5", "bfloat16").already_done
    with pytest.raises(FingerprintError, match="precision: float32 instead of bfloat16") as caught:
        extract("c.h5", "float32")
    assert "--overwrite" in str(caught.value)
    assert Path(again.path).read_bytes() == before
    assert extract("c.h5", "float32", overwrite=True).precision == "float32"
    with pytest.raises(FingerprintError, match="precision: bfloat16 instead of float32"):
        extract("c.h5", "bfloat16")


def test_again_with_another_decoder(extract):
    """The exact decoder's features serve where any are asked for, the fast one's not where exact ones are."""
    extract("exact.h5", exact_decode=True)
    assert extract("exact.h5").already_done
    extract("fast.h5", "float32")
    with pytest.raises(FingerprintError, match=f"decoder: {EXACT_DECODER} instead of {FAST_DECODER}"):
        extract("fast.h5", exact_decode=True)


def test_heads_meet_features_of_another_precision_and_that_is_said(extract, photos, make_images):
    extract("full.h5", "float32")
    test = make_images(photos.parent / "test", ["cat", "dog"], 6, 48, seed=5)
    extract("half.h5", "bfloat16", images=test)
    full, half = (tle.open_cache(photos.parent / name) for name in ("full.h5", "half.h5"))
    assert full.fingerprint == half.fingerprint
    tle.fit_head(full.path, photos.parent / "c.head")
    figures = tle.evaluate(photos.parent / "c.head", half.path)
    least = half.run["parity"]["min_cosine"]
    assert figures.notes[0] == (
        f"the head was fitted on float32 features, those of half.h5 are bfloat16, least cosine to float32 {least:.6f}"
    )
    assert figures.metrics["top1"] > 0.5
    same = tle.evaluate(photos.parent / "c.head", full.path, split="all")
    assert not [note for note in same.notes if "float32" in note]


@pytest.mark.parametrize(("fitted", "asked"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_head_predicts_in_any_precision(extract, photos, fitted, asked):
    head, tables = photos.parent / "c.head", {}
    tle.fit_head(extract("c.h5", fitted).path, head)
    for precision in ("float32", asked):
        path = photos.parent / f"{precision}.csv"
        result = tle.predict(head, photos, path, execution=Execution(precision=precision, device="cpu"), overwrite=True)
        assert result.n_failed == 0
        tables[precision] = [line.split(",") for line in path.read_text().splitlines()[1:]]
    assert len(tables[asked]) == 12
    for a, b in zip(tables["float32"], tables[asked], strict=True):
        assert a[:2] == b[:2]
        assert float(a[2]) == pytest.approx(float(b[2]), abs=0.05)


def test_a_classifier_refuses_what_is_too_far(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lossynet.py").write_text(LOSSY)
    low = Execution(runtime="torch", precision="bfloat16", device="cpu")
    network = {"backbone": "lossynet:Net", "layer": "output", "overrides": OPTIONS["overrides"]}
    with pytest.raises(RuntimeChoiceError, match="torch bfloat16: cosine .* below --min-cosine 0.999"):
        tle.extract(photos, "x.h5", execution=low, **network)
    assert not Path("x.h5").exists()
    tle.fit_head(tle.extract(photos, "c.h5", **network).path, "c.head")
    with pytest.raises(RuntimeChoiceError, match="below --min-cosine"):
        tle.predict("c.head", photos, "p.csv", execution=low)
    assert not Path("p.csv").exists()


def test_one_picture_and_pictures_that_all_fail(extract, tmp_path, make_images):
    one = make_images(tmp_path / "one", ["cat"], 1, 48)
    result = extract("one.h5", "bfloat16", images=one)
    assert (result.n_images, result.batch_size, result.parity["n"]) == (1, 1, 1)
    cache = tle.open_cache(result.path)
    assert np.isfinite(cache.features).all()
    next(one.rglob("*.jpg")).write_bytes(b"no picture")
    for precision in ("auto", "bfloat16"):
        with pytest.raises(tle.TleError, match="all 1 pictures failed") as caught:
            extract("bad.h5", precision, images=one, overwrite=True)
        assert caught.value.exit_code == 3
