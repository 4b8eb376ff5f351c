"""What goes out comes back the same, and what comes from elsewhere is looked at first."""

import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import save_file

import tle
from tle.cache.conversion import WRITERS, convert
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.enums import Split, Status, Target
from tle.errors import CacheError, FingerprintError, MissingPackageError, OutputError, TleError, UsageError
from tle.files import FILE_DTYPE, part_path

WHOLE = (".npz", ".parquet", ".safetensors")
whole = pytest.mark.parametrize("suffix", WHOLE)


def assert_same(found, expected):
    """Two caches hold the same, whatever file they are in."""
    valid = expected.valid
    for name in ("ids", "classes", "target", "fingerprint", "spec", "run", "failures"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("labels", "splits", "status", "digests", "files", "checksums"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert found.features.dtype == expected.features.dtype
    assert found.features[valid].tobytes() == expected.features[valid].tobytes()  # bit for bit: also the sign of zero


def round_trip(path, suffix):
    there, back = path.with_name(f"there{suffix}"), path.with_name("back.h5")
    convert(path, there, overwrite=True)
    result = convert(there, back, overwrite=True)
    assert result.notes == ()
    return tle.open_cache(back)


@whole
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("target", "labels", "classes"),
    [
        (Target.CLASS, np.array([0, 1, -1, 1]), ("a", "ü")),
        (Target.MULTILABEL, np.array([[1, 0], [1, 1], [255, 255], [0, 0]], np.uint8), ("a;b", "ü")),
        (Target.REGRESSION, np.array([0.1, np.nan, 1e30, -0.0], np.float32), ()),
        (Target.NONE, np.full(4, -1), ()),
    ],
)
def test_a_whole_cache_comes_back(tmp_path, write_cache, suffix, dtype, target, labels, classes):
    path = write_cache(tmp_path / "c.h5", failed=(1,), dtype=dtype, target=target, labels=labels, classes=classes)
    back = round_trip(path, suffix)
    assert_same(back, tle.open_cache(path))
    assert back.failures == ((1, "truncated: ümlaut 1"),)
    assert tle.verify(back.path).sound
    assert not list(tmp_path.glob("*.part*"))
    assert not list(tmp_path.glob(".*"))


@st.composite
def contents(draw):
    """Any small cache: content, features, digests, files, failed rows."""
    n, dim = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
    target = draw(st.sampled_from(list(Target)))
    classes = []
    if target in (Target.CLASS, Target.MULTILABEL):
        classes = sorted(draw(st.lists(names.filter(bool), min_size=1, max_size=4, unique=True)))
    if target is Target.CLASS:
        labels = draw(hnp.arrays(np.int64, n, elements=st.integers(-1, len(classes) - 1)))
    elif target is Target.MULTILABEL:
        labels = draw(hnp.arrays(np.uint8, (n, len(classes)), elements=st.integers(0, 1)))
        labels[draw(hnp.arrays(np.bool_, n))] = 255
    elif target is Target.REGRESSION:
        labels = draw(hnp.arrays(np.float32, n, elements=st.floats(width=32, allow_infinity=False)))
    else:
        labels = np.full(n, -1)
    dtype = draw(st.sampled_from(["float16", "float32"]))
    width = 8 * np.dtype(dtype).itemsize
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False)
    files = np.zeros(n, FILE_DTYPE)
    for name in ("size", "mtime_ns"):
        files[name] = draw(hnp.arrays(np.int64, n))
    content = Content(
        ids=draw(st.lists(names, min_size=n, max_size=n, unique=True)),
        labels=labels,
        classes=classes,
        splits=draw(hnp.arrays(np.uint8, n, elements=st.integers(0, 3))),
        target=target,
        dim=dim,
        dtype=dtype,
        spec={"backbone": {"name": "x", "dim": dim}, "preprocess": {}, "decoder": "d", "precision": "float32"},
        run={"runtime": draw(names), "nested": {"list": [1, 2.5, None, draw(names)]}},
    )
    features = draw(hnp.arrays(np.dtype(dtype), (n, dim), elements=floats)).astype(np.float32)
    failed = draw(hnp.arrays(np.bool_, n))
    reasons = [
        draw(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
        for _ in failed
    ]
    return content, features, draw(hnp.arrays(np.uint64, n)), files, failed, reasons


@whole
@settings(max_examples=40, deadline=None)
@given(contents())
def test_any_cache_comes_back(suffix, made):
    content, features, digests, files, failed, reasons = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.h5"
        with CacheWriter.create(path, content) as writer:
            good = np.flatnonzero(~failed)
            writer.write(good, features[good], digests[good], files[good])
            for row in np.flatnonzero(failed).tolist():
                writer.fail(row, reasons[row], int(digests[row]), files[row])
            writer.finish(replace=False)
        assert_same(round_trip(path, suffix), tle.open_cache(path))


@whole
def test_many_blocks_and_row_groups(tmp_path, write_cache, suffix, monkeypatch):
    """Files that are larger than what is held at once, cut at odd places."""
    from tle.formats import parquet_file, portable

    monkeypatch.setattr(portable, "BLOCK_BYTES", 37 * 20)
    monkeypatch.setattr(parquet_file, "_GROUP_BYTES", 101 * 20)
    path = write_cache(tmp_path / "c.h5", 1000, failed=(0, 36, 37, 500, 999))
    assert_same(round_trip(path, suffix), tle.open_cache(path))
    if suffix == ".parquet":
        assert pq.ParquetFile(tmp_path / "there.parquet").num_row_groups == 10


@whole
def test_a_merged_cache_goes_out_as_a_whole(tmp_path, write_cache, suffix):
    write_cache(tmp_path / "a.h5", failed=(2,))
    write_cache(tmp_path / "b.h5", 9)
    tle.merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5")
    tle.merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "copy.h5", copy=True)
    back, expected = round_trip(tmp_path / "all.h5", suffix), tle.open_cache(tmp_path / "copy.h5")
    assert "parts" not in back.run
    np.testing.assert_array_equal(back.checksums, expected.checksums)
    np.testing.assert_array_equal(back.features[back.rows()], expected.features[back.rows()])


