import numpy as np
import pytest

from tle.errors import ShapeError, UsageError
from tle.pipeline import check_options, run
from tle.preprocess import Preprocess
from tle.sources import open_source

PLAIN = Preprocess(resize=16, crop=(16, 16), interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)


class Mean:
    """A runtime whose features are the mean colour: enough to follow a picture through the pipeline."""

    description = "mean colour"

    def __init__(self):
        self.calls = []

    def __call__(self, pixels):
        self.calls.append(len(pixels))
        return pixels.mean((1, 2), dtype=np.float32)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("workers", [1, 4])
def test_every_row_comes_once_in_order_with_its_own_features(tmp_path, make_images, batch_size, workers):
    source = open_source(make_images(tmp_path / "p", ["a", "b"], 5, 24))
    (source.path(3)).write_bytes(b"no picture")
    runtime = Mean()
    batches = list(run(source, PLAIN, runtime, batch_size=batch_size, workers=workers, max_pixels=10**6))
    rows = np.concatenate([batch.indices for batch in batches])
    assert rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert [failure.index for batch in batches for failure in batch.failures] == [3]
    assert max(runtime.calls) <= batch_size
    features = np.concatenate([batch.features for batch in batches if len(batch.indices)])
    alone = [next(iter(run(open_source(tmp_path / "p"), PLAIN, Mean(), batch_size=10, max_pixels=10**6)))]
    np.testing.assert_allclose(features, alone[0].features)


def test_options_are_refused_at_once_and_not_when_it_runs(tmp_path, make_images):
    source = open_source(make_images(tmp_path / "p", ["a"], 1, 24))
    for changes in ({"batch_size": 0}, {"workers": 0}, {"workers": -1}, {"max_pixels": 0}):
        options = {"batch_size": 1, "max_pixels": 1} | changes
        with pytest.raises(UsageError, match="--"):
            run(source, PLAIN, Mean(), **options)
    check_options(1, None, 1)


def test_a_runtime_that_loses_rows_is_found_out(tmp_path, make_images):
    source = open_source(make_images(tmp_path / "p", ["a"], 4, 24))
    with pytest.raises(ShapeError, match="each of 4 pictures"):
        list(run(source, PLAIN, lambda pixels: pixels.mean((1, 2))[:1], batch_size=4, max_pixels=10**6))
