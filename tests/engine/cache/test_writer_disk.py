"""A disk that is full, fails or may not be written: one line, and what was done is kept."""

import os
import resource
import shutil
import signal
import subprocess

import numpy as np
import pytest

from tle.cache import open_cache
from tle.cache.claim import Claim
from tle.cache.reader import open_unfinished
from tle.cache.writer import CacheWriter
from tle.errors import OutputError
from tle.files import part_path


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