def test_npy_holds_the_valid_rows_and_says_what_is_left_out(tmp_path, write_cache):
    path = write_cache(tmp_path / "c.h5", failed=(1,), dtype="float16")
    result = convert(path, tmp_path / "c.npy")
    cache = tle.open_cache(path)
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), cache.to_numpy()[0])
    assert (result.n_images, result.n_failed, result.dtype) == (3, 0, "float16")
    assert "3 of 4 rows (1 without features" in result.notes[0]
    assert "ids, labels and splits are not in it" in result.notes[0]


def test_other_programs_read_what_is_written(tmp_path, write_cache):
    cache = tle.open_cache(write_cache(tmp_path / "c.h5", failed=(1,)))
    for suffix in WHOLE:
        convert(cache.path, tmp_path / f"c{suffix}")
    with np.load(tmp_path / "c.npz", allow_pickle=False) as arrays:
        assert arrays["ids"].tolist() == list(cache.ids)
        np.testing.assert_array_equal(arrays["features"][[0, 2, 3]], cache.features[[0, 2, 3]])
        assert np.isnan(arrays["features"][1]).all()
    rows = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert [row["label"] for row in rows] == ["a", "a", "ü", None]
    assert [row["split"] for row in rows] == ["train", "val", "test", "none"]
    assert [row["status"] for row in rows] == ["done", "failed", "done", "done"]
    assert rows[1]["features"] is None
    assert rows[1]["reason"] == "truncated: ümlaut 1"
    np.testing.assert_array_equal(np.array(rows[2]["features"], np.float32), cache.features[2])
    with safe_open(tmp_path / "c.safetensors", framework="np") as tensors:
        assert json.loads(tensors.metadata()["ids"]) == list(cache.ids)
        np.testing.assert_array_equal(tensors.get_tensor("features")[0], cache.features[0])
    ordinary = (tmp_path / "c.npz").stat().st_mode
    assert all((tmp_path / f"c{suffix}").stat().st_mode == ordinary for suffix in WHOLE)


