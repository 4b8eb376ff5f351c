"""Which rows are train and val: splits, strata, what is left out and said."""

import csv

import numpy as np
import pytest

from tle.enums import Split, Target
from tle.errors import HeadError, ShapeError, UsageError
from tle.heads.selection import check_finite, resolve_splits, select_rows, stratified_holdout, usable_rows

N, TRAIN, VAL, TEST = Split.NONE, Split.TRAIN, Split.VAL, Split.TEST


def _features(n, dim=3):
    return np.random.default_rng(0).normal(size=(n, dim))


def _select(cache, splits=None, val_fraction=0.25, seed=0):
    return select_rows(cache, cache.splits if splits is None else splits, val_fraction=val_fraction, seed=seed)


def test_a_val_split_is_used_as_it_is(make_cache):
    cache = make_cache(_features(6), np.array([0, 1, 0, 1, 0, 1]), splits=[TRAIN, TRAIN, VAL, VAL, TEST, TEST])
    chosen = _select(cache)
    assert chosen.train.tolist() == [0, 1]
    assert chosen.val.tolist() == [2, 3]
    assert chosen.record["val_source"] == "split"
    assert chosen.record["val_fraction"] is None
    assert chosen.record["n_test_untouched"] == 2


def test_without_val_a_stratified_part_of_train_is_held_out_and_test_never_is(make_cache):
    labels = np.array([0] * 40 + [1] * 20 + [0, 1] * 10)
    splits = [TRAIN] * 60 + [TEST] * 20
    cache = make_cache(_features(80), labels, splits=splits)
    chosen = _select(cache)
    assert np.bincount(labels[chosen.val]).tolist() == [10, 5]
    assert sorted([*chosen.train, *chosen.val]) == list(range(60))
    assert chosen.record == {
        "val_source": "fraction",
        "val_fraction": 0.25,
        "stratified": True,
        "seed": 0,
        "n_train": 45,
        "n_val": 15,
        "n_test_untouched": 20,
        "n_without_split": 0,
    }


def test_the_seed_decides(make_cache):
    cache = make_cache(_features(60), np.arange(60) % 3)
    assert _select(cache, seed=1).val.tolist() == _select(cache, seed=1).val.tolist()
    assert _select(cache, seed=1).val.tolist() != _select(cache, seed=2).val.tolist()


def test_pictures_without_split_are_train_only_where_nothing_is(make_cache):
    labels = np.arange(8) % 2
    cache = make_cache(_features(8), labels, splits=[N, N, N, N, TRAIN, TRAIN, VAL, VAL])
    chosen = _select(cache)
    assert chosen.train.tolist() == [4, 5]
    assert any("4 pictures have no split" in note for note in chosen.notes)
    chosen = _select(make_cache(_features(8), labels, splits=[N, N, N, N, N, N, VAL, VAL]))
    assert chosen.train.tolist() == [0, 1, 2, 3, 4, 5]
    assert chosen.notes == ()


def test_failed_and_unlabelled_pictures_are_left_out_and_counted(make_cache):
    cache = make_cache(_features(6), np.array([0, 1, -1, 0, 1, -1]), failed=[3, 5], splits=[TRAIN] * 3 + [VAL] * 3)
    chosen = _select(cache)
    assert chosen.train.tolist() == [0, 1]
    assert chosen.val.tolist() == [4]
    assert chosen.notes == (
        "2 of 6 pictures failed in the extraction and are left out",
        "1 of 6 pictures have no label and are left out",
    )


def test_only_test_pictures(make_cache):
    cache = make_cache(_features(4), np.array([0, 1, 0, 1]), splits=[TEST] * 4)
    with pytest.raises(HeadError, match="no labelled picture to train on: .*0 none, 0 train, 0 val, 4 test"):
        _select(cache)


def test_no_labels(make_cache):
    cache = make_cache(_features(4), np.full(4, -1), classes=[], target=Target.NONE)
    with pytest.raises(HeadError, match="has no labels"):
        usable_rows(cache)


def test_twins_and_classes_without_train_pictures_are_said(make_cache):
    cache = make_cache(
        _features(5),
        np.array([0, 1, 0, 1, 2]),
        splits=[TRAIN, TRAIN, VAL, VAL, VAL],
        digests=np.array([7, 8, 7, 9, 10], np.uint64),
    )
    notes = " | ".join(_select(cache).notes)
    assert "1 of 3 validation pictures are byte for byte the same" in notes
    assert "1 classes have validation pictures but none in train: class 2" in notes


