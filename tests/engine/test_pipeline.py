import threading

import numpy as np
import pytest
import torch

from tle.errors import ShapeError, UsageError
from tle.execution import Execution
from tle.images import EXACT_DECODER
from tle.pipeline import Decoding, run
from tle.preprocess import Preprocess
from tle.sources import open_source

PREPROCESS = Preprocess(resize=16, crop=(16, 16), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
DECODING = Decoding(preprocess=PREPROCESS, decoder=EXACT_DECODER, max_pixels=10**6)


@pytest.fixture
def source(tmp_path, make_images):
    return open_source(make_images(tmp_path / "photos", ["cat", "dog"], 4, 24))


class Means:
    """A runtime whose features are each picture's mean colour, changed by `spoil`."""

    description, device, batch = "means", "cpu", None

    def __init__(self, spoil=lambda features: features):
        self.spoil = spoil
        self.threads = set()
        self.torch_threads = set()

    def __call__(self, pixels):
        self.threads.add(threading.get_ident())
        self.torch_threads.add(torch.get_num_threads())
        return self.spoil(pixels.mean((1, 2)).astype(np.float32))


def batches_of(source, runtime, batch_size=3, workers=2):
    return list(run(source, runtime, DECODING, batch_size=batch_size, dim=3, workers=workers))


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_every_row_comes_once_and_in_order(source, workers, batch_size):
    batches = batches_of(source, Means(), batch_size, workers)
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(8))
    assert all(batch.features.shape == (len(batch.indices), 3) for batch in batches)
    alone = batches_of(source, Means(), 1, 1)
    np.testing.assert_array_equal(
        np.concatenate([batch.features for batch in batches]), np.concatenate([batch.features for batch in alone])
    )


@pytest.mark.parametrize("option", ["batch_size", "workers", "max_pixels"])
def test_options_below_one_are_refused(option):
    with pytest.raises(UsageError, match="--" + option.replace("_", "-")):
        Execution(**{option: 0})


@pytest.mark.parametrize("spoil", [lambda f: f[:1], lambda f: f.reshape(-1), lambda f: f[:, :, None]])
def test_a_runtime_without_a_row_a_picture_is_refused(source, spoil):
    with pytest.raises(ShapeError, match="each of 4 pictures"):
        batches_of(source, Means(spoil), 4)


def test_another_dimension_than_the_backbones_is_refused(source):
    """As of a graph that flattens the batch into the features: the last batch is smaller."""
    with pytest.raises(ShapeError, match="expected 3 features a picture"):
        batches_of(source, Means(lambda f: f[:, : len(f)]), 3)


def test_each_replica_has_one_torch_thread_and_the_caller_keeps_his(source):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runtime = Means()
        batches_of(source, runtime, batch_size=1)
        assert runtime.torch_threads == {1}
        assert torch.get_num_threads() == 2
        assert threading.get_ident() not in runtime.threads
    finally:
        torch.set_num_threads(before)


def test_what_nobody_takes_holds_the_replicas_up(source):
    """Memory stays flat: a consumer that stops stops the producers."""
    runtime = Means()
    calls = []
    runtime.spoil = lambda features: calls.append(1) or features
    batches = run(source, runtime, DECODING, batch_size=1, dim=3, workers=1)
    next(batches)
    batches.close()
    assert len(calls) <= 3


def test_an_error_in_a_replica_reaches_the_caller(source):
    def fail(features):
        raise ZeroDivisionError("in a thread")

    with pytest.raises(ZeroDivisionError, match="in a thread"):
        batches_of(source, Means(fail))
