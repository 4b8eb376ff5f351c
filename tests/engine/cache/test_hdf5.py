"""The files that HDF5 writes for a cache, and such as it never would, read without it."""

import json
import re
import struct

import h5py
import numpy as np
import pytest

from tle.benchmarks.cache_damage import RUN, SPEC, Block, reseal, sample, write_cache
from tle.cache.lookup3 import lookup3
from tle.cache.structure import read_structure
from tle.enums import Target
from tle.errors import CacheError

N = 6


@pytest.mark.parametrize(
    ("n", "failed", "changes"),
    [
        (0, (), {}),
        (N, (), {}),
        (N, (1, 4), {"dtype": "float16"}),
        (3000, range(2900), {}),  # a B-tree of two levels
        (N, (), {"spec": SPEC | {"more": "ü" * 1500}, "run": RUN | {"more": "x" * 3000}}),  # a heap of several blocks
        (N, (), {"run": RUN | {"more": "x" * 300_000}}),  # an attribute beside the heap
        (N, (2,), {"target": Target.REGRESSION, "labels": np.arange(N, dtype=np.float32), "classes": ()}),
        (N, (2,), {"target": Target.MULTILABEL, "labels": np.ones((N, 2), np.uint8)}),
    ],
)
def test_it_says_what_hdf5_says(tmp_path, n, failed, changes):
    path = write_cache(tmp_path / "c.h5", n, failed=failed, **changes)
    found = read_structure(path)
    with h5py.File(path) as h5:
        assert set(found.slots) | {"failures"} == set(h5)
        for name, slot in found.slots.items():
            assert (slot.shape, slot.offset) == (h5[name].shape, h5[name].id.get_offset() or 0)
            assert slot.dtype.itemsize == h5[name].dtype.itemsize
        assert found.failures.tobytes() == h5["failures"][:].tobytes()
        assert found.run_text == bytes(h5.attrs["run"])
        assert found.spec == json.loads(h5.attrs["spec"])
    assert len(found.failures) == len(failed)


