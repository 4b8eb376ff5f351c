"""Heads that see another view in every epoch, and what is refused as one."""

import numpy as np
import pytest
import torch

import tle
from tle.enums import Split
from tle.errors import CacheError, FingerprintError, UsageError
from tle.heads.folds import split_folds
from tle.heads.linear_grid import FeatureReader
from tle.heads.samples import Samples
from tle.heads.scaler import fit_scaler
from tle.heads.views import open_views

PLAIN = {
    "backbone": {"name": "x/y", "weights": "W", "weights_digest": "ab", "dim": 4},
    "preprocess": {"resize": 256, "crop": [224, 224]},
    "decoder": "pillow",
    "precision": "float32",
}
FAST = {"epochs": 4, "lr": 1e-2, "batch_size": 16}


def of_view(number):
    return PLAIN | {"view": {"number": number, "flip": 0.5}}


@pytest.fixture
def caches(make_cache, blobs):
    """A cache of 60 pictures, and two views in which each row is as far from it as its number says."""
    x_ND, y_N = blobs(60, 4, 3)
    splits = np.where(np.arange(60) < 45, Split.TRAIN, Split.VAL)
    plain = make_cache(x_ND, y_N, splits=splits, spec=PLAIN)
    return plain, [make_cache(x_ND + number, y_N, splits=splits, spec=of_view(number)) for number in (1, 2)]


def test_every_epoch_sees_another_view_and_every_batch_several(caches):
    plain, views = caches
    rows = np.arange(45)
    samples = Samples(plain.features, rows, plain.labels[rows], open_views(plain, views, rows))
    scaler = fit_scaler(samples)
    reader = FeatureReader(samples, scaler, torch.device("cpu"), seed=1)
    at = np.arange(5, 40)
    shown = []
    for epoch in (1, 2, 3, 4):
        off = (reader.read(at, epoch).numpy() * scaler.scale_D + scaler.mean_D) - plain.features[rows[at]]
        assert np.ptp(off, axis=1).max() < 1e-4
        shown.append(off[:, 0].round().astype(int))
    assert {*shown[0]} == {0, 1, 2}
    np.testing.assert_array_equal(np.sort(np.stack(shown[:3]), axis=0), np.array([[0], [1], [2]]).repeat(len(at), 1))
    np.testing.assert_array_equal(shown[3], shown[0])


def test_a_head_is_fitted_on_views_and_chosen_without(caches):
    plain, views = caches
    without = tle.fit_head(plain, head="linear", params=FAST)
    found = tle.fit_head(plain, head="linear", params=FAST, views=views)
    again = tle.fit_head(plain, head="linear", params=FAST, views=[view.path for view in reversed(views)])
    assert found.head.fit["views"] == [{"number": 1, "flip": 0.5}, {"number": 2, "flip": 0.5}]
    assert found.head.fingerprint == plain.fingerprint
    assert not np.allclose(found.head.model.weight_KD, without.head.model.weight_KD, rtol=1e-3)
    np.testing.assert_array_equal(found.head.model.weight_KD, again.head.model.weight_KD)
    assert found.chosen["train_loss"] > without.chosen["train_loss"]  # rows that are off are harder
    assert without.head.fit["views"] == []


def test_pictures_that_a_fold_holds_out_are_seen_as_they_are(caches):
    plain, views = caches
    rows = np.arange(60)
    samples = Samples(plain.features, rows, plain.labels, open_views(plain, views, rows))
    for train, held_out in split_folds(samples, rows % 3):
        assert len(train.views) == 2
        assert held_out.views == ()
    found = tle.fit_head(plain, head="linear", params=FAST, views=views, folds=3, splits=np.zeros(60, np.uint8))
    assert found.folds == 3


def test_views_may_be_stored_in_another_type(make_cache, caches):
    plain, _ = caches
    other = make_cache(np.array(plain.features) + 1, plain.labels, spec=of_view(1), dtype="float16")
    rows = np.array([3, 50])
    (view,) = open_views(plain, [other], rows)
    assert view.row_of_N[rows].tolist() == [3, 50]
    assert (view.row_of_N[[0, 4]] == -1).all()
    found = tle.fit_head(plain, head="linear", params=FAST, views=[other])
    assert np.isfinite(found.head.model.weight_KD).all()


def test_what_is_no_view_of_these_pictures_is_said(make_cache, caches):
    plain, (one, _) = caches
    x_ND, y_N = np.array(plain.features), plain.labels
    backbone = {**PLAIN["backbone"], "weights_digest": "cd"}
    for views, error, said in (
        ([plain], UsageError, "is no random view: make one with tle extract --view 1"),
        ([one, one], UsageError, "are the same view: give each another --view"),
        ([make_cache(x_ND, y_N, spec=of_view(3) | {"backbone": backbone})], FingerprintError, "weights_digest: cd"),
        ([make_cache(x_ND[:50], y_N[:50], spec=of_view(3))], CacheError, "lacks 10 of the 60 pictures"),
        ([make_cache(x_ND, y_N, spec=of_view(3), failed=(7,))], CacheError, "lacks 1 of the 60 .*first: 0007.png"),
        ([make_cache(x_ND, y_N, spec=of_view(3), digests=np.full(60, 9, np.uint64))], CacheError, "of other bytes"),
    ):
        with pytest.raises(error, match=said):
            tle.fit_head(plain, head="linear", params=FAST, views=views)
    with pytest.raises(UsageError, match=r"views are for head linear, .* not for logistic: add --head linear"):
        tle.fit_head(plain, views=[one])
    for fit in (tle.fit_head, tle.few_shot):
        with pytest.raises(UsageError, match="holds random views, which are for tle fit-head --views"):
            fit(one)
    with pytest.raises(UsageError, match="holds random views"):
        tle.compare([plain, one])
