"""Which pictures serve what, and figures of two classifiers on the same pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tle
from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.exporting.agreement import Agreement
from tle.exporting.int8_cost import CALIBRATION, choose_rows, int8_cost
from tle.heads.head import Head
from tle.sources.digests import digests_of

IMAGES = Path("photos")


@pytest.fixture
def source(tmp_path, make_images):
    return tle.open_source(make_images(tmp_path / "p", ["cat", "dog"], 4, 16, splits=["train", "val", "test"]))


def split_of(source, rows):
    return {int(split) for split in source.splits[rows]}


@pytest.mark.parametrize(("split", "measured"), [(None, {2}), ("val", {2}), ("test", {3}), ("train", {1})])
def test_what_is_measured_and_what_ranges_are_taken_from(source, split, measured):
    rows = choose_rows(source, IMAGES, split, None)
    assert split_of(source, rows.measured) == measured
    assert split_of(source, rows.calibration) == ({2} if split == "train" else {1})
    assert not set(rows.measured) & set(rows.calibration)
    assert rows.split == (split or "val")
    assert rows.notes == ()


def test_all_leaves_nothing_else_to_calibrate_on_and_says_so(source):
    rows = choose_rows(source, IMAGES, "all", None)
    assert len(rows.measured) == len(rows.calibration) == 24
    assert any("the very pictures" in note for note in rows.notes)


def test_val_pictures_are_known_by_their_digests(source):
    source = replace(source, splits=np.zeros(len(source), np.uint8))
    known = np.array(list(digests_of(source, [3, 9, 20])), np.uint64)
    rows = choose_rows(source, IMAGES, None, known)
    assert (rows.measured.tolist(), rows.split) == ([3, 9, 20], "val")
    assert not set(rows.calibration) & {3, 9, 20}
    with pytest.raises(UsageError, match="photos has no val split .*--split train, test or all"):
        choose_rows(source, IMAGES, None, None)
    with pytest.raises(HeadError, match="no labelled picture in split 'val'"):
        choose_rows(source, IMAGES, None, np.array([1], np.uint64))


def test_calibration_is_spread_and_bounded(source):
    many = replace(
        source,
        ids=tuple(map(str, range(1000))),
        labels=np.zeros(1000, np.int64),
        splits=np.array([1] * 990 + [2] * 10, np.uint8),
    )
    rows = choose_rows(many, IMAGES, None, None).calibration
    assert len(rows) == CALIBRATION
    assert np.diff(rows).max() <= 10


def head_of(target, classes):
    return Head(
        kind="x",
        target=target,
        classes=classes,
        dim=2,
        fingerprint="f",
        spec={},
        fit={},
        fit_digests=np.array([5], np.uint64),
        model=object(),
    )


def agreement_of(expected, found, target):
    n = len(expected)
    return Agreement(
        indices=np.arange(n),
        expected=np.asarray(expected, np.float32),
        found=np.asarray(found, np.float32),
        digests=np.arange(4, 4 + n, dtype=np.uint64),
        target=target,
    )


def test_a_paired_difference_of_accuracies(source):
    some = source.subset(np.arange(8))  # four cats, four dogs, in the order of the names
    truth = np.eye(2)[some.labels]
    found = truth.copy()
    found[0] = found[0, ::-1]
    cost = int8_cost(head_of(Target.CLASS, ("cat", "dog")), agreement_of(truth, found, Target.CLASS), some, IMAGES)
    assert (cost["float32"], cost["int8"], cost["difference"]) == (1.0, 0.875, -0.125)
    low, high = cost["interval"]
    assert -0.5 < low <= -0.125 <= high <= 0
    assert (cost["n"], cost["seen_in_fit"], cost["top1_agreement"], cost["max_abs_difference"]) == (8, 1, 0.875, 1.0)


def test_several_labels_and_values(source):
    several = replace(source.subset(np.arange(4)), labels=np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.uint8))
    several = replace(several, target=Target.MULTILABEL)
    scores = several.labels * 0.8 + 0.1
    cost = int8_cost(
        head_of(Target.MULTILABEL, ("cat", "dog")), agreement_of(scores, scores, Target.MULTILABEL), several, IMAGES
    )
    assert (cost["metric"], cost["float32"], cost["difference"], cost["top1_agreement"]) == ("mAP", 1.0, 0.0, None)
    values = replace(source.subset(np.arange(4)), labels=np.array([10, 20, 30, 40], np.float32), classes=())
    values = replace(values, target=Target.REGRESSION)
    expected = values.labels[:, None]
    agreement = agreement_of(expected, expected + 2, Target.REGRESSION)
    cost = int8_cost(head_of(Target.REGRESSION, ()), agreement, values, IMAGES)
    assert (cost["metric"], cost["float32"], cost["int8"], cost["difference"]) == ("mae", 0.0, 2.0, 2.0)
    assert cost["max_abs_difference"] == pytest.approx(2 / 40)  # beside values of 40
