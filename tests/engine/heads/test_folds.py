"""Folds: even, stratified, seeded, and sane where classes are small."""

import numpy as np
import pytest

from tle.errors import UsageError
from tle.heads.folds import ALWAYS_TRAIN, check_folds, deal_folds, split_folds
from tle.heads.samples import Samples


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_and_their_classes_differ_by_one_picture_at_most(folds):
    labels = np.repeat([0, 4, 7, 9], [50, 31, 17, 3])
    fold_N = deal_folds(labels, folds, 0)
    sizes = np.bincount(fold_N, minlength=folds)
    assert sizes.sum() == 101
    assert np.ptp(sizes) <= 1
    for label in (0, 4, 7, 9):
        assert np.ptp(np.bincount(fold_N[labels == label], minlength=folds)) <= 1


def test_the_only_picture_of_a_class_stays_in_train_and_every_class_is_in_every_train():
    labels = np.array([0] * 9 + [1] * 2 + [2])
    fold_N = deal_folds(labels, 5, 3)
    assert fold_N[-1] == ALWAYS_TRAIN
    assert (fold_N[:-1] >= 0).all()
    for train, val in split_folds(Samples(np.zeros((12, 1)), np.arange(12), labels), fold_N):
        assert set(train.labels) == {0, 1, 2}
        assert set(train.rows) | set(val.rows) == set(range(12))
        assert not set(train.rows) & set(val.rows)


def test_the_seed_decides():
    labels = np.arange(40) % 3
    assert deal_folds(labels, 4, 1).tolist() == deal_folds(labels, 4, 1).tolist()
    assert deal_folds(labels, 4, 1).tolist() != deal_folds(labels, 4, 2).tolist()


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_to_hold_anything_out(n):
    samples = Samples(np.zeros((n, 1)), np.arange(n), np.zeros(n, np.int64))
    assert split_folds(samples, deal_folds(samples.labels, 2, 0)) == ()


def test_more_folds_than_pictures_hold_out_one_each():
    samples = Samples(np.zeros((3, 1)), np.arange(3), np.zeros(3, np.int64))
    assert [len(val) for _, val in split_folds(samples, deal_folds(samples.labels, 10, 0))] == [1, 1, 1]


def test_numbers_of_folds():
    assert (check_folds(None), check_folds(0), check_folds(2)) == (0, 0, 2)
    for wrong in (1, -3, 2.0, True):
        with pytest.raises(UsageError, match=r"folds \(--folds\) should be 2 or more"):
            check_folds(wrong)
