"""Which pictures are taken, and whether they are those that the head knew."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import tle
from tle.cache import open_cache
from tle.enums import Target
from tle.errors import HeadError
from tle.finetuning.pictures import default_cache, relabel_source, select_pictures
from tle.sources import open_source


@pytest.fixture
def cache(fit):
    fit(refit=False)
    return open_cache("photos.h5")


def select(source, classes=None, *, cache=None, val_fraction=0.1, seed=0):
    return select_pictures(source, classes, cache=cache, val_fraction=val_fraction, seed=seed)


def test_splits_decide_and_test_is_never_taken(photos, make_images):
    make_images(photos, per_class=2, splits=["test"], seed=5)
    found = select(open_source(photos))
    ids = np.array(found.source.ids)
    assert all(name.startswith("train/") for name in ids[found.train])
    assert all(name.startswith("val/") for name in ids[found.val])
    assert (len(found.train), len(found.val)) == (21, 9)
    assert found.counts()["counts"] == {"train": 21, "val": 9, "test": 6}
    assert found.counts()["classes"]["red"] == {"train": 7, "val": 3, "test": 2}
    assert (found.digests[found.train] != 0).all()


def test_without_splits_a_seeded_part_is_held_out_as_for_a_head(photos, fit):
    shutil.rmtree(photos / "val")
    source = open_source(photos)
    found = select(source, val_fraction=0.3, seed=4)
    assert (len(found.train), len(found.val)) == (15, 6)
    fit(val_fraction=0.3, seed=4)
    same = select(source, cache=open_cache("photos.h5"), val_fraction=0.3, seed=4)
    np.testing.assert_array_equal(found.val, same.val)
    np.testing.assert_array_equal(found.digests[found.train], same.digests[same.train])


def test_a_cache_decides_which_pictures_are_taken(cache, photos, make_images):
    (photos / "train" / "red" / "001.jpg").unlink()
    shutil.copy(photos / "train" / "red" / "002.jpg", photos / "train" / "red" / "new.jpg")
    found = select(open_source(photos), cache=cache)
    ids = [found.source.ids[row] for row in found.train]
    assert len(ids) == 20
    assert "train/red/new.jpg" not in ids
    assert any("1 picture of photos.h5 are no longer in" in note for note in found.notes)
    assert any("are not in photos.h5 and are left out: tle extract adds them" in note for note in found.notes)


def test_a_picture_that_changed_is_told(cache, photos):
    file = photos / "train" / "red" / "001.jpg"
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(
        HeadError, match="1 picture changed since .*photos.h5 was extracted, for example train/red/001.jpg"
    ):
        select(open_source(photos), cache=cache)


def test_unreadable_pictures_are_no_training_pictures(photos):
    (photos / "train" / "red" / "dead.jpg").symlink_to("nowhere.jpg")
    found = select(open_source(photos))
    assert "train/red/dead.jpg" not in [found.source.ids[row] for row in found.train]
    assert any("1 of 31 pictures failed" in note for note in found.notes)


def test_labels_are_matched_by_name(photos):
    source = open_source(photos)
    labels, classes = relabel_source(source, ("red", "absent", "green", "blue"))
    assert classes == ("red", "absent", "green", "blue")
    assert [classes[label] for label in labels] == [source.classes[label] for label in source.labels]
    assert relabel_source(source, source.classes)[0] is source.labels
    with pytest.raises(HeadError, match=r"has 2 class\w* that the head does not know \(green, red\)"):
        relabel_source(source, ("blue",))
    with pytest.raises(HeadError, match="has no labels"):
        relabel_source(open_source(photos, target=Target.NONE), None)


def test_several_labels_are_matched_by_name_and_unknown_ones_stay_unknown(photos):
    Path(photos / "m.csv").write_text("path,label\ntrain/red/000.jpg,a;b\ntrain/red/001.jpg,b\ntrain/red/002.jpg,\n")
    source = open_source(photos / "m.csv", target="multilabel")
    labels, classes = relabel_source(source, ("c", "b", "a"))
    assert classes == ("c", "b", "a")
    expected = {0: [0, 1, 1], 1: [0, 1, 0]}
    for row, wanted in expected.items():
        np.testing.assert_array_equal(labels[row], wanted)
    known = (source.labels <= 1).all(axis=1)
    assert ((labels <= 1).all(axis=1) == known).all()


def test_nothing_to_train_on_is_one_line(photos):
    shutil.rmtree(photos / "train")
    with pytest.raises(HeadError, match="no labelled picture to train on"):
        select(open_source(photos))


def test_the_cache_beside_a_head(photos, fit):
    head = fit()
    assert default_cache(head) == Path("photos.h5")
    assert default_cache(Path("other.head")) is None
    assert tle.load_head(head).classes == ("blue", "green", "red")
