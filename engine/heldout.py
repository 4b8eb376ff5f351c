"""Which pictures are measured on, and which are fitted on, where several fits have to agree on it.

# n pictures
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tle.enums import Split
from tle.errors import HeadError, UsageError
from tle.heads.folds import deal_folds
from tle.heads.selection import stratified_holdout

MEASURED = ("train", "val", "test")
TEST_FRACTION = 0.2


@dataclass(frozen=True, slots=True)
class Parts:
    """Pictures by use; each is an ascending array of positions, and no picture is in two of them.

    Attributes:
        train: (n_train,) to fit on.
        val: (n_val,) to choose settings on; may be empty.
        test: (n_test,) to measure on.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


def pool_of(splits_N: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pictures to fit on: those called train, or else those without a split.

    Raises:
        HeadError: there are none.
    """
    train = np.flatnonzero(splits_N == Split.TRAIN)
    pool = train if len(train) else np.flatnonzero(splits_N == Split.NONE)
    if not len(pool):
        raise HeadError(f"none of {len(splits_N)} pictures is in train: there is nothing to fit on (see --splits)")
    return pool


def named_split(splits_N: NDArray[np.uint8], split: str) -> NDArray[np.int64]:
    """Pictures of a split that was asked for.

    Raises:
        UsageError: not val or test.
        HeadError: no picture is in it.
    """
    if split not in MEASURED[1:]:
        raise UsageError(f"split should be val or test, got {split!r}: figures on train say nothing")
    found = np.flatnonzero(splits_N == Split[split.upper()])
    if not len(found):
        raise HeadError(f"none of {len(splits_N)} labelled pictures is in split {split!r}: name another (--split)")
    return found


def set_apart(
    groups_N: NDArray[np.int64],
    splits_N: NDArray[np.uint8],
    *,
    split: str | None,
    test_fraction: float,
    val_fraction: float,
    seed: int,
) -> tuple[Parts, str]:
    """One division of the pictures.

    Measured is the split that was asked for, or test, or else a seeded part of train, stratified by class. Settings are
    chosen on the val split where that is not measured, or else on a seeded part of what is left of train.

    Args:
        groups_N: (n,) class of each picture; all equal where there are no classes.
        splits_N: (n,) values of `Split`.
        split: "val" or "test"; None takes test, or what is set apart.
        test_fraction: part of train that is set apart where there is no test split, above 0 and below 1.
        val_fraction: part of train to choose settings on where there is no val split, from 0 and below 1.
        seed: seed of both draws.

    Returns:
        The parts, and what the measured one is called.

    Raises:
        UsageError: a fraction out of range, or an unknown split.
        HeadError: nothing to fit on, or to measure on.
    """
    _check_fractions(test_fraction, val_fraction)
    pool = pool_of(splits_N)
    name = split or ("test" if (splits_N == Split.TEST).any() else None)
    if name is not None:
        test = named_split(splits_N, name)
    else:
        held_out = stratified_holdout(groups_N[pool], test_fraction, seed)
        pool, test = pool[~held_out], pool[held_out]
        name = f"a seeded {test_fraction:.0%} of train"
        if not len(test) or not len(pool):
            raise HeadError(f"{len(groups_N)} pictures are too few to set some apart: extract a test split as well")
    val = np.flatnonzero(splits_N == Split.VAL) if name != "val" else np.zeros(0, np.int64)
    return _with_val(groups_N, Parts(pool, val, test), val_fraction, seed), name


def cross_validate(
    groups_N: NDArray[np.int64], splits_N: NDArray[np.uint8], *, folds: int, val_fraction: float, seed: int
) -> Iterator[Parts]:
    """Divisions in which every picture of train and val is measured once, but for the only one of its class.

    Args:
        groups_N: (n,) class of each picture; all equal where there are no classes.
        splits_N: (n,) values of `Split`; test pictures are not touched.
        folds: how many, at least 2.
        val_fraction: part of each fold's train to choose settings on.
        seed: seed of the draws.

    Yields:
        The parts of each fold.
    """
    _check_fractions(TEST_FRACTION, val_fraction)
    pool = np.union1d(pool_of(splits_N), np.flatnonzero(splits_N == Split.VAL))
    fold_N = deal_folds(groups_N[pool], folds, seed)
    for fold in range(folds):
        test, train = pool[fold_N == fold], pool[fold_N != fold]
        if len(test) and len(train):
            yield _with_val(groups_N, Parts(train, np.zeros(0, np.int64), test), val_fraction, seed)


def _with_val(groups_N: NDArray[np.int64], parts: Parts, val_fraction: float, seed: int) -> Parts:
    if len(parts.val) or not val_fraction:
        return parts
    held_out = stratified_holdout(groups_N[parts.train], val_fraction, seed)
    return Parts(parts.train[~held_out], parts.train[held_out], parts.test)


def _check_fractions(test_fraction: float, val_fraction: float) -> None:
    if not 0.0 < test_fraction < 1.0:
        raise UsageError(f"test_fraction should be above 0 and below 1, got {test_fraction:g}")
    if not 0.0 <= val_fraction < 1.0:
        raise UsageError(f"val_fraction should be at least 0 and below 1, got {val_fraction:g}")