def foreign(path, features, **columns):
    """A file as somebody else writes it."""
    columns = {name: values for name, values in columns.items() if values is not None}
    if path.suffix == ".npz":
        np.savez(path, features=features, **{name: np.array(values) for name, values in columns.items()})
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"features": list(features), **{k: list(v) for k, v in columns.items()}}), path)
    elif path.suffix == ".npy":
        np.save(path, features)
    else:
        text = {name: json.dumps(list(values)) for name, values in columns.items() if isinstance(values[0], str)}
        tensors = {name: np.array(values) for name, values in columns.items() if name not in text}
        save_file({"features": np.ascontiguousarray(features)} | tensors, path, text)
    return path


@whole
def test_features_from_elsewhere(tmp_path, make_features, suffix):
    rows = make_features(6)
    source = foreign(tmp_path / f"f{suffix}", rows, labels=[3, -1, 10, 3, 0, 10], ids=list("äbcdef"),
                     splits=["train", "Valid", "", "none", "test", "val"])  # fmt: skip
    result = convert(source, tmp_path / "f.h5", name="clip")
    cache = tle.open_cache(tmp_path / "f.h5")
    np.testing.assert_array_equal(cache.features, rows)
    assert cache.ids == tuple("äbcdef")
    assert (cache.target, cache.classes) == (Target.CLASS, ("0", "10", "3"))
    assert cache.labels.tolist() == [2, -1, 1, 2, 0, 1]
    assert cache.splits.tolist() == [Split.TRAIN, Split.VAL, Split.NONE, Split.NONE, Split.TEST, Split.VAL]
    assert cache.spec["backbone"]["name"] == "imported:clip"
    assert (result.n_images, result.n_failed, result.fingerprint) == (6, 0, cache.fingerprint)
    assert any("imported:clip" in note for note in result.notes)
    assert tle.verify(cache.path).sound
    assert_same(round_trip(cache.path, ".npz"), cache)


@pytest.mark.parametrize(
    ("given", "target", "classes", "labels"),
    [
        ({"y": ["b", "a", "", "b"]}, Target.CLASS, ("a", "b"), [1, 0, -1, 1]),
        ({"label": np.array([b"b", b"a", b"a", b"b"])}, Target.CLASS, ("a", "b"), [1, 0, 0, 1]),
        ({"labels": [True, False, True, True]}, Target.CLASS, ("0", "1"), [1, 0, 1, 1]),
        ({"labels": [0, 2, -1, 0], "classes": ["z", "m", "a"]}, Target.CLASS, ("a", "m", "z"), [2, 0, -1, 2]),
        ({"labels": ["m", "a", "m", "a"], "classes": ["z", "m", "a"]}, Target.CLASS, ("a", "m", "z"), [1, 0, 1, 0]),
        ({"labels": [[1, 0], [0, 1], [255, 255], [0, 0]], "classes": ["z", "a"]}, Target.MULTILABEL, ("a", "z"),
         [[0, 1], [1, 0], [255, 255], [0, 0]]),
        ({"labels": [0.5, 1.0, -2.0, 4.0]}, Target.REGRESSION, (), [0.5, 1, -2, 4]),
        ({}, Target.NONE, (), [-1] * 4),
    ],
)  # fmt: skip
def test_labels_are_what_their_type_says(tmp_path, make_features, given, target, classes, labels):
    if isinstance(given.get("labels"), list) and isinstance(given["labels"][0], list):
        given = given | {"labels": np.array(given["labels"], np.uint8)}
    np.savez(tmp_path / "f.npz", X=make_features(), **given)
    convert(tmp_path / "f.npz", tmp_path / "f.h5")
    cache = tle.open_cache(tmp_path / "f.h5")
    assert (cache.target, cache.classes, cache.labels.tolist()) == (target, classes, labels)
    assert cache.ids == ("0", "1", "2", "3")


