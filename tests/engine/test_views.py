"""Caches of random views: what is drawn depends on the picture and the number alone, and nothing is taken for another."""

import shutil

import numpy as np
import pytest

import tle
from tle.errors import FingerprintError, UsageError
from tle.finetuning.augmentation import Augmentation, load_augmented
from tle.images import EXACT_DECODER
from tle.views import View

OPTIONS = {
    "backbone": "torchvision/resnet18",
    "weights": "none",
    "overrides": tle.PreprocessOverrides(resize=40, crop=32),
    "execution": tle.Execution(exact_decode=True, precision="float32", runtime="torch"),
}


@pytest.fixture
def photos(tmp_path, make_images):
    return make_images(tmp_path / "photos", ["cat", "dog"], 5, 48)


def features(path):
    cache = tle.open_cache(path)
    return dict(zip(cache.ids, np.array(cache.features), strict=True))


def test_a_view_is_that_of_its_number_and_of_the_picture(tmp_path, photos):
    plain = features(tle.extract(photos, tmp_path / "plain.h5", **OPTIONS).path)
    one = tle.extract(photos, tmp_path / "one.h5", view=View(number=1), **OPTIONS).path
    two = features(tle.extract(photos, tmp_path / "two.h5", view=View(number=2), **OPTIONS).path)
    shutil.move(photos / "cat" / "000.jpg", photos / "cat" / "moved.jpg")  # another place, the same bytes
    execution = tle.Execution(exact_decode=True, precision="float32", runtime="torch", batch_size=3, workers=1)
    options = OPTIONS | {"execution": execution}
    again = features(tle.extract(photos, tmp_path / "again.h5", view=View(number=1), **options).path)
    for name, row in features(one).items():
        assert not np.allclose(row, plain[name], rtol=1e-3)
        assert not np.allclose(row, two[name], rtol=1e-3)
        np.testing.assert_allclose(row, again[name.replace("cat/000", "cat/moved")], rtol=1e-3, atol=1e-4)
    assert tle.open_cache(one).spec["view"] == {"number": 1, **Augmentation().to_dict()}


def test_pixels_are_those_of_the_augmentation_of_training(photos):
    from tle.backbones.load import load_backbone
    from tle.pipeline import Decoding, decode

    augmentation = Augmentation(scale=(0.5, 0.6), flip=1.0)
    preprocess = load_backbone("torchvision/resnet18", weights="none", overrides=OPTIONS["overrides"]).preprocess
    source = tle.open_source(photos)
    out = np.zeros((32, 32, 3), np.uint8)
    how = {"preprocess": preprocess, "decoder": EXACT_DECODER, "max_pixels": 10**6}
    digest, reason = decode(source, 3, Decoding(**how, view=View(number=7, augmentation=augmentation)), out)
    assert reason is None
    rng = np.random.default_rng([7, digest])
    np.testing.assert_array_equal(out, load_augmented(source.read(3), preprocess, augmentation, rng))


def test_a_view_grows_and_is_not_made_twice(tmp_path, photos, make_images):
    view = View(number=1)
    first = tle.extract(photos, tmp_path / "one.h5", view=view, **OPTIONS)
    assert not first.already_done
    assert tle.extract(photos, first.path, view=view, **OPTIONS).already_done
    make_images(photos, ["more"], 2, 48)
    assert tle.extract(photos, first.path, view=view, **OPTIONS).n_extracted == 2


def test_a_view_is_not_mixed_with_another_or_with_none(tmp_path, photos):
    plain = tle.extract(photos, tmp_path / "plain.h5", **OPTIONS).path
    one = tle.extract(photos, tmp_path / "one.h5", view=View(number=1), **OPTIONS).path
    for path, view, said in (
        (one, View(number=2), "number: 2 instead of 1"),
        (one, View(number=1, augmentation=Augmentation(flip=0.0)), "flip: 0.0 instead of 0.5"),
        (one, None, "view: none instead of one"),
        (plain, View(number=1), "view: one instead of none"),
    ):
        with pytest.raises(FingerprintError, match=said):
            tle.extract(photos, path, view=view, **OPTIONS)


@pytest.mark.parametrize("number", [0, -1, 2**32, True, 1.0])
def test_a_number_that_is_none_is_said(number):
    with pytest.raises(UsageError, match="--view takes a whole number from 1 on"):
        View(number=number)


def test_views_are_not_decoded_on_the_gpu(tmp_path, photos):
    options = OPTIONS | {"execution": tle.Execution(gpu_decode=True)}
    with pytest.raises(UsageError, match="leave out --gpu-decode, or --view"):
        tle.extract(photos, tmp_path / "one.h5", view=View(number=1), **options)