def test_every_block_of_metadata_is_under_a_checksum_that_is_looked_at(tmp_path):
    good = sample(write_cache(tmp_path / "c.h5", N, failed=(1,)))
    assert len(good.blocks) > 15
    for block in good.blocks:
        data = bytearray(good.data)
        data[block.start + block.length // 2] ^= 1
        (tmp_path / "flipped.h5").write_bytes(data)
        with pytest.raises(CacheError, match="checksum|should be|another|no [A-Z]{4}"):
            read_structure(tmp_path / "flipped.h5")
        reseal(data, good.blocks)
        assert data != good.data


def swmr(data):
    data[11] = 1
    reseal(data, [Block(0, 44, 44)])


def beyond(data):
    data[28:36] = (1 << 50).to_bytes(8, "little")
    reseal(data, [Block(0, 44, 44)])


BYTES = {
    "empty": (lambda data: data.clear(), "cannot be read as HDF5: it does not begin like one"),
    "prose": (lambda data: data.__setitem__(slice(None), b"hello\n"), "does not begin like one"),
    "archive": (lambda data: data.__setitem__(slice(4), b"PK\3\4"), "does not begin like one"),
    "user_block": (lambda data: data.__setitem__(slice(0), bytes(512)), "does not begin like one"),
    "signature_only": (lambda data: data.__delitem__(slice(8, None)), "it has 8 bytes and points to 48"),
    "half_superblock": (lambda data: data.__delitem__(slice(30, None)), "it has 30 bytes and points to 48"),
    "superblock_only": (lambda data: data.__delitem__(slice(48, None)), "is truncated, it should have"),
    "cut": (lambda data: data.__delitem__(slice(len(data) // 3, None)), "is truncated, it should have"),
    "last_byte": (lambda data: data.__delitem__(slice(len(data) - 1, None)), "is truncated, it should have"),
    "zeros": (
        lambda data: data.__setitem__(slice(48, None), bytes(len(data) - 48)),
        "the root group should be an object",
    ),
    "superblock_9": (
        lambda data: data.__setitem__(8, 9),
        "is not laid out as tle does it .superblock 9.: was it changed",
    ),
    "superblock_checksum": (
        lambda data: data.__setitem__(44, data[44] ^ 1),
        "wrong checksum of its header at superblock",
    ),
    "written_to": (swmr, "a program is writing it"),
    "end_beyond": (beyond, "is truncated, it should have 1,125,899,906,842,624 bytes"),
}


def put(data, at, form, *values):
    data[at : at + struct.calcsize(form)] = struct.pack(form, *values)


def features_at(data, shift):
    """Let features begin `shift` bytes further; the header has their place before their size, 3,000 rows of 20 bytes."""
    at = data.index(struct.pack("<Q", 3000 * 20)) - 8
    put(data, at, "<Q", struct.unpack_from("<Q", data, at)[0] + shift)


def chunk_entry(data, number, *, first=None, child=None):
    """Alter an entry of the first leaf of the list of chunks; it has no checksum."""
    leaf = next(at.start() for at in re.finditer(b"TREE\1\0", data))
    at = leaf + 24 + 32 * number
    if first is not None:
        put(data, at + 8, "<Q", first)
    if child is not None:
        put(data, at + 24, "<Q", child(data, leaf))


def first_chunk(data, leaf):
    return struct.unpack_from("<Q", data, leaf + 24 + 24)[0]


def empty_chunk(data):
    leaf = data.index(b"TREE\1\0")
    put(data, first_chunk(data, leaf), "8448x")


def root_of_itself(data):
    root = data.index(b"TREE\1\1")
    put(data, root + 24 + 24, "<Q", root)


def paths_without_number(data):
    """64 to the 4th ways down to an empty node, in five nodes."""
    nodes = len(data)
    for level in range(4, -1, -1):
        data += struct.pack("<4sBBH2Q", b"TREE", 1, level, 64 if level else 0, 0, 0)
        below = len(data) + 64 * 32
        data += struct.pack("<IIQQQ", 8448, 0, 0, 0, below) * 64
    header = struct.pack("<BBBQII", 3, 2, 2, data.index(b"TREE\1\1"), 32, 264)
    put(data, data.index(header) + 3, "<Q", nodes)


def large_heap_block(data):
    put(data, data.index(b"FRHP") + 4 + 10 + 96 + 2, "<Q", 1 << 20)


def outside_heap(data):
    put(data, data.index(b"BTLF\0\x08") + 6 + 1, "<I", 0)


def longer_type(data):
    at = data.index(b"target\0\x13\x11\0\0") + 11
    put(data, at, "<I", 6)


FORGED = {
    "features_beyond": (lambda data: features_at(data, 1 << 22), "is truncated: /features reaches beyond its end"),
    "features_far_beyond": (lambda data: features_at(data, 1 << 62), "is truncated: /features reaches beyond its end"),
    "features_unaligned": (lambda data: features_at(data, -1), "/features should have 60,000 bytes, it has 60,000 at"),
    "chunk_twice": (lambda data: chunk_entry(data, 1, child=first_chunk), "pieces of /failures overlap"),
    "chunk_of_other_rows": (lambda data: chunk_entry(data, 1, first=0), "the list of the pieces of /failures"),
    "chunk_beyond": (
        lambda data: chunk_entry(data, 1, child=lambda *_: 1 << 60),
        "points to 1,152,921,504,606,855,424",
    ),
    "empty_chunk": (empty_chunk, "a piece of /failures is empty"),
    "root_of_itself": (root_of_itself, "the list of the pieces of /failures"),
    "paths_without_number": (paths_without_number, "the list of the pieces of /failures"),
    "large_heap_block": (large_heap_block, "a block of 1,048,576 bytes"),
    "outside_heap": (outside_heap, "an object outside its heap"),
    "longer_type": (longer_type, "its attribute target should be a string of fixed length"),
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A cache of few rows, and one with many failures."""
    folder = tmp_path_factory.mktemp("samples")
    few, many = (
        write_cache(folder / "few.h5", N, failed=(1,)),
        write_cache(folder / "many.h5", 3000, failed=range(2900)),
    )
    return sample(few), sample(many)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [*BYTES, *FORGED])
def test_one_line_says_what_is_wrong(samples, tmp_path, name):
    edit, message = (BYTES | FORGED)[name]
    good = samples[name in FORGED]
    data = bytearray(good.data)
    edit(data)
    if name in FORGED:
        reseal(data, good.blocks)
    (tmp_path / "c.h5").write_bytes(data)
    with pytest.raises(CacheError, match=message) as caught:
        read_structure(tmp_path / "c.h5")
    assert len(str(caught.value).splitlines()) == 1


def test_lookup3():
    """The values that stand in lookup3.c."""
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551