def test_parquet_of_a_data_frame(tmp_path, make_features):
    """Lists of any length, nulls, lists of names, doubles: what pandas and polars write."""
    rows = make_features(5).astype(np.float64)
    lists = pa.array([None if number == 2 else row.tolist() for number, row in enumerate(rows)])
    table = pa.table({"path": list("abcde"), "embedding": lists, "label": [["x", "y"], [], None, ["y"], ["x"]]})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=2)
    result = convert(tmp_path / "f.parquet", tmp_path / "f.h5")
    cache = tle.open_cache(tmp_path / "f.h5")
    np.testing.assert_array_equal(cache.features[[0, 1, 3, 4]], rows[[0, 1, 3, 4]].astype(np.float32))
    assert (cache.target, cache.classes) == (Target.MULTILABEL, ("x", "y"))
    assert cache.labels.tolist() == [[1, 1], [0, 0], [255, 255], [0, 1], [1, 0]]
    assert cache.failures == ((2, "the features are missing or not finite"),)
    assert any("float64" in note for note in result.notes)


@pytest.mark.parametrize("suffix", list(WRITERS))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_that_are_not_finite_are_failures(tmp_path, make_features, suffix, dtype):
    rows = make_features(5).astype(dtype)
    rows[1, 2], rows[3, 0] = np.nan, np.inf if dtype != "float64" else 1e300
    result = convert(foreign(tmp_path / f"f{suffix}", rows), tmp_path / "f.h5")
    cache = tle.open_cache(tmp_path / "f.h5")
    assert cache.features.dtype == ("float16" if dtype == "float16" else "float32")
    assert cache.status.tolist() == [Status.DONE, Status.FAILED, Status.DONE, Status.FAILED, Status.DONE]
    assert [row for row, _ in cache.failures] == [1, 3]
    assert result.n_failed == 2
    assert any("2 of 5 rows" in note and "not finite" in note for note in result.notes)
    rows[:] = np.nan
    with pytest.raises(CacheError, match="not one of the 5 rows"):
        convert(foreign(tmp_path / f"f{suffix}", rows), tmp_path / "g.h5")
    assert not list(tmp_path.glob("g.h5*"))


def test_any_order_of_bytes_and_axes(tmp_path, make_features):
    rows = make_features(7)
    np.savez_compressed(tmp_path / "f.npz", x=np.asfortranarray(rows).astype(">f4", order="F"))
    np.save(tmp_path / "f.npy", np.asfortranarray(rows.astype(">f8")))
    for name in ("f.npz", "f.npy"):
        convert(tmp_path / name, tmp_path / "f.h5", overwrite=True)
        np.testing.assert_array_equal(tle.open_cache(tmp_path / "f.h5").features, rows)


def test_files_of_one_name_meet_and_others_do_not(tmp_path, make_features):
    labels = np.arange(60) % 2
    splits = np.array(["train", "train", "val", "test", "test"])[np.arange(60) % 5]
    rows = make_features(60) + 3 * labels[:, None]
    for name in ("one", "two"):
        ids = np.array([f"{name}{row}" for row in range(60)])
        np.savez(tmp_path / f"{name}.npz", features=rows.astype(np.float32), labels=labels, splits=splits, ids=ids)
        rows = rows + 0.01
    for name in ("one", "two"):
        convert(tmp_path / f"{name}.npz", tmp_path / f"{name}.h5", name="net")
    convert(tmp_path / "two.npz", tmp_path / "other.h5")
    tle.fit_head(tmp_path / "one.h5", tmp_path / "one.head")
    result = tle.evaluate(tmp_path / "one.head", tmp_path / "two.h5", split="all")
    assert result.metrics["top1"] == 1.0
    assert result.seen_in_fit == 0  # other features are other pictures, as no pictures are known
    assert tle.evaluate(tmp_path / "one.head", tmp_path / "one.h5", split="train").seen_in_fit == 24
    tle.merge([tmp_path / "one.h5", tmp_path / "two.h5"], tmp_path / "all.h5")
    for call in (
        lambda: tle.evaluate(tmp_path / "one.head", tmp_path / "other.h5", split="all"),
        lambda: tle.merge([tmp_path / "one.h5", tmp_path / "other.h5"], tmp_path / "x.h5"),
    ):
        with pytest.raises(FingerprintError, match="imported:two"):
            call()
    with pytest.raises(TleError) as caught:
        tle.load_classifier(tmp_path / "one.head")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names", [("c.h5", "d.h5"), ("c.npz", "d.parquet"), ("c.npy", "d.npy"), ("c.h5", "d.txt"), ("c", "d.h5")]
)
def test_suffixes_say_what_is_what(tmp_path, write_cache, names):
    write_cache(tmp_path / "c.h5")
    with pytest.raises(UsageError, match=r"\.h5") as caught:
        convert(*(tmp_path / name for name in names))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["c.h5"]


