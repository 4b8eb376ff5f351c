"""What goes out comes back the same, and what cannot go out is one line."""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

import tle
from tle.cache.conversion import WRITERS, convert
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.enums import Target
from tle.errors import CacheError, MissingPackageError, OutputError, UsageError
from tle.files import FILE_DTYPE, part_path

WHOLE = (".npz", ".parquet", ".safetensors")
whole = pytest.mark.parametrize("suffix", WHOLE)


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
def test_a_whole_cache_comes_back(
    tmp_path, write_cache, suffix, dtype, target, labels, classes, assert_same, round_trip
):
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
def test_any_cache_comes_back(suffix, assert_same, round_trip, made):
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
def test_many_blocks_and_row_groups(tmp_path, write_cache, suffix, monkeypatch, assert_same, round_trip):
    """Files that are larger than what is held at once, cut at odd places."""
    from tle.formats import parquet_file, portable

    monkeypatch.setattr(portable, "BLOCK_BYTES", 37 * 20)
    monkeypatch.setattr(parquet_file, "_GROUP_BYTES", 101 * 20)
    path = write_cache(tmp_path / "c.h5", 1000, failed=(0, 36, 37, 500, 999))
    assert_same(round_trip(path, suffix), tle.open_cache(path))
    if suffix == ".parquet":
        assert pq.ParquetFile(tmp_path / "there.parquet").num_row_groups == 10


@whole
def test_a_merged_cache_goes_out_as_a_whole(tmp_path, write_cache, suffix, round_trip):
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


@pytest.mark.parametrize(
    "names", [("c.h5", "d.h5"), ("c.npz", "d.parquet"), ("c.npy", "d.npy"), ("c.h5", "d.txt"), ("c", "d.h5")]
)
def test_suffixes_say_what_is_what(tmp_path, write_cache, names):
    write_cache(tmp_path / "c.h5")
    with pytest.raises(UsageError, match=r"\.h5") as caught:
        convert(*(tmp_path / name for name in names))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["c.h5"]


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


@whole
def test_a_row_that_was_altered_on_the_way_is_refused(tmp_path, write_cache, suffix, refused):
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
