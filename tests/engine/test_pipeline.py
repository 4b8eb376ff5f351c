import numpy as np
import pytest

from tle.errors import ShapeError, UsageError
from tle.pipeline import check_options, run
from tle.preprocess import Preprocess
from tle.sources import open_source

PREPROCESS = Preprocess(resize=16, crop=(16, 16), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def source(tmp_path, make_images):
    return open_source(make_images(tmp_path / "photos", ["cat", "dog"], 4, 24))


class Means:
    """A runtime whose features are each picture's mean colour, changed by `spoil`."""

    description = "means"

    def __init__(self, spoil=lambda features: features):
        self.spoil = spoil

    def __call__(self, pixels):
        return self.spoil(pixels.mean((1, 2)).astype(np.float32))


def test_every_row_comes_once_and_in_order(source):
    batches = list(run(source, PREPROCESS, Means(), batch_size=3, max_pixels=10**6))
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(8))
    assert all(batch.features.shape == (len(batch.indices), 3) for batch in batches)


@pytest.mark.parametrize("option", ["batch_size", "workers", "max_pixels"])
def test_options_are_refused_before_the_first_batch_is_asked_for(source, option):
    options = {"batch_size": 2, "workers": None, "max_pixels": 100}
    check_options(**options)
    with pytest.raises(UsageError, match="--" + option.replace("_", "-")):
        check_options(**(options | {option: 0}))
    with pytest.raises(UsageError, match="--" + option.replace("_", "-")):
        run(source, PREPROCESS, Means(), **(options | {option: 0}))


@pytest.mark.parametrize("spoil", [lambda f: f[:1], lambda f: f.reshape(-1), lambda f: f[:, :, None]])
def test_a_runtime_without_a_row_a_picture_is_refused(source, spoil):
    with pytest.raises(ShapeError, match="each of 4 pictures"):
        list(run(source, PREPROCESS, Means(spoil), batch_size=4, max_pixels=10**6))


def test_a_dimension_that_changes_between_batches_is_refused(source):
    """As of a graph that flattens the batch into the features: the last batch is smaller."""
    with pytest.raises(ShapeError, match="expected 3 features a picture"):
        list(run(source, PREPROCESS, Means(lambda f: f[:, : len(f)]), batch_size=3, max_pixels=10**6))