def test_a_name_is_for_features_from_elsewhere(tmp_path, write_cache, make_features):
    write_cache(tmp_path / "c.h5")
    with pytest.raises(UsageError, match="--name"):
        convert(tmp_path / "c.h5", tmp_path / "c.npz", name="x")
    convert(tmp_path / "c.h5", tmp_path / "c.npz")
    with pytest.raises(UsageError, match="--name"):
        convert(tmp_path / "c.npz", tmp_path / "d.h5", name="x")
    np.save(tmp_path / "f.npy", make_features())
    for name in ("", " ", "a\nb", "x" * 1000):
        with pytest.raises(UsageError, match="--name takes"):
            convert(tmp_path / "f.npy", tmp_path / "d.h5", name=name)


def test_outputs_and_inputs_that_cannot_be(tmp_path, write_cache, make_features):
    path = write_cache(tmp_path / "c.h5")
    (tmp_path / "c.npz").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        convert(path, tmp_path / "c.npz")
    assert (tmp_path / "c.npz").read_text() == "mine"
    with pytest.raises(OutputError, match="does not exist"):
        convert(path, tmp_path / "no" / "c.npz")
    for name in ("no.h5", "no.npz", "no.parquet", "no.safetensors", "no.npy"):
        with pytest.raises(CacheError, match="no such"):
            convert(tmp_path / name, tmp_path / ("x.npy" if name == "no.h5" else "x.h5"))
    np.save(tmp_path / "f.npy", make_features())
    part_path(tmp_path / "x.h5").write_bytes(b"hours of work")
    with pytest.raises(OutputError, match="left by an interrupted run"):
        convert(tmp_path / "f.npy", tmp_path / "x.h5")


def test_damaged_rows_do_not_go_out(tmp_path, write_cache):
    path = write_cache(tmp_path / "c.h5")
    slot = tle.open_cache(path).slots["features"]
    data = bytearray(path.read_bytes())
    data[slot.offset] ^= 1
    path.write_bytes(data)
    for suffix in WRITERS:
        with pytest.raises(CacheError, match="1 of 4 rows.*tle verify"):
            convert(path, tmp_path / f"c{suffix}")
    assert os.listdir(tmp_path) == ["c.h5"]


def refused(source, match=None, error=TleError):
    """Converting `source` is one line, and leaves nothing behind."""
    output = source.with_name("out.h5")
    with pytest.raises(error, match=match) as caught:
        convert(source, output)
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)
    assert not list(source.parent.glob("out.h5*"))


