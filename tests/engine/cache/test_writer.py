import os
import resource
import shutil
import signal
import subprocess

import h5py
import numpy as np
import pytest

from tle.cache import open_cache
from tle.cache.claim import Claim, new_path
from tle.cache.creation import new_cache
from tle.cache.overlay import Overlay
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


def limit_file_size(n_bytes):
    """Make the file system refuse as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def test_a_full_disk_is_an_error_before_the_first_image(tmp_path, make_content, in_child):
    def work():
        limit_file_size(200_000)
        with pytest.raises(OutputError, match="cannot create") as caught:
            CacheWriter.create(tmp_path / "c.h5", make_content(4000, dim=100))
        assert "\n" not in str(caught.value)

    assert in_child(work) == 0
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_costs_nothing_that_was_done(tmp_path, make_content, make_features, in_child):
    """The journal of failures is what may not find room; the rest is reserved."""
    path = tmp_path / "c.h5"

    def work():
        with CacheWriter.create(path, make_content(20)) as writer:
            writer.write(np.arange(10), make_features(10), np.zeros(10, np.uint64))
            limit_file_size(os.fstat(writer._file.fd).st_size)
            with pytest.raises(OutputError, match="cannot write to") as caught:
                writer.fail(10, "no picture", 0)
            assert "\n" not in str(caught.value)

    assert in_child(work) == 0
    claim = Claim(path)
    with CacheWriter.resume(claim, open_unfinished(claim.part, claim.fd)) as writer:
        assert writer.pending.tolist() == list(range(10, 20))
        for row in range(10, 20):
            writer.fail(row, "no picture", 0)
        writer.finish(replace=False)
    np.testing.assert_array_equal(open_cache(path).features[:10], make_features(10))


def test_a_full_tmpfs_and_then_room_again(tmp_path, make_content, make_features):
    """A real file system without room, at the start and at the end."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    try:
        path = disk / "c.h5"
        with pytest.raises(OutputError, match="No space left"):
            CacheWriter.create(path, make_content(4000, dim=100))
        assert os.listdir(disk) == []
        with pytest.raises(OutputError, match="No space left"), CacheWriter.create(path, make_content(400)) as writer:
            writer.write(np.arange(100), make_features(100), np.zeros(100, np.uint64))
            left = shutil.disk_usage(disk).free
            (disk / "other").write_bytes(bytes(left))
            for row in range(100, 400):
                writer.fail(row, "no picture", 0)
        (disk / "other").unlink()
        claim = Claim(path)
        with CacheWriter.resume(claim, open_unfinished(claim.part, claim.fd)) as writer:
            assert not (writer.pending < 100).any()
            for row in writer.pending.tolist():
                writer.fail(row, "no picture", 0)
            writer.finish(replace=False)
        cache = open_cache(path)
        np.testing.assert_array_equal(cache.features[:100], make_features(100))
        assert len(cache.failures) == 300
        del cache
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_folder_without_permission(tmp_path, make_content, make_features, in_child):
    """Refused at the start in one line; lost during the run, everything is kept."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "c.h5"
    for parent in [folder, *folder.parents][:4]:
        parent.chmod(0o777 if parent == folder else parent.stat().st_mode | 0o755)

    def work():
        if os.getuid() == 0:
            os.setuid(65534)  # permissions do not bind root
        writer = CacheWriter.create(path, make_content())
        with writer:
            writer.write(np.arange(4), make_features(), np.zeros(4, np.uint64))
            writer.commit()
            folder.chmod(0o555)
            with pytest.raises(OutputError, match=r"no permission|cannot finish|Permission denied"):
                writer.finish(replace=False)
        with pytest.raises(OutputError, match="cannot create"):
            Claim(folder / "other.h5")

    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
    try:
        assert in_child(work) == 0
    finally:
        folder.chmod(0o755)
    claim = Claim(path)
    with CacheWriter.resume(claim, open_unfinished(claim.part, claim.fd)) as writer:
        writer.finish(replace=False)
    np.testing.assert_array_equal(open_cache(path).features, make_features())


def test_leftovers_of_a_dead_process_are_no_obstacle(tmp_path, write_cache, make_features):
    new_path(part_path(tmp_path / "c.h5")).write_bytes(b"left behind")
    np.testing.assert_array_equal(open_cache(write_cache(tmp_path / "c.h5")).features, make_features())
    assert os.listdir(tmp_path) == ["c.h5"]


def test_a_sync_that_failed_is_not_believed_the_second_time(tmp_path, make_content, make_features, monkeypatch):
    """The kernel drops what it could not write and says so once: rows since the sync before stay pending."""
    path, sync, calls = tmp_path / "c.h5", os.fdatasync, []

    def fails_once(fd):
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        return sync(fd)

    with pytest.raises(OutputError, match="Input/output error"), CacheWriter.create(path, make_content(8)) as writer:
        writer.write(np.arange(2), make_features(2), np.zeros(2, np.uint64))
        writer.commit()
        monkeypatch.setattr(os, "fdatasync", fails_once)
        writer.write(np.arange(2, 4), make_features(2), np.zeros(2, np.uint64))
        writer.commit()
    assert open_cache(part_path(path)).rows().tolist() == [0, 1]


def test_an_error_of_the_sync_in_the_background_is_raised(tmp_path, make_content, make_features, monkeypatch):
    monkeypatch.setattr("tle.cache.writer.SYNC_INTERVAL_S", 0)
    path = tmp_path / "c.h5"
    with pytest.raises(OutputError, match="Input/output error"), CacheWriter.create(path, make_content(8)) as writer:
        writer.write(np.arange(2), make_features(2), np.zeros(2, np.uint64))
        writer.commit()

        def fails(fd):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fails)
        writer.write(np.arange(2, 4), make_features(2), np.zeros(2, np.uint64))
        writer.checkpoint()
        writer._wait()
    assert open_cache(part_path(path)).rows().tolist() == [0, 1]


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
