import numpy as np
import pytest

from tle.errors import UsageError
from tle.finetuning.sampling import class_balanced_weights, epoch_order, n_batches


def test_every_epoch_takes_every_picture_once_in_its_own_order() -> None:
    orders = [epoch_order(50, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 9
    np.testing.assert_array_equal(orders[4], epoch_order(50, seed=1, epoch=1))
    assert orders[0].dtype == np.int64
    assert len(epoch_order(0, seed=0, epoch=0)) == 0


def test_balanced_sampling_draws_every_class_as_often() -> None:
    labels = np.repeat([0, 1, 3], [900, 90, 10])  # class 2 does not occur
    weights = class_balanced_weights(labels)
    assert weights.sum() == pytest.approx(1)
    drawn = np.concatenate([labels[epoch_order(1000, seed=0, epoch=e, weights=weights)] for e in range(9)])
    counts = np.bincount(drawn, minlength=4)
    assert counts[2] == 0
    # binomial of 9,000 draws with p = 1/3: a standard deviation of 45
    assert np.abs(counts[[0, 1, 3]] - 3000).max() < 200


def test_balanced_sampling_takes_a_picture_of_a_rare_class_more_than_once() -> None:
    labels = np.repeat([0, 1], [95, 5])
    order = epoch_order(100, seed=0, epoch=0, weights=class_balanced_weights(labels))
    assert len(order) == 100
    assert np.bincount(order, minlength=100)[95:].max() > 3


@pytest.mark.parametrize(
    "labels",
    [np.array([0, -1]), np.zeros(0, np.int64), np.zeros((3, 2), np.uint8), np.array([0.0, 1.0])],
)
def test_labels_without_a_class_for_each_picture_are_told(labels: np.ndarray) -> None:
    with pytest.raises(UsageError, match="^balanced sampling takes a class index for each of at least one picture"):
        class_balanced_weights(labels)


@pytest.mark.parametrize("weights", [np.array([1.0]), np.array([2.0, -1.0]), np.array([0.5, 0.4])])
def test_weights_that_are_no_probabilities_are_told(weights: np.ndarray) -> None:
    with pytest.raises(UsageError, match="^expected 2 weights, none negative, of sum 1, got"):
        epoch_order(2, seed=0, epoch=0, weights=weights)


def test_number_of_batches() -> None:
    assert [n_batches(n, 4) for n in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]
    assert [n_batches(n, 4, drop_last=True) for n in (0, 1, 4, 5, 8)] == [0, 0, 1, 1, 2]
    assert n_batches(9, 2, world=2) == n_batches(9, 4) == 3