@pytest.mark.parametrize("suffix", list(WRITERS))
def test_truncated_and_altered_files_are_one_line(tmp_path, write_cache, suffix):
    """Cut anywhere, or with any byte changed: a good cache or one line."""
    path = tmp_path / f"c{suffix}"
    convert(write_cache(tmp_path / "c.h5", 40, failed=(3,)), path)
    whole_file, broken = path.read_bytes(), tmp_path / f"broken{suffix}"
    rng = np.random.default_rng(0)
    for length in [0, 1, 7, 8, 20, *rng.integers(0, len(whole_file), 30).tolist(), len(whole_file) - 1]:
        broken.write_bytes(whole_file[:length])
        refused(broken, error=CacheError)
    messages = []
    for place in rng.integers(0, len(whole_file), 150).tolist():
        data = bytearray(whole_file)
        data[place] ^= int(rng.integers(1, 256))
        broken.write_bytes(data)
        try:
            convert(broken, tmp_path / "out.h5", overwrite=True)
            tle.open_cache(tmp_path / "out.h5")
        except TleError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)
    broken.write_text("hello, this is no such file")
    (tmp_path / "out.h5").unlink(missing_ok=True)
    refused(broken, error=CacheError)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ids": ["a", "b", "a", "c"]}, "'a' of row 2 is there twice"),
        ({"ids": ["a", "b"]}, "ids for 4 rows, found 2"),
        ({"ids": ["x" * 5000, "b", "c", "d"]}, "4,096 bytes"),
        ({"labels": [1, 2]}, "labels for 4 rows, found 2"),
        ({"labels": np.zeros((4, 2, 2), int)}, r"labels \(N,\)"),
        ({"labels": np.full((4, 2), 7)}, "0 or 1"),
        ({"labels": [0, 1, 5, 0], "classes": ["a", "b"]}, "from -1 to 1 for 2 classes, got 5"),
        ({"labels": ["a", "b", "q", "a"], "classes": ["a", "b"]}, "'q' is not one of its classes"),
        ({"labels": [0, 1, 1, 0], "classes": ["a", "a"]}, "listed twice"),
        ({"labels": [0.0, np.inf, 1.0, 2.0]}, "inf is no finite"),
        ({"labels": np.array([None, 1, 2, 3], object)}, "plain numbers or text"),
        ({"splits": ["train", "tran", "", ""]}, "split of row 1 should be train, .*'tran'"),
        ({"splits": [0, 1, 2, 3]}, "split of row 0"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path, make_features, columns, message):
    np.savez(tmp_path / "f.npz", features=make_features(), **columns)
    refused(tmp_path / "f.npz", message, CacheError)


@pytest.mark.parametrize("suffix", list(WRITERS))
@pytest.mark.parametrize(
    "features", [np.zeros((4, 5), np.int32), np.zeros(4, np.float32), np.zeros((0, 5), np.float32)]
)
def test_features_that_are_none(tmp_path, suffix, features):
    if suffix == ".parquet" and features.shape == (0, 5):
        pq.write_table(pa.table({"features": pa.array([], pa.list_(pa.float32(), 5))}), tmp_path / "f.parquet")
    else:
        foreign(tmp_path / f"f{suffix}", features)
    refused(tmp_path / f"f{suffix}", "expected", CacheError)


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    np.save(tmp_path / "f.npy", np.array([[Trap()]], object), allow_pickle=True)
    np.savez(tmp_path / "f.npz", features=np.array([[Trap()]], object))
    np.savez(tmp_path / "g.npz", features=np.zeros((1, 1), np.float32), labels=np.array([Trap()], object))
    for name in ("f.npy", "f.npz", "g.npz"):
        refused(tmp_path / name, error=CacheError)
    assert not (tmp_path / "sprung").exists()


