"""Which pictures a report is about when nobody says, and when somebody does."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import xxhash

from tle.bundle import Bundle
from tle.enums import Target
from tle.errors import HeadError, SourceError, UsageError
from tle.heads.affine import Affine, Link
from tle.heads.head import Head
from tle.reporting.pictures import choose_pictures, open_pictures
from tle.sources import open_source

NAMES = ("cat", "dog")


def digests(source, rows):
    return np.sort(np.array([xxhash.xxh3_64_intdigest(source.read(row)) for row in rows], np.uint64))


@pytest.fixture
def make_bundle():
    """make_bundle(fit, val, classes, target, data): a classifier that was fitted on pictures of those digests."""

    def make(fit=(), val=None, *, classes=NAMES, target=Target.CLASS, data=MappingProxyType({})):
        outputs = len(classes) or 1
        head = Head(
            kind="logistic",
            target=target,
            classes=classes,
            dim=3,
            fingerprint="f",
            spec={"backbone": {"name": "a/b", "weights": "W"}},
            fit={},
            fit_digests=np.array(fit, np.uint64),
            model=Affine(np.zeros((outputs, 3), np.float32), np.zeros(outputs, np.float32), Link.of(target)),
        )
        arrays = {} if val is None else {"val_digests": np.array(val, np.uint64)}
        return Bundle(head=head, data=data, arrays=arrays)

    return make


def test_the_test_split_is_taken_where_there_is_one(make_images, make_bundle, tmp_path):
    source = open_source(make_images(tmp_path, NAMES, 3, splits=("train", "val", "test")))
    chosen = choose_pictures(make_bundle(), source, None)
    assert chosen.split == "test"
    assert all(name.startswith("test/") for name in chosen.source.ids)
    assert chosen.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert chosen.counts["train"] == {"cat": 3, "dog": 3, "": 6}
    assert choose_pictures(make_bundle(), source, "all").source is source
    assert len(choose_pictures(make_bundle(), source, "train").source) == 6


def test_without_a_test_split_it_is_val_by_folder_or_by_digest(make_images, make_bundle, tmp_path):
    folders = open_source(make_images(tmp_path / "a", NAMES, 3, splits=("train", "val")))
    assert choose_pictures(make_bundle(), folders, None).split == "val"
    plain = open_source(make_images(tmp_path / "b", NAMES, 4))
    everything, val = digests(plain, range(8)), digests(plain, [1, 6])
    bundle = make_bundle(everything, val)
    chosen = choose_pictures(bundle, plain, None)
    assert (chosen.split, chosen.source.ids) == ("val", (plain.ids[1], plain.ids[6]))
    trained = choose_pictures(bundle, plain, "train")
    assert trained.source.ids == tuple(name for row, name in enumerate(plain.ids) if row not in (1, 6))


def test_new_pictures_are_taken_whole_and_those_of_the_fit_only_on_request(make_images, make_bundle, tmp_path):
    source = open_source(make_images(tmp_path, NAMES, 4))
    assert choose_pictures(make_bundle([1, 2]), source, None).split == "all"
    bundle = make_bundle(digests(source, [0, 1]))
    with pytest.raises(UsageError, match=r"shares 2 with the fit.*--split"):
        choose_pictures(bundle, source, None)
    assert len(choose_pictures(bundle, source, "all").source) == 8
    for split, message in (("test", "no labelled picture in split 'test'"), ("best", "train, val, test, all")):
        with pytest.raises(UsageError, match=message):
            choose_pictures(bundle, source, split)


def test_labels_are_those_of_the_head_by_name(make_images, make_bundle, tmp_path):
    source = open_source(make_images(tmp_path, NAMES, 2))
    assert choose_pictures(make_bundle(classes=("ant", "dog", "cat")), source, None).labels.tolist() == [2, 2, 1, 1]
    with pytest.raises(HeadError, match="'dog'"):
        choose_pictures(make_bundle(classes=("cat",)), source, None)


def test_labels_that_the_source_lacks_are_left_out(make_images, make_bundle, tmp_path):
    make_images(tmp_path, NAMES, 1)
    (tmp_path / "list.csv").write_text("path,label\ncat/000.jpg,cat;soft\ndog/000.jpg,dog\n")
    bundle = make_bundle(classes=("cat", "dog", "owl", "soft"), target=Target.MULTILABEL)
    chosen = choose_pictures(bundle, open_pictures(bundle, tmp_path / "list.csv"), None)
    scores = np.arange(4)[chosen.columns]
    assert [bundle.head.classes[column] for column in scores] == list(chosen.classes)
    found = [{name for name, on in zip(chosen.classes, row, strict=True) if on} for row in chosen.labels]
    assert found == [{"cat", "soft"}, {"dog"}]
    assert "owl" not in chosen.classes
    assert any("1 of 4 labels of the head" in note for note in chosen.notes)


def test_where_the_pictures_are_comes_from_the_file_if_they_are_still_there(make_images, make_bundle, tmp_path):
    root = make_images(tmp_path / "photos", NAMES, 2)
    data = {"images": str(root), "kind": "folder"}
    assert len(open_pictures(make_bundle(data=data), None)) == 4
    for recorded, message in (
        ({}, "does not say where"),
        (data | {"images": str(tmp_path / "gone")}, "no longer at"),
        (data | {"kind": "manifest"}, "listed by a manifest"),
    ):
        with pytest.raises(UsageError, match=f"{message}.*--images"):
            open_pictures(make_bundle(data=recorded), None)


def test_pictures_without_labels_are_refused(make_images, make_bundle, tmp_path):
    make_images(tmp_path, NAMES, 1)
    (tmp_path / "list.csv").write_text("path,label\ncat/000.jpg,\ndog/000.jpg,\n")
    with pytest.raises(SourceError, match="label"):
        open_pictures(make_bundle(), tmp_path / "list.csv")
    (tmp_path / "some.csv").write_text("path,label\ncat/000.jpg,cat\ndog/000.jpg,\n")
    source = open_pictures(make_bundle(), tmp_path / "some.csv")
    chosen = choose_pictures(make_bundle(), source, None)
    assert len(chosen.source) == 1
    assert any("1 picture without a label" in note for note in chosen.notes)
    assert replace(chosen, notes=()).counts == {"": {"cat": 1, "": 1}}
