import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tle.cache import fingerprint, open_cache
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.enums import Split, Status, Target
from tle.errors import CacheError, OutputError, ShapeError
from tle.files import check_output, part_path

SPEC = {
    "backbone": {"name": "x/y", "weights": "DEFAULT", "weights_digest": "ab", "layer": "l", "pool": "none", "dim": 5},
    "preprocess": {"resize": 256},
    "decoder": "pillow",
    "precision": "float32",
}
IDS = ("a/ä.jpg", "a/b.jpg", "b/c d.jpg", "z.png")


def writer(path, **changes):
    options = {
        "ids": IDS,
        "labels": np.array([0, 0, 1, -1]),
        "classes": ("a", "ü"),
        "splits": np.array([Split.TRAIN, Split.VAL, Split.TEST, Split.NONE], np.uint8),
        "target": Target.CLASS,
        "dim": 5,
        "dtype": "float32",
        "spec": SPEC,
        "run": {"runtime": "torch"},
    }
    return CacheWriter.create(path, Content(**(options | changes)))


def features(n=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


def write(path, **changes):
    with writer(path, **changes) as cache:
        cache.write(np.arange(4), features(), np.arange(10, 14, dtype=np.uint64))
        cache.finish(replace=False)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_what_is_read(tmp_path, dtype):
    path = tmp_path / "c.h5"
    rows = features()
    with writer(path, dtype=dtype) as cache:
        cache.write(np.array([3, 0]), rows[[3, 0]], np.array([103, 100], np.uint64))
        cache.fail(1, "truncated: ümlaut", 101)
        cache.write(np.array([2]), rows[[2]], np.array([102], np.uint64))
        cache.finish(replace=False)
    cache = open_cache(path)
    assert cache.ids == IDS
    assert cache.classes == ("a", "ü")
    assert cache.features.dtype == dtype
    np.testing.assert_array_equal(cache.features[[0, 2, 3]], rows[[0, 2, 3]].astype(dtype))
    assert cache.status.tolist() == [Status.DONE, Status.FAILED, Status.DONE, Status.DONE]
    assert cache.valid.tolist() == [True, False, True, True]
    assert cache.labelled.tolist() == [True, True, True, False]
    assert cache.digests.tolist() == [100, 101, 102, 103]
    assert cache.failures == ((1, "truncated: ümlaut"),)
    assert cache.splits.tolist() == [1, 2, 3, 0]
    assert (cache.target, cache.dim, len(cache)) == (Target.CLASS, 5, 4)
    assert cache.spec == SPEC


def test_plain_h5py_and_h5dump_read_every_object(tmp_path):
    path = write(tmp_path / "c.h5")
    with h5py.File(path) as h5:
        assert set(h5) == {"features", "status", "labels", "classes", "ids", "splits", "digests", "failures"}
        np.testing.assert_array_equal(h5["features"][:], features())
        assert [name.decode() for name in h5["ids"][:]] == list(IDS)
        assert h5py.check_enum_dtype(h5["status"].dtype) == {"PENDING": 0, "DONE": 1, "FAILED": 2}
        assert h5py.check_enum_dtype(h5["splits"].dtype) == {"NONE": 0, "TRAIN": 1, "VAL": 2, "TEST": 3}
        assert h5["features"].chunks is None
        assert json.loads(h5.attrs["spec"]) == SPEC
    if shutil.which("h5dump"):
        done = subprocess.run(["h5dump", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("target", "labels", "classes", "labelled"),
    [
        (Target.MULTILABEL, np.array([[1, 0], [1, 1], [255, 255], [0, 0]], np.uint8), ("a", "b"), [1, 1, 0, 1]),
        (Target.REGRESSION, np.array([0.5, np.nan, 2, -1], np.float32), (), [1, 0, 1, 1]),
        (Target.NONE, np.full(4, -1), (), [0, 0, 0, 0]),
    ],
)
def test_labels_of_every_kind(tmp_path, target, labels, classes, labelled):
    cache = open_cache(write(tmp_path / "c.h5", target=target, labels=labels, classes=classes))
    np.testing.assert_array_equal(cache.labels, labels)
    assert (cache.target, cache.classes) == (target, classes)
    assert cache.labelled.astype(int).tolist() == labelled
    assert cache.summary()["labelled"] == sum(labelled)


def test_the_features_are_mapped_and_read_only(tmp_path):
    cache = open_cache(write(tmp_path / "c.h5"))
    assert not cache.features.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        cache.features[0, 0] = 1


def test_nothing_is_published_before_the_end_and_nothing_is_left_after_a_failure(tmp_path):
    path = tmp_path / "c.h5"

    def interrupted():
        with writer(path) as cache:
            cache.write(np.arange(2), features(2), np.zeros(2, np.uint64))
            assert part_path(path).exists()
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_a_row_that_was_never_written_is_not_published(tmp_path):
    with writer(tmp_path / "c.h5") as cache, pytest.raises(CacheError, match="2 of 4 rows"):
        cache.write(np.arange(2), features(2), np.zeros(2, np.uint64))
        cache.finish(replace=False)
    assert os.listdir(tmp_path) == []


def test_float16_overflow_is_found_before_the_cast(tmp_path):
    rows = features()
    rows[2, 1] = -70_000
    with writer(tmp_path / "c.h5", dtype="float16") as cache, pytest.raises(CacheError, match="--dtype float32"):
        cache.write(np.arange(4), rows, np.zeros(4, np.uint64))


def test_features_of_another_width_are_refused(tmp_path):
    with writer(tmp_path / "c.h5") as cache, pytest.raises(ShapeError, match=r"\(2, 5\), got \(2, 6\)"):
        cache.write(np.arange(2), np.zeros((2, 6), np.float32), np.zeros(2, np.uint64))


def test_the_fingerprint_knows_the_features_and_not_the_way_to_the_weights():
    moved = {**SPEC, "backbone": {**SPEC["backbone"], "weights": "/elsewhere/w.pth"}}
    assert fingerprint(moved) == fingerprint(SPEC)
    for section, key, value in (
        ("backbone", "weights_digest", "cd"),
        ("backbone", "layer", "m"),
        ("backbone", "name", "x/z"),
        ("preprocess", "resize", 224),
    ):
        assert fingerprint({**SPEC, section: {**SPEC[section], key: value}}) != fingerprint(SPEC)
    assert fingerprint({**SPEC, "decoder": "other"}) != fingerprint(SPEC)


def test_outputs_that_cannot_be_written_are_refused_beforehand(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        check_output(tmp_path / "no" / "c.h5", overwrite=False)
    with pytest.raises(OutputError, match="it is a folder"):
        check_output(tmp_path, overwrite=True)
    (tmp_path / "c.h5").write_bytes(b"")
    with pytest.raises(OutputError, match="--overwrite"):
        check_output(tmp_path / "c.h5", overwrite=False)
    check_output(tmp_path / "c.h5", overwrite=True)


def damaged(path, how):
    """A copy of a good cache with one thing wrong."""
    copy = path.with_name("damaged.h5")
    shutil.copy(path, copy)
    with h5py.File(copy, "r+") as h5:
        how(h5)
    return copy


def replace(h5, name, data):
    del h5[name]
    h5[name] = data


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda h5: h5.__delitem__("status"), "no dataset /status"),
        (lambda h5: replace(h5, "labels", np.zeros(3, np.int64)), "/labels should be"),
        (lambda h5: replace(h5, "features", np.zeros((4, 5, 1), np.float32)), "/features should be"),
        (lambda h5: replace(h5, "features", np.zeros((4, 5), np.float64)), "/features should be"),
        (lambda h5: h5.attrs.__delitem__("tle_format"), "not a tle cache"),
        (lambda h5: h5.attrs.__setitem__("tle_format", 99), "format 99"),
        (lambda h5: h5.attrs.__setitem__("target", "sound"), "damaged header"),
        (lambda h5: h5.attrs.__setitem__("spec", "{"), "damaged header"),
        (lambda h5: h5.attrs.__setitem__("fingerprint", "0" * 32), "altered"),
    ],
)
def test_a_damaged_cache_is_one_clear_line(tmp_path, how, message):
    path = damaged(write(tmp_path / "c.h5"), how)
    with pytest.raises(CacheError, match=message) as caught:
        open_cache(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_caches(tmp_path):
    (tmp_path / "text.h5").write_text("hello")
    whole = write(tmp_path / "c.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 3])
    part_path(tmp_path / "running.h5").write_bytes(b"")
    for name, message in (
        ("nowhere.h5", "no such cache"),
        ("text.h5", "cannot be read as HDF5"),
        ("cut.h5", "cannot be read as HDF5|truncated"),
        ("running.h5", "did not finish"),
    ):
        with pytest.raises(CacheError, match=message) as caught:
            open_cache(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_two_writers_of_one_cache_cannot_meet(tmp_path):
    """The second gets one line, in its own process, and the first finishes undisturbed."""
    path = tmp_path / "c.h5"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from test_cache import writer\n"
        "from tle.errors import OutputError\n"
        "try:\n"
        "    writer(Path(sys.argv[1]))\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    with writer(path) as first:
        first.write(np.arange(2), features()[:2], np.zeros(2, np.uint64))
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(Path(__file__).parent)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "another process is writing" in done.stdout
        first.write(np.arange(2, 4), features()[2:], np.zeros(2, np.uint64))
        first.finish(replace=False)
    np.testing.assert_array_equal(open_cache(path).features, features())
    assert os.listdir(tmp_path) == ["c.h5"]


def test_a_part_left_by_a_dead_process_is_no_obstacle(tmp_path):
    part_path(tmp_path / "c.h5").write_bytes(b"left behind")
    np.testing.assert_array_equal(open_cache(write(tmp_path / "c.h5")).features, features())


def test_a_name_taken_meanwhile_costs_no_work(tmp_path):
    path = tmp_path / "c.h5"
    with writer(path) as cache:
        cache.write(np.arange(4), features(), np.zeros(4, np.uint64))
        path.write_text("somebody else's")
        with pytest.raises(OutputError, match="kept in"):
            cache.finish(replace=False)
    assert path.read_text() == "somebody else's"
    np.testing.assert_array_equal(open_cache(part_path(path)).features, features())


def test_an_output_is_never_an_input(tmp_path):
    path = write(tmp_path / "c.h5")
    (tmp_path / "link.h5").symlink_to(path)
    for output in (path, tmp_path / "link.h5"):
        with pytest.raises(OutputError, match="read by this very command"):
            check_output(output, overwrite=True, inputs=[path])
    with pytest.raises(OutputError, match="no regular file"):
        check_output(Path("/dev/null"), overwrite=True)


def test_a_published_cache_is_readable_at_once(tmp_path):
    with writer(tmp_path / "c.h5") as cache:
        cache.write(np.arange(4), features(), np.zeros(4, np.uint64))
        cache.finish(replace=False)
        assert open_cache(tmp_path / "c.h5").ids == IDS
        with h5py.File(tmp_path / "c.h5") as h5:  # with HDF5's own lock
            assert len(h5["ids"]) == 4
