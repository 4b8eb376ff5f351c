"""What is written is what is read; what is not finished is kept, and nobody else's file is touched."""

import os

import h5py
import numpy as np
import pytest

from tle.cache import open_cache
from tle.cache.claim import Claim
from tle.cache.creation import new_cache
from tle.cache.reader import open_unfinished
from tle.cache.writer import CacheWriter
from tle.enums import Status
from tle.errors import CacheError, OutputError, ShapeError
from tle.files import part_path
from tle.pipeline import Batch, Failure


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_what_is_read(tmp_path, make_content, make_features, dtype):
    rows = make_features()
    with CacheWriter.create(tmp_path / "c.h5", make_content(dtype=dtype)) as writer:
        writer.write(np.array([3, 0]), rows[[3, 0]], np.array([103, 100], np.uint64))
        writer.fail(1, "truncated: ümlaut", 101)
        writer.write(np.array([2]), rows[[2]], np.array([102], np.uint64))
        writer.finish(replace=False)
    cache = open_cache(tmp_path / "c.h5")
    assert cache.features.dtype == dtype
    np.testing.assert_array_equal(cache.features[[0, 2, 3]], rows[[0, 2, 3]].astype(dtype))
    assert cache.status.tolist() == [Status.DONE, Status.FAILED, Status.DONE, Status.DONE]
    assert cache.valid.tolist() == [True, False, True, True]
    assert cache.digests.tolist() == [100, 101, 102, 103]
    assert cache.failures == ((1, "truncated: ümlaut"),)


def test_arrays_are_aligned(tmp_path, write_cache):
    cache = open_cache(write_cache(tmp_path / "c.h5"))
    for array in (cache.features, cache.digests, cache.labels, cache.files):
        assert array.flags.aligned
        assert array.__array_interface__["data"][0] % 64 == 0


def test_a_failure_keeps_what_was_written_and_resume_goes_on(tmp_path, make_content, make_features):
    path, rows = tmp_path / "c.h5", make_features()

    def interrupted():
        with CacheWriter.create(path, make_content()) as writer:
            writer.write(np.arange(2), rows[:2], np.arange(100, 102, dtype=np.uint64))
            writer.fail(2, "no picture", 102)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == ["c.h5.part"]
    claim = Claim(path)
    with CacheWriter.resume(claim, open_unfinished(claim.part, claim.fd)) as writer:
        assert writer.pending.tolist() == [3]
        assert writer.failures == {2: "no picture"}
        writer.write(np.array([3]), rows[3:], np.array([103], np.uint64))
        writer.finish(replace=False)
    cache = open_cache(path)
    np.testing.assert_array_equal(cache.features[[0, 1, 3]], rows[[0, 1, 3]])
    assert cache.failures == ((2, "no picture"),)
    assert os.listdir(tmp_path) == ["c.h5"]


def test_an_unfinished_file_without_a_row_is_removed(tmp_path, make_content):
    with CacheWriter.create(tmp_path / "c.h5", make_content()):
        pass
    with CacheWriter.create(tmp_path / "c.h5", make_content()) as writer:
        writer.commit()
    assert os.listdir(tmp_path) == []


def test_a_row_that_was_never_written_is_not_published(tmp_path, make_content, make_features):
    with CacheWriter.create(tmp_path / "c.h5", make_content()) as writer:
        writer.write(np.arange(2), make_features(2), np.zeros(2, np.uint64))
        with pytest.raises(CacheError, match="2 of 4 rows"):
            writer.finish(replace=False)
    assert os.listdir(tmp_path) == ["c.h5.part"]


def test_float16_overflow_is_found_before_the_cast(tmp_path, make_content, make_features):
    rows = make_features()
    rows[2, 1] = -70_000
    with (
        CacheWriter.create(tmp_path / "c.h5", make_content(dtype="float16")) as writer,
        pytest.raises(CacheError, match="--dtype float32"),
    ):
        writer.write(np.arange(4), rows, np.zeros(4, np.uint64))


def test_features_of_another_width_are_refused(tmp_path, make_content):
    with (
        CacheWriter.create(tmp_path / "c.h5", make_content()) as writer,
        pytest.raises(ShapeError, match=r"\(2, 5\), got \(2, 6\)"),
    ):
        writer.write(np.arange(2), np.zeros((2, 6), np.float32), np.zeros(2, np.uint64))


def test_a_batch_is_committed_whole_or_not_at_all(tmp_path, make_content, make_features):
    """Its failures are not written down as done while its features are not."""
    failure = Failure(0, "no picture", 100)
    bad = Batch(np.array([1, 2]), make_features(2, dim=6), np.zeros(2, np.uint64), (failure,))
    with CacheWriter.create(tmp_path / "c.h5", make_content()) as writer:
        with pytest.raises(ShapeError):
            writer.add(bad)
        writer.commit()
        assert writer.pending.tolist() == [0, 1, 2, 3]


