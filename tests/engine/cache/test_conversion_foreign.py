"""Features that somebody else computed: what their columns mean, and columns that cannot be used."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import tle
from tle.cache.conversion import WRITERS, convert
from tle.enums import Split, Status, Target
from tle.errors import CacheError, FingerprintError, TleError, UsageError


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


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITERS if suffix != ".npy"])  # .npy has no columns
def test_features_from_elsewhere(tmp_path, make_features, suffix, assert_same, round_trip):
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
def test_columns_that_cannot_be_used(tmp_path, make_features, columns, message, refused):
    np.savez(tmp_path / "f.npz", features=make_features(), **columns)
    refused(tmp_path / "f.npz", message, CacheError)


@pytest.mark.parametrize("suffix", list(WRITERS))
@pytest.mark.parametrize(
    "features", [np.zeros((4, 5), np.int32), np.zeros(4, np.float32), np.zeros((0, 5), np.float32)]
)
def test_features_that_are_none(tmp_path, suffix, features, refused):
    if suffix == ".parquet" and features.shape == (0, 5):
        pq.write_table(pa.table({"features": pa.array([], pa.list_(pa.float32(), 5))}), tmp_path / "f.parquet")
    else:
        foreign(tmp_path / f"f{suffix}", features)
    refused(tmp_path / f"f{suffix}", "expected", CacheError)