def test_huge_declared_sizes_cost_nothing(tmp_path):
    """Headers that promise terabytes; the limit of memory makes a belief in them fail."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000), }"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    (tmp_path / "f.npy").write_bytes(data + b"\0" * 64)
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("features.npy", data + b"\0" * 64)
    zeros = io.BytesIO()
    np.save(zeros, np.zeros((1 << 20, 64), np.float32))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", zeros.getvalue())
    text = json.dumps({"features": {"dtype": "F32", "shape": [10**9, 1000], "data_offsets": [0, 4 * 10**12]}}).encode()
    (tmp_path / "f.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 64)
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), pa.array(["x" * 100_000]))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(100_000, np.float32)), 1)
    pq.write_table(pa.table({"features": lists, "label": column}), tmp_path / "text.parquet")
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1 << 25, np.float32)), 64)
    pq.write_table(pa.table({"features": wide}), tmp_path / "bomb.parquet")
    names = ["f.npy", "f.npz", "bomb.npz", "f.safetensors", "text.parquet", "bomb.parquet"]
    code = (
        "import resource, sys, tle, pyarrow.parquet, sklearn\n"
        "from tle.cache.conversion import convert\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)\n"
        "for name in sys.argv[2:]:\n"
        "    try:\n"
        "        convert(sys.argv[1] + '/' + name, sys.argv[1] + '/out.h5')\n"
        "    except tle.TleError as error:\n"
        "        print(name, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *names], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == names
    assert not any("allocate" in line or "memory" in line.lower() for line in lines), lines
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header | {"tle_format": 99}, "format 99"),
        (lambda header: header | {"fingerprint": "0" * 32}, "altered"),
        (lambda header: header | {"target": "sound"}, "damaged header"),
        (lambda header: header | {"classes": "ab"}, "damaged header"),
        (lambda header: header | {"classes": ["a"]}, "labels should be from -1 to 0"),
        (lambda header: [], "damaged header"),
    ],
)
def test_a_header_that_was_altered(tmp_path, write_cache, change, message):
    convert(write_cache(tmp_path / "c.h5"), tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as arrays:
        arrays = dict(arrays)
    arrays["tle"] = np.array(json.dumps(change(json.loads(str(arrays["tle"])))))
    np.savez(tmp_path / "d.npz", **arrays)
    refused(tmp_path / "d.npz", message, CacheError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", np.zeros(4, np.uint8)),
        ("status", np.full(4, 9, np.uint8)),
        ("splits", np.full(4, 9, np.uint8)),
        ("labels", np.full(4, 7)),
        ("labels", np.zeros(4, np.float32)),
        ("digests", np.zeros(3, np.uint64)),
        ("ids", np.array(["a", "b", "c", "a"])),
        ("failure_rows", np.array([77])),
        ("failure_reasons", np.array(["a", "b", "c"])),
        ("features", np.zeros((3, 5), np.float32)),
        ("features", np.zeros((4, 5), np.float64)),
        ("checksums", None),
    ],
)
def test_columns_of_tle_that_were_altered(tmp_path, write_cache, name, value):
    convert(write_cache(tmp_path / "c.h5", failed=(1,)), tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as arrays:
        kept = {key: array for key, array in (dict(arrays) | {name: value}).items() if array is not None}
        np.savez(tmp_path / "d.npz", **kept)
    refused(tmp_path / "d.npz", error=CacheError)


@whole
def test_a_row_that_was_altered_on_the_way_is_refused(tmp_path, write_cache, suffix):
    """Not all formats have checksums of their own; labels and splits may be edited."""
    path = tmp_path / f"c{suffix}"
    convert(write_cache(tmp_path / "c.h5", failed=(1,)), path)
    row = tle.open_cache(tmp_path / "c.h5").features[2].tobytes()
    data = path.read_bytes()
    assert data.count(row) == 1
    path.write_bytes(data.replace(row, b"\1" + row[1:]))
    refused(path, "CRC" if suffix == ".npz" else "1 of 4 rows", CacheError)


def test_rows_of_a_table_can_be_left_out_and_labelled_anew(tmp_path, write_cache):
    convert(write_cache(tmp_path / "c.h5", 9, failed=(4,)), tmp_path / "c.parquet")
    table = pq.read_table(tmp_path / "c.parquet").take([7, 4, 1])
    pq.write_table(table.set_column(1, "label", pa.array(["ü", None, "a"])), tmp_path / "d.parquet")
    convert(tmp_path / "d.parquet", tmp_path / "d.h5")
    old, new = tle.open_cache(tmp_path / "c.h5"), tle.open_cache(tmp_path / "d.h5")
    np.testing.assert_array_equal(new.checksums, old.checksums[[7, 4, 1]])
    np.testing.assert_array_equal(new.features[[0, 2]], old.features[[7, 1]])
    assert (new.labels.tolist(), new.fingerprint) == ([1, -1, 0], old.fingerprint)


def test_parquet_without_pyarrow_names_the_package(tmp_path, write_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match="pip install pyarrow"):
        convert(write_cache(tmp_path / "c.h5"), tmp_path / "c.parquet")
    assert os.listdir(tmp_path) == ["c.h5"]
