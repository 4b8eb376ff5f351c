"""A process that dies at any moment leaves a file that opens, and nothing that was done is done twice."""

import os
import shutil
import signal

import h5py
import numpy as np
import pytest

from tle.cache import open_cache
from tle.cache.claim import Claim, new_path
from tle.cache.overlay import Overlay
from tle.cache.reader import open_unfinished
from tle.cache.writer import CacheWriter
from tle.enums import Status
from tle.files import part_path
from tle.pipeline import Batch, Failure


@pytest.mark.parametrize("n", [1, 4, 1000, 50_000])
@pytest.mark.parametrize("n_failed", [0, 1, 33, 3000])
def test_finishing_changes_one_page_of_what_was_there(tmp_path, make_content, n, n_failed):
    """What makes the last step atomic: HDF5's own metadata changes on the first page alone."""
    n_failed = min(n, n_failed)
    with CacheWriter.create(tmp_path / "c.h5", make_content(n)) as writer:
        overlay = Overlay(writer._file.fd)
        with h5py.File(overlay, "r+") as h5:
            h5["failures"].resize((n_failed,))
            h5["failures"][:] = np.ones(n_failed, h5["failures"].dtype)
        assert overlay.changed_pages() <= {0} | set(range(os.fstat(writer._file.fd).st_size // 4096, 10**6))
        assert overlay.size <= writer._file.journal.start


def test_killed_at_every_step(tmp_path, make_content, make_features, in_child, dying_at):
    """A process that dies at any call that changes a file leaves one that h5py opens, and nothing is done twice."""
    n, rows = 12, make_features(12)
    digests = np.arange(100, 100 + n, dtype=np.uint64)

    def work(path):
        claim = Claim(path)
        if claim.found:
            writer = CacheWriter.resume(claim, open_unfinished(claim.part, claim.fd))
        else:
            writer = CacheWriter.create(path, make_content(n), claim=claim)
        with writer:
            pending = writer.pending
            for start in range(0, len(pending), 3):
                batch = pending[start : start + 3]
                bad = batch[batch % 5 == 1]
                good = np.setdiff1d(batch, bad)
                failures = tuple(Failure(int(row), f"bad {row}", int(digests[row])) for row in bad)
                writer.add(Batch(good, rows[good], digests[good], failures))
                writer.commit()
            writer.finish(replace=False)

    work(tmp_path / "whole.h5")
    whole = (tmp_path / "whole.h5").read_bytes()
    steps = dying_at()
    work(tmp_path / "counted.h5")
    n_steps = len(steps)
    assert n_steps > 50
    seen = set()
    for step in range(n_steps):
        path = tmp_path / f"{step}" / "c.h5"
        path.parent.mkdir()

        def die(path=path, step=step):
            dying_at(step)
            work(path)

        assert in_child(die) == -signal.SIGKILL
        if part_path(path).exists():
            with h5py.File(part_path(path)) as h5:
                seen.add(int((h5["status"][:] != Status.PENDING).sum()))
                assert len(h5["failures"][:]) in (0, 3)
        if not path.exists():
            assert in_child(lambda path=path: work(path)) == 0
        assert path.read_bytes() == whole, step
        assert set(os.listdir(path.parent)) <= {"c.h5"}, step
        shutil.rmtree(path.parent)
    assert {0, 3, 6, 9, 12} <= seen


def test_killed_while_rows_are_taken_over(tmp_path, make_content, make_features, write_cache, in_child, dying_at):
    """The unfinished file that is replaced is there until the new one has all of its rows."""
    n = 12
    old = open_cache(write_cache(tmp_path / "old.h5", n, failed=(2, 7)))
    kept = np.setdiff1d(np.arange(n), [5, 6])

    def work(path):
        claim = Claim(path)
        writer = CacheWriter.create(path, make_content(n), claim=claim)
        with writer:
            writer.carry(old, kept, kept, old.files[kept])
            writer.commit()
            rest = writer.pending
            writer.write(rest, make_features(n)[rest], (rest + 100).astype(np.uint64))
            writer.finish(replace=True)

    def begin(path):
        with CacheWriter.create(path, make_content(n)) as writer:
            writer.write(np.arange(3), make_features(3), np.arange(3, dtype=np.uint64))

    steps = dying_at()
    begin(tmp_path / "counted.h5")
    steps.clear()
    work(tmp_path / "counted.h5")
    for step in range(len(steps)):
        path = tmp_path / f"{step}" / "c.h5"
        path.parent.mkdir()
        begin(path)

        def die(path=path, step=step):
            dying_at(step)
            work(path)

        assert in_child(die) == -signal.SIGKILL
        found = open_cache(path if path.exists() else part_path(path))
        assert len(found.rows()) >= 3  # never fewer than there were
        if not path.exists():
            assert in_child(lambda path=path: work(path)) == 0
        cache = open_cache(path)
        np.testing.assert_array_equal(cache.features[cache.valid], make_features(n)[cache.valid])
        assert [row for row, _ in cache.failures] == [2, 7]
        shutil.rmtree(path.parent)


def test_a_torn_journal_entry_does_not_count(tmp_path, make_content):
    path = tmp_path / "c.h5"
    with CacheWriter.create(path, make_content()) as writer:
        writer.fail(0, "first", 1)
        writer.fail(1, "second", 2)
    size = part_path(path).stat().st_size
    os.truncate(part_path(path), size - 100)
    claim = Claim(path)
    unfinished = open_unfinished(claim.part, claim.fd)
    assert unfinished.failures == ((0, "first"),)
    claim.release()


def test_leftovers_of_a_dead_process_are_no_obstacle(tmp_path, write_cache, make_features):
    new_path(part_path(tmp_path / "c.h5")).write_bytes(b"left behind")
    np.testing.assert_array_equal(open_cache(write_cache(tmp_path / "c.h5")).features, make_features())
    assert os.listdir(tmp_path) == ["c.h5"]
