"""Files that were cut, altered or made to do harm are one line, and leave nothing behind."""

import io
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tle
from tle.cache.conversion import WRITERS, convert
from tle.errors import CacheError, TleError


@pytest.mark.parametrize("suffix", list(WRITERS))
def test_truncated_and_altered_files_are_one_line(tmp_path, write_cache, suffix, refused):
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


def test_nothing_is_unpickled(tmp_path, refused):
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
def test_a_header_that_was_altered(tmp_path, write_cache, change, message, refused):
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
def test_columns_of_tle_that_were_altered(tmp_path, write_cache, name, value, refused):
    convert(write_cache(tmp_path / "c.h5", failed=(1,)), tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as arrays:
        kept = {key: array for key, array in (dict(arrays) | {name: value}).items() if array is not None}
        np.savez(tmp_path / "d.npz", **kept)
    refused(tmp_path / "d.npz", error=CacheError)
