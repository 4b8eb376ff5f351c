import numpy as np
import pytest

import tle
from tle.classifier import load_classifier
from tle.errors import AllImagesFailedError
from tle.picture_scores import score_pictures

SMALL = tle.PreprocessOverrides(resize=40, crop=32)


@pytest.fixture
def trained(tmp_path, make_images):
    make_images(tmp_path / "photos", ["cat", "dog", "owl"], 8, 48)
    tle.extract(
        tmp_path / "photos", tmp_path / "c.h5", backbone="torchvision/resnet18", weights="none", overrides=SMALL
    )
    tle.fit_head(tmp_path / "c.h5", tmp_path / "c.head")
    return tmp_path


def test_scores_features_and_digests_are_those_of_the_cache(trained):
    cache = tle.open_cache(trained / "c.h5")
    found = score_pictures(load_classifier(trained / "c.head"), tle.open_source(trained / "photos"))
    features = np.asarray(cache.features)
    np.testing.assert_array_equal(found.indices, np.arange(24))
    np.testing.assert_array_equal(found.digests, cache.digests)
    np.testing.assert_allclose(found.features, features, atol=1e-2 * np.abs(features).max())
    np.testing.assert_allclose(found.scores, tle.load_head(trained / "c.head").predict(features), atol=1e-2)
    assert found.features.dtype == found.scores.dtype == np.float32
    assert found.failures == ()
    assert found.images_per_s > 0


def test_a_bad_picture_is_left_out_and_told(trained):
    (trained / "photos" / "dog" / "000.jpg").write_bytes(b"no picture")
    lines = []
    found = score_pictures(
        load_classifier(trained / "c.head", execution=tle.Execution(batch_size=1)),
        tle.open_source(trained / "photos"),
        say=lines.append,
    )
    assert [failure.index for failure in found.failures] == [8]
    assert found.indices.tolist() == [row for row in range(24) if row != 8]
    assert len(found.features) == len(found.scores) == len(found.digests) == 23
    assert found.choice.describe() in lines


def test_when_all_fail_the_first_reason_is_told(trained):
    (trained / "new").mkdir()
    (trained / "new" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(AllImagesFailedError, match="all 1 pictures"):
        score_pictures(load_classifier(trained / "c.head"), tle.open_source(trained / "new"))
