"""One merged cache has to be as good as one that was written whole."""

import json
import os
import shutil

import h5py
import numpy as np
import pytest

import tle
from tle.cache.checksums import array_checksum
from tle.cache.claim import Claim
from tle.cache.merging import merge
from tle.enums import Split, Status, Target
from tle.errors import CacheError, FingerprintError, OutputError, UsageError
from tle.files import part_path

BOTH = pytest.mark.parametrize("copy", [False, True], ids=["pointing", "copied"])


@pytest.fixture
def three(tmp_path, write_cache):
    """Caches of different classes and sizes: 4 + 7 + 1 rows, two of them failed."""
    write_cache(tmp_path / "a.h5", failed=(1,))
    (tmp_path / "sub").mkdir()
    write_cache(
        tmp_path / "sub" / "b ü.h5",
        7,
        failed=(6,),
        classes=("a", "b", "z"),
        labels=np.array([0, 1, 2, -1, 2, 1, 0]),
        run={"runtime": "onnx", "max_pixels": 50, "parity": {"min_cosine": 0.99}},
    )
    write_cache(tmp_path / "c.h5", 1, ids=["only.jpg"], classes=("ü",), labels=np.array([0]), run={"runtime": "torch"})
    return [tmp_path / "a.h5", tmp_path / "sub" / "b ü.h5", tmp_path / "c.h5"]


@BOTH
def test_all_rows_of_all_caches_in_order(three, tmp_path, copy):
    result = merge(three, tmp_path / "all.h5", copy=copy)
    parts = [tle.open_cache(path) for path in three]
    merged = tle.open_cache(tmp_path / "all.h5")
    assert (result.n_images, result.n_failed, result.dim, result.n_caches, result.copied) == (12, 2, 5, 3, copy)
    assert merged.ids == sum((part.ids for part in parts), ())
    assert merged.fingerprint == parts[0].fingerprint
    assert merged.features.shape == (12, 5)
    features = np.concatenate([part.features for part in parts])
    np.testing.assert_array_equal(merged.features[merged.rows()], features[merged.rows()])
    for name in ("status", "digests", "files", "splits", "checksums"):
        np.testing.assert_array_equal(getattr(merged, name), np.concatenate([getattr(part, name) for part in parts]))
    assert merged.failures == ((1, "truncated: ümlaut 1"), (10, "truncated: ümlaut 6"))
    assert merged.classes == ("a", "b", "z", "ü")
    named = [None if label < 0 else merged.classes[label] for label in merged.labels]
    assert named == ["a", "a", "ü", None, "a", "b", "z", None, "z", "b", "a", "ü"]
    assert tle.verify(tmp_path / "all.h5").sound
    assert any("different classes" in note for note in result.notes)