def test_long_and_odd_reasons(tmp_path, make_content, make_features):
    with CacheWriter.create(tmp_path / "c.h5", make_content()) as writer:
        writer.fail(0, "ü" * 300, 0)
        writer.fail(1, "a\0b \udcff", 0)
        writer.write(np.arange(2, 4), make_features(2), np.zeros(2, np.uint64))
        writer.finish(replace=False)
    (_, long), (_, odd) = open_cache(tmp_path / "c.h5").failures
    assert long == "ü" * 126 + "..."
    assert odd == "ab ?"


def test_many_failures(tmp_path, write_cache):
    failed = range(0, 1000, 3)
    cache = open_cache(write_cache(tmp_path / "c.h5", 1000, failed=failed))
    assert [row for row, _ in cache.failures] == list(failed)
    with h5py.File(tmp_path / "c.h5") as h5:
        assert h5["failures"]["index"].tolist() == list(failed)


def test_a_name_taken_meanwhile_costs_no_work(tmp_path, make_content, make_features):
    path = tmp_path / "c.h5"
    with CacheWriter.create(path, make_content()) as writer:
        writer.write(np.arange(4), make_features(), np.zeros(4, np.uint64))
        path.write_text("somebody else's")
        with pytest.raises(OutputError, match="exists"):
            writer.finish(replace=False)
    assert path.read_text() == "somebody else's"
    np.testing.assert_array_equal(open_cache(part_path(path)).features, make_features())


def test_an_unfinished_file_that_is_removed_is_written_again(tmp_path, make_content, make_features):
    path = tmp_path / "c.h5"
    with CacheWriter.create(path, make_content()) as writer:
        writer.write(np.arange(2), make_features(2), np.zeros(2, np.uint64))
        writer.fail(3, "no picture", 1)
        writer.commit()
        part_path(path).unlink()
        writer.commit()
        assert part_path(path).exists()
        part_path(path).unlink()
        writer.write(np.array([2]), make_features()[[2]], np.zeros(1, np.uint64))
        writer.finish(replace=False)
    cache = open_cache(path)
    assert cache.failures == ((3, "no picture"),)
    np.testing.assert_array_equal(cache.features[:2], make_features(2))
    assert os.listdir(tmp_path) == ["c.h5"]


def test_an_unfinished_file_that_is_replaced_is_not_touched(tmp_path, make_content, make_features):
    path = tmp_path / "c.h5"
    with pytest.raises(OutputError, match="was replaced"), CacheWriter.create(path, make_content()) as writer:
        writer.write(np.arange(2), make_features(2), np.zeros(2, np.uint64))
        part_path(path).unlink()
        part_path(path).write_text("somebody else's")
    assert part_path(path).read_text() == "somebody else's"


def test_rows_are_committed_in_the_background(tmp_path, make_content, make_features, monkeypatch):
    monkeypatch.setattr("tle.cache.writer.SYNC_BYTES", 1)
    with CacheWriter.create(tmp_path / "c.h5", make_content(8)) as writer:
        for row in range(8):
            writer.write(np.array([row]), make_features(8)[[row]], np.zeros(1, np.uint64))
            writer.checkpoint()
        writer._wait()
        assert open_cache(part_path(tmp_path / "c.h5")).valid.any()
        writer.finish(replace=False)
    np.testing.assert_array_equal(open_cache(tmp_path / "c.h5").features, make_features(8))


def test_a_new_file_that_fails_leaves_the_old_one_and_no_lock(tmp_path, make_content, make_features, write_cache):
    path = tmp_path / "c.h5"
    with CacheWriter.create(path, make_content()) as writer:
        writer.write(np.arange(2), make_features(2), np.zeros(2, np.uint64))
    before = part_path(path).read_bytes()
    pending = open_cache(part_path(path))
    writer = CacheWriter.create(path, make_content())
    with pytest.raises(CacheError, match="changed while its rows"), writer:
        writer.carry(pending, np.arange(4), np.arange(4), pending.files)  # two of them are pending
    assert os.listdir(tmp_path) == ["c.h5.part"]
    assert part_path(path).read_bytes() == before
    Claim(path).release()

    def fails():
        with new_cache(path, make_content(), overwrite=True):
            raise CacheError("nothing in it")

    with pytest.raises(CacheError, match="nothing in it"):
        fails()
    assert part_path(path).read_bytes() == before


def test_what_is_published_is_not_written_again(tmp_path, make_content, make_features, monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), CacheWriter.create(tmp_path / "c.h5", make_content()) as writer:
        writer.write(np.arange(4), make_features(), np.zeros(4, np.uint64))
        writer.commit()
        monkeypatch.setattr("tle.cache.writer.sync_folder", interrupted)
        writer.finish(replace=False)
    assert os.listdir(tmp_path) == ["c.h5"]
    Claim(tmp_path / "c.h5").release()
