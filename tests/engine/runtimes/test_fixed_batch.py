import numpy as np
import pytest

from tle.runtimes.fixed_batch import run_fixed


class Sums:
    """Takes four pictures a call and writes into the same memory each time, as a CUDA graph does."""

    def __init__(self):
        self.seen = []
        self.memory = np.zeros((4, 3), np.float32)

    def __call__(self, pixels):
        assert len(pixels) == 4
        self.seen.append(pixels.copy())
        self.memory[:] = pixels.sum((1, 2))
        return self.memory


@pytest.mark.parametrize(("n", "calls"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (11, 3)])
def test_any_number_goes_through_in_full_batches(n, calls):
    pixels = np.random.default_rng(n).integers(0, 256, (n, 2, 5, 3), np.uint8)
    run = Sums()
    features = run_fixed(run, pixels, 4)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, pixels.sum((1, 2)))
    assert len(run.seen) == calls


def test_the_last_part_is_padded_with_black():
    run = Sums()
    run_fixed(run, np.full((6, 2, 2, 3), 7, np.uint8), 4)
    assert run.seen[1][:2].min() == 7
    assert run.seen[1][2:].max() == 0


def test_a_batch_of_one_takes_them_one_by_one():
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    features = run_fixed(lambda part: part.reshape(1, 1).astype(np.float32), pixels, 1)
    assert features.ravel().tolist() == [0, 1, 2, 3, 4]