@BOTH
def test_multilabel_columns_follow_their_classes(tmp_path, write_cache, copy):
    one, other = np.array([[1, 0], [1, 1], [255, 255], [0, 0]], np.uint8), np.array([[1], [0]], np.uint8)
    write_cache(tmp_path / "a.h5", target=Target.MULTILABEL, labels=one, classes=("b", "d"))
    write_cache(tmp_path / "b.h5", 2, target=Target.MULTILABEL, labels=other, classes=("c",))
    merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5", copy=copy)
    merged = tle.open_cache(tmp_path / "all.h5")
    assert merged.classes == ("b", "c", "d")
    assert merged.labels.tolist() == [[1, 0, 0], [1, 0, 1], [255] * 3, [0, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("target", "labels"),
    [(Target.REGRESSION, np.array([0.5, np.nan, 2, -1], np.float32)), (Target.NONE, np.full(4, -1))],
)
def test_labels_without_classes_stay_as_they_are(tmp_path, write_cache, target, labels):
    ids = [f"{number}.png" for number in range(4)]
    write_cache(tmp_path / "a.h5", target=target, labels=labels, classes=())
    write_cache(tmp_path / "b.h5", target=target, labels=labels, classes=(), ids=ids)
    merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5")
    np.testing.assert_array_equal(tle.open_cache(tmp_path / "all.h5").labels, np.concatenate([labels, labels]))


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_heads_and_figures_are_those_of_one_big_cache(tmp_path, write_cache, make_features, copy, dtype):
    """Two halves, each with a class that the other lacks, against the same rows written at once."""
    n = 120
    labels = np.arange(n) % 3
    labels[: n // 2][labels[: n // 2] == 2] = 0
    labels[n // 2 :][labels[n // 2 :] == 0] = 2
    splits = np.resize(np.array([Split.TRAIN, Split.TRAIN, Split.VAL, Split.TEST], np.uint8), n)
    rows = make_features(n) + labels[:, None]
    names = np.array(["a", "b", "c"])

    def write(path, part):
        used = np.unique(labels[part])
        place = {label: number for number, label in enumerate(used)}
        write_rows(
            path, rows[part], ids=[f"{row}.jpg" for row in np.arange(n)[part]], classes=tuple(names[used]),
            labels=np.array([place[label] for label in labels[part]]), splits=splits[part], dtype=dtype,
        )  # fmt: skip

    def write_rows(path, rows, **changes):
        from tle.cache.layout import Content
        from tle.cache.writer import CacheWriter

        known = {"target": Target.CLASS, "dim": 5, "spec": spec, "run": {"runtime": "torch"}}
        with CacheWriter.create(path, Content(**(known | changes))) as writer:
            digests = np.array([hash(name) % 2**60 + 1 for name in changes["ids"]], np.uint64)
            writer.write(np.arange(len(rows)), rows.astype(np.float32), digests)
            writer.finish(replace=False)

    spec = tle.open_cache(write_cache(tmp_path / "spec.h5")).spec
    write(tmp_path / "whole.h5", slice(None))
    write(tmp_path / "a.h5", slice(0, n // 2))
    write(tmp_path / "b.h5", slice(n // 2, n))
    merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5", copy=copy)
    whole, merged = tle.open_cache(tmp_path / "whole.h5"), tle.open_cache(tmp_path / "all.h5")
    np.testing.assert_array_equal(merged.labels, whole.labels)
    for kind in ("logistic", "knn"):
        figures = []
        for name in ("whole", "all"):
            tle.fit_head(tmp_path / f"{name}.h5", tmp_path / f"{name}-{kind}.head", head=kind)
            result = tle.evaluate(tmp_path / f"{name}-{kind}.head", tmp_path / f"{name}.h5")
            assert result.seen_in_fit == 0
            figures.append((result.n, result.classes, json.dumps(result.metrics, default=str)))
        assert figures[0] == figures[1]
    np.testing.assert_array_equal(np.concatenate([block for _, block in merged.blocks(7)]), whole.features)


def test_plain_h5py_reads_a_pointing_cache_from_anywhere(three, tmp_path, monkeypatch):
    merge(three, tmp_path / "all.h5")
    merged = tle.open_cache(tmp_path / "all.h5")
    elsewhere = tmp_path / "sub" / "deep"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with h5py.File(tmp_path / "all.h5") as h5:
        assert h5["features"].is_virtual
        assert {source.file_name for source in h5["features"].virtual_sources()} == {"a.h5", "sub/b ü.h5", "c.h5"}
        np.testing.assert_array_equal(h5["features"][:], np.asarray(merged.features))
        np.testing.assert_array_equal(h5["status"][:], merged.status)


def test_the_folder_can_be_moved_as_a_whole(three, tmp_path):
    merge(three, tmp_path / "all.h5")
    before = np.asarray(tle.open_cache(tmp_path / "all.h5").features)
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    shutil.copytree(tmp_path, moved)
    shutil.rmtree(tmp_path / "sub")
    np.testing.assert_array_equal(np.asarray(tle.open_cache(moved / "all.h5").features), before)
    shutil.rmtree(moved)


def test_a_copy_needs_none_of_its_caches(three, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    merge(three, elsewhere / "all.h5", copy=True)
    for path in three:
        path.unlink()
    assert len(tle.open_cache(elsewhere / "all.h5").to_numpy()[0]) == 10
    assert os.listdir(elsewhere) == ["all.h5"]


def test_a_part_that_changed_or_is_gone_is_noticed(three, tmp_path, write_cache):
    merge(three, tmp_path / "all.h5")
    three[2].unlink()
    with pytest.raises(CacheError, match=r"c\.h5"):
        tle.open_cache(tmp_path / "all.h5")
    write_cache(three[2], 1, ids=["only.jpg"], classes=("ü",), labels=np.array([0]), failed=(0,))
    with pytest.raises(CacheError, match="merge again"):
        tle.open_cache(tmp_path / "all.h5")


def test_what_cannot_be_pointed_to_says_so(three, tmp_path, write_cache):
    (tmp_path / "out").mkdir()
    with pytest.raises(CacheError, match="lies outside .* pass --copy"):
        merge(three, tmp_path / "out" / "all.h5")
    (tmp_path / "out" / "a.h5").symlink_to(three[0])
    with pytest.raises(CacheError, match="lies outside .* pass --copy"):
        merge([tmp_path / "out" / "a.h5"], tmp_path / "out" / "all.h5")
    merge(three[:2], tmp_path / "two.h5")
    with pytest.raises(CacheError, match="merged itself.*--copy"):
        merge([tmp_path / "two.h5", three[2]], tmp_path / "all.h5")
    with pytest.raises(CacheError, match="%.*--copy"):
        merge([shutil.copy(three[0], tmp_path / "a%b.h5")], tmp_path / "all.h5")
    assert sorted(os.listdir(tmp_path)) == ["a%b.h5", "a.h5", "c.h5", "out", "sub", "two.h5"]


def test_a_merged_cache_can_be_copied_on(three, tmp_path):
    merge(three[:2], tmp_path / "two.h5")
    merge([tmp_path / "two.h5", three[2]], tmp_path / "nested.h5", copy=True)
    merge(three, tmp_path / "all.h5", copy=True)
    nested, direct = tle.open_cache(tmp_path / "nested.h5"), tle.open_cache(tmp_path / "all.h5")
    np.testing.assert_array_equal(nested.checksums, direct.checksums)
    np.testing.assert_array_equal(nested.labels, direct.labels)
    assert "parts" not in nested.run
    assert "parts" not in json.dumps(nested.run)


@BOTH
def test_the_record_keeps_what_later_runs_compare_with(three, tmp_path, copy):
    merge(three, tmp_path / "all.h5", copy=copy)
    run = tle.open_cache(tmp_path / "all.h5").run
    assert run["runtime"] == ["torch", "onnx"]
    assert run["parity"] == {"min_cosine": 0.99}
    assert "max_pixels" not in run  # two caches have failures, under different limits
    assert [part["images"] for part in run["merged"]] == [4, 7, 1]
    assert ("parts" in run) is not copy
    merge(three[1:], tmp_path / "two.h5", copy=copy)
    assert tle.open_cache(tmp_path / "two.h5").run["max_pixels"] == 50


@BOTH
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"spec": {"decoder": "turbo"}}, FingerprintError, "decoder: turbo instead of pillow"),
        ({"spec": {"precision": "bfloat16"}}, FingerprintError, "precision: bfloat16 instead of float32"),
        ({"dtype": "float16"}, CacheError, "dtype float32 as in .*a.h5, .*other.h5 has float16"),
        ({"dim": 6}, CacheError, "dimension 5 as in"),
        ({"target": Target.NONE, "classes": (), "labels": np.full(4, -1)}, CacheError, "target class as in"),
    ],
)
def test_caches_of_different_kinds_do_not_meet(three, tmp_path, write_cache, copy, changes, error, message):
    spec = tle.open_cache(three[0]).spec | changes.get("spec", {})
    write_cache(tmp_path / "other.h5", ids=list("wxyz"), **(changes | {"spec": spec}))
    with pytest.raises(error, match=message) as caught:
        merge([three[0], tmp_path / "other.h5"], tmp_path / "all.h5", copy=copy)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "all.h5").exists()


@BOTH
def test_an_id_that_is_there_twice_is_named_with_its_caches(three, tmp_path, write_cache, copy):
    write_cache(tmp_path / "d.h5", 2, ids=["new.jpg", "only.jpg"])
    with pytest.raises(CacheError, match=r"'only\.jpg' is in .*c\.h5 and in .*d\.h5"):
        merge([*three, tmp_path / "d.h5"], tmp_path / "all.h5", copy=copy)
    with pytest.raises(UsageError, match="named twice"):
        merge([three[0], three[0]], tmp_path / "all.h5", copy=copy)
    with pytest.raises(UsageError, match="got none"):
        merge([], tmp_path / "all.h5", copy=copy)


def flip(path, name, row=0):
    """Change the first byte of a row of an array behind HDF5's back."""
    slot = tle.open_cache(path).slots[name]
    data = bytearray(path.read_bytes())
    data[slot.offset + row * slot.row_bytes] ^= 1
    path.write_bytes(data)


def test_damaged_rows_are_not_taken_over(three, tmp_path):
    for row in (0, 2, 3):
        flip(three[1], "features", row)
    with pytest.raises(CacheError, match=r"3 of 7 rows of .*b ü\.h5 are damaged: tle verify"):
        merge(three, tmp_path / "all.h5", copy=True)
    assert not list(tmp_path.glob("all*"))
    merge(three, tmp_path / "all.h5")  # what is pointed to keeps its checksums, and so its damage stays visible
    assert tle.verify(tmp_path / "all.h5").damaged == (4, 6, 7)


@BOTH
@pytest.mark.parametrize("name", ["labels", "splits", "ids"])
def test_damage_beside_the_rows_is_not_hidden(three, tmp_path, copy, name):
    flip(three[0], name)
    with pytest.raises(CacheError, match=f"/{name} is damaged.*tle verify"):
        merge(three, tmp_path / "all.h5", copy=copy)


@BOTH
def test_pending_rows_have_to_be_extracted_first(three, tmp_path, copy):
    flip(three[0], "features", 2)
    tle.verify(three[0], repair=True)
    with pytest.raises(CacheError, match=r"1 of 4 rows of .*a\.h5 are pending: extract it again"):
        merge(three, tmp_path / "all.h5", copy=copy)


@BOTH
def test_outputs_that_are_there(three, tmp_path, copy):
    merge(three[:2], tmp_path / "all.h5", copy=copy)
    with pytest.raises(OutputError, match="--overwrite"):
        merge(three, tmp_path / "all.h5", copy=copy)
    merge(three, tmp_path / "all.h5", copy=copy, overwrite=True)
    assert len(tle.open_cache(tmp_path / "all.h5")) == 12
    with pytest.raises(OutputError, match="read by this very command"):
        merge(three, three[0], copy=copy, overwrite=True)
    part_path(tmp_path / "new.h5").write_bytes(b"hours of work")
    with pytest.raises(OutputError, match="left by an interrupted run"):
        merge(three, tmp_path / "new.h5", copy=copy)
    assert part_path(tmp_path / "new.h5").read_bytes() == b"hours of work"


@BOTH
def test_a_cache_that_is_being_extracted_is_left_alone(three, tmp_path, copy):
    claim = Claim(tmp_path / "all.h5")
    try:
        with pytest.raises(OutputError, match="another process is writing"):
            merge(three, tmp_path / "all.h5", copy=copy)
    finally:
        claim.release()
    merge(three, tmp_path / "all.h5", copy=copy)
    assert not list(tmp_path.glob("*.part*"))


def test_many_failures_are_all_listed(tmp_path, write_cache):
    write_cache(tmp_path / "a.h5", 500, failed=np.arange(0, 500, 2))
    write_cache(tmp_path / "b.h5", 300, failed=np.arange(300), ids=[f"b{row}" for row in range(300)])
    merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5")
    merged = tle.open_cache(tmp_path / "all.h5")
    assert [row for row, _ in merged.failures] == [*range(0, 500, 2), *range(500, 800)]
    assert (merged.status == Status.FAILED).sum() == 550
    assert merged.structure.checksums["ids"] == array_checksum(merged.raw("ids"))
    assert tle.verify(tmp_path / "all.h5").sound
