"""Small caches on disk, made by the writer itself, and what has to hold when they are converted."""

import os
import signal
import sys

import numpy as np
import pytest

import tle
from tle.cache.conversion import convert
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.enums import Split, Target
from tle.errors import TleError

SPEC = {
    "backbone": {"name": "x/y", "weights": "DEFAULT", "weights_digest": "ab", "layer": "l", "pool": "none", "dim": 5},
    "preprocess": {"resize": 256},
    "decoder": "pillow",
    "precision": "float32",
}
IDS = ("a/ä.jpg", "a/b.jpg", "b/c d.jpg", "z.png")


@pytest.fixture(scope="session")
def make_content():
    """make_content(**changes): four pictures of 5 features, or `n` of them."""

    def make(n=4, **changes):
        options = {
            "ids": IDS if n == 4 else tuple(f"{row:05}.jpg" for row in range(n)),
            "labels": np.array([0, 0, 1, -1]) if n == 4 else np.arange(n) % 2,
            "classes": ("a", "ü"),
            "splits": np.resize(np.array([Split.TRAIN, Split.VAL, Split.TEST, Split.NONE], np.uint8), n),
            "target": Target.CLASS,
            "dim": 5,
            "dtype": "float32",
            "spec": SPEC,
            "run": {"runtime": "torch"},
        }
        return Content(**(options | changes))

    return make


@pytest.fixture(scope="session")
def make_features():
    """make_features(n=4, dim=5, seed=0): float32 (n, dim)."""

    def make(n=4, dim=5, seed=0):
        return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)

    return make


@pytest.fixture
def write_cache(make_content, make_features):
    """write_cache(path, n=4, failed=(), **changes): a finished cache; failed rows have a reason of their own."""

    def write(path, n=4, failed=(), **changes):
        content = make_content(n, **changes)
        good = np.setdiff1d(np.arange(n), failed)
        rows = make_features(n, content.dim)
        with CacheWriter.create(path, content) as writer:
            for row in failed:
                writer.fail(row, f"truncated: ümlaut {row}", 100 + row)
            writer.write(good, rows[good], (good + 100).astype(np.uint64))
            writer.finish(replace=False)
        return path

    return write


@pytest.fixture(scope="session")
def assert_same():
    """assert_same(found, expected): two caches hold the same, whatever file they are in."""

    def compare(found, expected):
        valid = expected.valid
        for name in ("ids", "classes", "target", "fingerprint", "spec", "run", "failures"):
            assert getattr(found, name) == getattr(expected, name), name
        for name in ("labels", "splits", "status", "digests", "files", "checksums"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
            assert getattr(found, name).dtype == getattr(expected, name).dtype
        assert found.features.dtype == expected.features.dtype
        # Bit for bit: also the sign of zero.
        assert found.features[valid].tobytes() == expected.features[valid].tobytes()

    return compare


@pytest.fixture(scope="session")
def round_trip():
    """round_trip(path, suffix): a cache that went out to a file of that suffix and came back."""

    def run(path, suffix):
        there, back = path.with_name(f"there{suffix}"), path.with_name("back.h5")
        convert(path, there, overwrite=True)
        result = convert(there, back, overwrite=True)
        assert result.notes == ()
        return tle.open_cache(back)

    return run


@pytest.fixture(scope="session")
def refused():
    """refused(source, match=None, error=TleError): converting `source` is one line, and leaves nothing behind."""

    def check(source, match=None, error=TleError):
        output = source.with_name("out.h5")
        with pytest.raises(error, match=match) as caught:
            convert(source, output)
        assert "\n" not in str(caught.value)
        assert str(source) in str(caught.value)
        assert not list(source.parent.glob("out.h5*"))

    return check


@pytest.fixture
def in_child():
    """in_child(function): runs it in a forked process; its exit code, or minus the signal that killed it."""

    def run(function):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                function()
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    return run


@pytest.fixture
def dying_at(monkeypatch):
    """dying_at(step): from now on this process kills itself with SIGKILL at the given call that changes a file.

    Counts `pwrite`, `ftruncate`, `fsync`, `fdatasync`, `rename`, `unlink` and `posix_fallocate`; half of the bytes of the
    last `pwrite` are still written. For use in a child process. Returns a list that grows by one a call.
    """
    calls, armed = [], []

    def counted(original, name):
        def call(*arguments, **options):
            calls.append(name)
            if [len(calls) - 1] == armed:
                if name == "pwrite" and len(arguments[1]) > 4096:  # calls within a page are all or nothing
                    fd, data, offset = arguments
                    original(fd, data[: len(data) // 2 // 4096 * 4096], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for name in ("pwrite", "ftruncate", "fsync", "fdatasync", "posix_fallocate", "rename", "replace", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name), name))

    def arm(step=None):
        calls.clear()
        armed[:] = [] if step is None else [step]
        return calls

    return arm
