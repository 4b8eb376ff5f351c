import contextlib
import os
import shutil

import numpy as np
import pytest

import tle
from tle.cache import verification
from tle.cache.claim import Claim
from tle.cache.writer import CacheWriter
from tle.enums import Status
from tle.errors import CacheError, OutputError

N, DIM, FAILED = 40, 6, (3, 17)
COVERED = ("features", "labels", "ids", "status", "digests", "files", "checksums", "classes", "splits")


@pytest.fixture
def path(tmp_path, write_cache):
    return write_cache(tmp_path / "c.h5", N, failed=FAILED, dim=DIM)


def flip(path, offset, mask):
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def test_a_cache_as_it_was_written_is_sound(path):
    result = tle.verify(path)
    assert result.sound
    assert (result.n_images, result.damaged, result.arrays) == (N, (), ())


def test_every_flipped_byte_that_means_something_is_found(path, tmp_path):
    """All of them in the small arrays, 500 at random in all."""
    slots = tle.open_cache(path).slots
    rng = np.random.default_rng(0)
    places = [
        (name, slots[name].offset + at)
        for name in COVERED
        for at in (
            range(slots[name].nbytes)
            if slots[name].nbytes < 60
            else rng.choice(slots[name].nbytes, 60, replace=False).tolist()
        )
    ]
    undefined = {  # features of pictures that failed
        slots["features"].offset + row * slots["features"].row_bytes + at
        for row in FAILED
        for at in range(slots["features"].row_bytes)
    }
    copy = tmp_path / "flipped.h5"
    shutil.copyfile(path, copy)
    tried = 0
    for name, offset in places:
        if offset in undefined:
            continue
        mask = int(rng.integers(1, 256))
        flip(copy, offset, mask)
        result = tle.verify(copy)
        assert not result.sound, (name, offset, mask)
        if name in ("features", "digests", "files", "checksums"):
            assert result.damaged == ((offset - slots[name].offset) // slots[name].row_bytes,)
        elif name != "status":
            assert result.arrays == (name,)
        flip(copy, offset, mask)
        tried += 1
    assert tried > 300
    assert tle.verify(copy).sound


def test_any_flipped_byte_at_all_is_found_or_harmless(path, tmp_path):
    """Headers included: it is refused, found, or does not change anything that can be read."""
    expected = read_all(path)
    rng = np.random.default_rng(1)
    copy = tmp_path / "flipped.h5"
    shutil.copyfile(path, copy)
    size = path.stat().st_size
    for offset in rng.choice(size, 500, replace=False).tolist():
        mask = int(rng.integers(1, 256))
        flip(copy, offset, mask)
        with contextlib.suppress(CacheError):  # refused: also found
            assert not tle.verify(copy).sound or read_all(copy) == expected, offset
        flip(copy, offset, mask)


def read_all(path):
    cache = tle.open_cache(path)
    arrays = {name: cache.raw(name).tobytes() for name in COVERED if name != "features"}
    return arrays | {
        "features": cache.features[cache.valid].tobytes(),
        "failures": cache.failures,
        "spec": cache.spec,
        "run": cache.run,
    }


def test_a_failure_whose_reason_is_altered(path):
    data = path.read_bytes()
    flip(path, data.index("truncated: ümlaut 17".encode()) + 4, 1)
    result = tle.verify(path)
    assert result.damaged == (17,)


def test_a_failure_that_is_lost_or_made_up(path):
    slot = tle.open_cache(path).slots["status"]
    flip(path, slot.offset + 17, Status.FAILED ^ Status.DONE)
    result = tle.verify(path)
    assert result.damaged == (17,)
    assert result.arrays == ("failures",)


def test_repair_marks_rows_and_nothing_else(path, make_features):
    slots = tle.open_cache(path).slots
    flip(path, slots["features"].offset + 5 * slots["features"].row_bytes + 2, 0x10)
    flip(path, slots["status"].offset + 30, 0xF0)
    assert tle.verify(path).damaged == (5, 30)
    with pytest.raises(CacheError, match="unknown values"):
        tle.open_cache(path)
    result = tle.verify(path, repair=True)
    assert result.repaired == (5, 30)
    cache = tle.open_cache(path)
    assert np.flatnonzero(~cache.valid).tolist() == [3, 5, 17, 30]
    np.testing.assert_array_equal(cache.features[cache.valid], make_features(N, DIM)[cache.valid])
    again = tle.verify(path)
    assert (again.damaged, again.pending, again.arrays) == ((), (5, 30), ())
    assert cache.summary()["pending"] == 2
    assert os.listdir(path.parent) == ["c.h5"]


def test_repair_waits_for_nobody_who_writes(path):
    flip(path, tle.open_cache(path).slots["features"].offset, 1)
    claim = Claim(path)
    with pytest.raises(OutputError, match="another process is writing"):
        tle.verify(path, repair=True)
    claim.release()
    assert tle.verify(path, repair=True).repaired == (0,)


def test_features_that_are_not_finite_are_found(tmp_path, make_content, make_features):
    rows = make_features()
    rows[2, 3] = np.nan  # the pipeline makes failures of such; another program may not
    with CacheWriter.create(tmp_path / "c.h5", make_content()) as writer:
        writer.write(np.arange(4), rows, np.arange(4, dtype=np.uint64))
        writer.finish(replace=False)
    result = tle.verify(tmp_path / "c.h5", repair=True)
    assert (result.not_finite, result.repaired) == ((2,), (2,))


def test_a_file_that_is_no_cache(tmp_path):
    (tmp_path / "c.h5").write_text("hello")
    with pytest.raises(CacheError, match="does not begin like one"):
        tle.verify(tmp_path / "c.h5")


def test_a_cache_that_is_replaced_while_it_is_verified_is_not_repaired(path, write_cache, tmp_path, monkeypatch):
    flip(path, tle.open_cache(path).slots["features"].offset, 1)
    newer = write_cache(tmp_path / "newer.h5", 60)
    claim = verification.Claim

    def late(output):
        newer.replace(path)
        return claim(output)

    monkeypatch.setattr(verification, "Claim", late)
    with pytest.raises(CacheError, match="replaced while it was verified"):
        tle.verify(path, repair=True)
    assert tle.verify(path).sound