def test_no_holdout_is_said(make_cache):
    cache = make_cache(_features(4), np.array([0, 1, 0, 1]))
    chosen = _select(cache, val_fraction=0.0)
    assert len(chosen.val) == 0
    assert chosen.record["val_source"] == "none"
    assert "no picture is left to validate on" in chosen.notes[0]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_fraction_out_of_range(make_cache, fraction):
    with pytest.raises(UsageError, match="val_fraction"):
        _select(make_cache(_features(4), np.array([0, 1, 0, 1])), val_fraction=fraction)


def test_multilabel_and_regression_are_split_at_random(make_cache):
    indicators = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(np.uint8)
    indicators[3] = 255
    chosen = _select(make_cache(_features(40), indicators, target=Target.MULTILABEL))
    assert (len(chosen.train), len(chosen.val)) == (29, 10)
    assert chosen.record["stratified"] is False
    values = np.arange(40, dtype=np.float32)
    values[7] = np.nan
    chosen = _select(make_cache(_features(40), values, target=Target.REGRESSION))
    assert (len(chosen.train), len(chosen.val)) == (29, 10)
    assert 7 not in chosen.train
    assert 7 not in chosen.val


@pytest.mark.parametrize("seed", range(5))
def test_holdout_keeps_one_picture_of_every_class(seed):
    labels = np.repeat([4, 9, 1, 7], [1, 2, 3, 94])
    marked = stratified_holdout(labels, 0.5, seed)
    assert marked.sum() == 50
    assert set(labels[~marked]) == {1, 4, 7, 9}
    assert not marked[0]


def test_holdout_of_few_pictures():
    assert stratified_holdout(np.array([0, 1, 2]), 0.5, 0).sum() == 0  # single examples stay in train
    assert stratified_holdout(np.array([0, 0, 1]), 0.1, 0).sum() == 1
    assert stratified_holdout(np.array([], np.int64), 0.5, 0).shape == (0,)
    assert stratified_holdout(np.zeros(10, np.int64), 0.95, 0).sum() == 9


def test_holdout_shares_follow_the_classes():
    labels = np.repeat([0, 1, 2], [500, 300, 207])
    marked = stratified_holdout(labels, 0.1, 3)
    assert np.bincount(labels[marked]).tolist() == [50, 30, 21]


def test_splits_as_array_replace_those_of_the_cache(make_cache):
    cache = make_cache(_features(3), np.array([0, 1, 0]))
    assert resolve_splits(cache, None)[0] is cache.splits
    assert resolve_splits(cache, np.array([1, 2, 3]))[0].tolist() == [1, 2, 3]
    with pytest.raises(ShapeError, match=r"expected splits \(3,\)"):
        resolve_splits(cache, np.array([1, 2]))
    with pytest.raises(ShapeError, match="values of"):
        resolve_splits(cache, np.array([1, 2, 9]))


def test_splits_from_a_manifest(make_cache, tmp_path):
    cache = make_cache(_features(3), np.array([0, 1, 0]))
    manifest = tmp_path / "splits.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split"], ["0002.png", "test"], ["0000.png", "train"], ["x.png", "val"]])
    splits, notes = resolve_splits(cache, manifest)
    assert splits.tolist() == [TRAIN, N, TEST]
    assert notes == ("1 of 3 pictures are not in splits.csv and have no split",)
    manifest.write_text("path,split\nelsewhere.png,train\n")
    with pytest.raises(UsageError, match="lists none of the pictures"):
        resolve_splits(cache, str(manifest))


def test_features_that_are_not_finite_are_counted_and_named(make_cache):
    features = _features(6).astype(np.float32)
    features[[1, 3, 4, 5], 0] = [np.nan, np.inf, -np.inf, np.nan]
    cache = make_cache(features, np.array([0, 1] * 3))
    with pytest.raises(HeadError, match=r"in 4 of 6 pictures \(first: 0001\.png, 0003\.png, 0004\.png, \.\.\.\)"):
        check_finite(cache, np.arange(6))
    check_finite(cache, np.array([0, 2]))
