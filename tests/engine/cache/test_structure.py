"""Everything odd that a file can be, opened in one process that may take 2 GB and has a few seconds a file."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest

from tle.benchmarks.fuzz_cache import RUN, SPEC, Block, reseal, sample, write_cache
from tle.cache import fingerprint, open_cache
from tle.cache.layout import FAILURE_DTYPE, Content, lay_out
from tle.cache.structure import read_structure
from tle.enums import Target
from tle.errors import CacheError
from tle.files import write_at

LATEST = ("v108", "v110")  # what the layout asks HDF5 for: so that not the version of the headers is what is refused
LIMIT_BYTES = 2_000_000_000
N = 6


def text(h5, name, value):
    """Set an attribute as tle does, a spec with the fingerprint that belongs to it."""
    value = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    del h5.attrs[name]
    h5.attrs.create(name, value, dtype=h5py.string_dtype("utf-8", len(value)))


def description(**changes):
    """An edit of a cache's spec, with the fingerprint that belongs to it."""

    def edit(h5):
        spec = {key: value for key, value in (SPEC | changes).items() if value is not None}
        text(h5, "spec", json.dumps(spec))
        if isinstance(spec.get("backbone"), dict):
            text(h5, "fingerprint", fingerprint(spec))

    return edit


def attribute(name, value):
    return lambda h5: text(h5, name, value)


def plain_attribute(name, value, **options):
    return lambda h5: (h5.attrs.__delitem__(name), h5.attrs.create(name, value, **options))


def instead(name, **options):
    """Another dataset, or a link, in the place of one."""

    def edit(h5):
        del h5[name]
        if "link" in options:
            h5[name] = options["link"]
        else:
            h5.create_dataset(name, **options)

    return edit


def value(name, row, what):
    def edit(h5):
        h5[name][row] = what

    return edit


def typed(h5):
    h5["type"] = np.dtype(np.int64)
    del h5["labels"]
    h5.create_dataset("labels", (N,), h5["type"])


def virtual(h5):
    layout = h5py.VirtualLayout((N,), np.int64)
    layout[:] = h5py.VirtualSource("/etc/passwd", "labels", (N,), np.int64)
    del h5["labels"]
    h5.create_virtual_dataset("labels", layout)


def many_failures(h5):
    h5["failures"].resize((N + 1,))


def cycle(h5):
    del h5["labels"]
    h5["labels"] = h5["/"]


def null_space(h5):
    del h5["labels"]
    h5["labels"] = h5py.Empty(np.int64)


I8, F4 = np.dtype(np.int64), np.dtype(np.float32)
DEEP = "[" * 100_000
EDITS = {
    "external_link": (
        instead("labels", link=h5py.ExternalLink("plain.h5", "/labels")),
        "/labels is a link to somewhere",
    ),
    "external_device": (
        instead("features", link=h5py.ExternalLink("/dev/zero", "/x")),
        "/features is a link to somewhere",
    ),
    "soft_link": (
        instead("ids", link=h5py.SoftLink("/classes")),
        "/ids is a link to somewhere else, which is not follow",
    ),
    "soft_cycle": (instead("ids", link=h5py.SoftLink("/ids")), "/ids is a link to somewhere else"),
    "external_storage": (
        instead("labels", shape=(N,), dtype=I8, external=[("/etc/passwd", 0, 8 * N)]),
        "/labels is not stored contiguously inside the file",
    ),
    "virtual": (virtual, "/labels is not stored contiguously inside the file"),
    "compressed": (
        instead("features", data=np.zeros((N, 5), F4), compression="gzip"),
        "/features is not stored contiguously inside the file",
    ),
    "bomb": (
        instead("features", shape=(1 << 24, 1024), dtype=F4, chunks=(1 << 14, 1024), compression="gzip"),
        "/features is not stored contiguously inside the file",
    ),
    "chunked": (instead("labels", data=np.zeros(N, I8), chunks=(2,)), "/labels is not stored contiguously"),
    "filtered_failures": (
        instead("failures", shape=(0,), maxshape=(None,), dtype=FAILURE_DTYPE, chunks=(32,), compression="gzip"),
        "/failures should be at most 6 rows of index and reason in pieces, without filters",
    ),
    "contiguous_failures": (instead("failures", shape=(2,), dtype=FAILURE_DTYPE), "/failures should be at most 6 rows"),
    "failures_of_text": (
        instead("failures", data=np.zeros(2, I8)),
        "/failures should be .* found .2,. integer of 8 bytes",
    ),
    "more_failures": (many_failures, "/failures should be at most 6 rows"),
    "failure_of_no_row": (value("failures", 0, (N, b"x")), "/failures names rows that do not exist"),
    "failure_before_all": (value("failures", 0, (-1, b"x")), "/failures names rows that do not exist"),
    "long_strings": (
        instead("ids", data=np.array(["x"] * N, object), dtype=h5py.string_dtype()),
        "/ids should be 1-dimensional, strings of a fixed length .* found .6,. variable-length",
    ),
    "object_references": (
        instead("labels", shape=(N,), dtype=h5py.ref_dtype),
        "/labels should be .* found .* reference",
    ),
    "region_references": (instead("labels", shape=(N,), dtype=h5py.regionref_dtype), "/labels should be .* reference"),
    "named_type": (instead("labels", link=I8), "/labels should be a dataset"),
    "of_named_type": (typed, "/labels should be a dataset"),
    "group": (lambda h5: (h5.__delitem__("labels"), h5.create_group("labels")), "/labels should be a dataset"),
    "cycle": (cycle, "/labels should be a dataset"),
    "missing": (lambda h5: h5.__delitem__("status"), "has no dataset /status"),
    "scalar": (instead("labels", data=np.int64(3)), r"/labels should be \(6,\) int64, found \(\)"),
    "null_space": (null_space, "/labels has a shape of another kind"),
    "rank_3": (instead("features", data=np.zeros((N, 5, 1), F4)), "/features has a shape of another kind"),
    "rank_1": (instead("features", data=np.zeros(N, F4)), "/features should be 2-dimensional float16 or float32"),
    "float64": (instead("features", data=np.zeros((N, 5))), "/features should be .* found .6, 5. float of 8 bytes"),
    "big_endian": (instead("features", data=np.zeros((N, 5), ">f4")), "/features should be 2-dimensional float16 or"),
    "other_rows": (instead("status", data=np.zeros(N - 1, np.uint8)), r"/status should be \(6,\) uint8, found \(5,\)"),
    "int32": (instead("labels", data=np.zeros(N, np.int32)), "/labels should be .* found .6,. integer of 4 bytes"),
    "text": (instead("digests", data=np.array([b"x"] * N)), "/digests should be .* found .* string of 1 bytes"),
    "no_dimension": (instead("features", data=np.zeros((N, 0), F4)), "/features should be at most .* rows of 1 to"),
    "huge_dimension": (
        instead("features", shape=(N, 1 << 40), dtype=F4),
        "/features should be at most .* rows of 1 to",
    ),
    "huge_rows": (instead("features", shape=(1 << 40, 5), dtype=F4), "/features should be at most 1,073,741,824 rows"),
    "huge_everything": (instead("features", shape=((1 << 60) // 5, 5), dtype=F4), "/features should be at most"),
    "unallocated": (instead("features", shape=(N, 5), dtype=F4), "/features should have 120 bytes|beyond its end"),
    "no_format": (lambda h5: h5.attrs.__delitem__("tle_format"), "is an HDF5 file but not a tle cache"),
    "newer_format": (plain_attribute("tle_format", 99), "cache format 99, this version of tle reads .* update tle"),
    "older_format": (plain_attribute("tle_format", 0), "cache format 0, .* extract it again"),
    "format_of_text": (attribute("tle_format", "2"), "should have a cache format that is a number"),
    "many_formats": (
        plain_attribute("tle_format", np.array([2, 2])),
        "attribute 'tle_format' should be a single value",
    ),
    "no_target": (lambda h5: h5.attrs.__delitem__("target"), "it has no attribute target"),
    "odd_target": (attribute("target", "sound"), "its target b'sound' is none of class, multilabel"),
    "target_number": (plain_attribute("target", 3), "its attribute target should be a string of fixed length"),
    "long_target": (plain_attribute("target", "class"), "its attribute target should be a string of fixed length"),
    "targets": (
        plain_attribute("target", np.array([b"class"] * 2, "S5"), dtype=h5py.string_dtype("utf-8", 5)),
        "attribute 'target' should be a single value",
    ),
    "altered_spec": (lambda h5: text(h5, "fingerprint", "0" * 32), "its fingerprint does not match its spec"),
    "spec_no_json": (attribute("spec", "{"), "its attribute spec is not the JSON that tle writes"),
    "spec_no_utf8": (attribute("spec", b"\xff\xfe\xfd"), "its attribute spec is not the JSON that tle writes"),
    "spec_list": (attribute("spec", "[]"), "its attribute spec is not the JSON that tle writes, it is no object"),
    "spec_null": (attribute("spec", "null"), "its attribute spec .* it is no object"),
    "spec_deep": (attribute("spec", DEEP), "its attribute spec is not the JSON that tle writes, maximum recursion"),
    "spec_deeper_than_printed": (description(more=json.loads("[" * 200 + "]" * 200)), "nested deeper than 32"),
    "spec_nan": (description(more=float("nan")), "it holds nan"),
    "spec_infinite": (attribute("spec", '{"a": 1e999}'), "it holds inf"),
    "spec_digits": (attribute("spec", '{"a": ' + "9" * 10_000 + "}"), "its attribute spec .* limit .4300 digits"),
    "spec_half_character": (description(more="\ud800"), "its attribute spec .* surrogates not allowed"),
    "spec_half_key": (description(**{"\ud800": 1}), "its attribute spec .* surrogates not allowed"),
    "spec_no_backbone": (description(backbone=None), "its spec should have a dict called backbone"),
    "spec_backbone_text": (description(backbone="x"), "its spec should have a dict called backbone"),
    "spec_no_preprocess": (description(preprocess=None), "its spec should have a dict called preprocess"),
    "spec_odd_decoder": (description(decoder=3), "its spec should have a str called decoder"),
    "spec_no_precision": (description(precision=None), "its spec should have a str called precision"),
    "spec_huge": (attribute("spec", '{"a": "' + "x" * (9 << 20) + '"}'), "9,437,[0-9]* bytes in one piece"),
    "run_list": (attribute("run", "[1]"), "its attribute run is not the JSON that tle writes, it is no object"),
    "run_deep": (attribute("run", '{"a":' + DEEP), "its attribute run is not the JSON .* maximum recursion"),
    "run_odd_parity": (attribute("run", '{"parity": [1]}'), "the parity of its run should be a dict"),
    "run_empty_parity": (attribute("run", '{"parity": {"a": 1}}'), "the parity of its run should have a min_cosine"),
    "checksums_list": (attribute("checksums", "[]"), "its attribute checksums is not the JSON that tle writes"),
    "status_7": (value("status", 0, 7), "/status is damaged, it holds unknown values"),
    "split_9": (value("splits", 2, 9), "/splits is damaged, it holds unknown values"),
    "label_beyond": (value("labels", 1, 2), "/labels is damaged, it holds unknown values"),
    "label_before": (value("labels", 1, -2), "/labels is damaged, it holds unknown values"),
    "class_no_utf8": (value("classes", 0, b"\xff"), "/classes is damaged, it holds no UTF-8"),
    "many_classes": (
        instead("classes", data=np.zeros(1 << 23, "S1"), dtype=h5py.string_dtype("utf-8", 1)),
        "/classes has more than 4,194,304 names, or too long ones",
    ),
    "many_objects": (lambda h5: [h5.create_group(f"g{number}") for number in range(25)], "a B-tree of another kind"),
}


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
    """Let features begin `shift` bytes further: `LAYOUT` is what their header says of 3,000 rows."""
    at = next(at.end() for at in re.finditer(rb"\3\1(?=.{8}" + struct.pack("<Q", 3000 * 20) + rb")", data, re.DOTALL))
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
    "features_beyond": (lambda data: features_at(data, 8), "is truncated: /features reaches beyond its end"),
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
PARTS = {
    "absolute": ([("/etc/passwd", 4)], "points to '/etc/passwd', outside its own folder: that is not followed"),
    "parent": ([("../outside.h5", 4)], "points to '../outside.h5', outside its own folder"),
    "hidden_parent": ([("sub/../../outside.h5", 4)], "outside its own folder"),
    "through_folder": ([("link/outside.h5", 4)], "points to 'link/outside.h5', outside its own folder"),
    "through_file": ([("link.h5", 4)], "points to 'link.h5', outside its own folder"),
    "itself": ([("merged_itself.h5", 4)], "is a merged cache itself"),
    "folder": ([("sub", 4)], "is a folder, not a cache"),
    "pipe": ([("pipe", 4)], "is no regular file, not a cache"),
    "nameless": ([("", 4)], "points to '', outside its own folder"),
    "newline": ([("a\nb.h5", 4)], r"points to 'a\\nb.h5', which is no name that tle merge writes"),
    "nul": ([("a\0b.h5", 4)], "which is no name that tle merge writes"),
    "nowhere": ([("nowhere.h5", 4)], "no such cache: .*nowhere.h5"),
    "twice": ([("plain.h5", 2), ("./plain.h5", 2)], "one of its parts is named twice"),
    "too_few": ([("plain.h5", 3)], "which have 3 rows, and it has 4"),
    "too_many": ([("plain.h5", 4), ("other.h5", 4)], "which have 8 rows, and it has 4"),
    "other_size": ([("plain.h5", 4)], "is not what it was when .* was made of it: tle merge again"),
    "changed": ([("other.h5", 4)], "changed since .* was made of it: tle merge again"),
    "no_rows": ([("plain.h5", 0), ("other.h5", 4)], "should each have a file, a number of rows and a state"),
    "odd_rows": ([("plain.h5", "4")], "should each have a file, a number of rows and a state"),
    "none": ([], "which have 0 rows, and it has 4"),
}
CHILD = """
import json, resource, signal, sys
from tle.cache import open_cache
from tle.errors import CacheError
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), resource.RLIM_INFINITY))
for path in sys.argv[2:]:
    signal.alarm(5)
    try:
        open_cache(path)
        answer = "opened"
    except CacheError as error:
        answer = f"CacheError: {error}"
    except BaseException as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps([path, answer]), flush=True)
"""


def merged(path, parts):
    """A merged cache of 4 rows that says of itself what it likes."""
    record = RUN | {"parts": [{"file": name, "n": n, "state": "0"} for name, n in parts]}
    layout = h5py.VirtualLayout((4, 5), np.float32)
    content = Content(
        ids=tuple("abcd"),
        labels=np.zeros(4, np.int64),
        classes=("a",),
        splits=np.zeros(4, np.uint8),
        target=Target.CLASS,
        dim=5,
        dtype="float32",
        spec=SPEC,
        run=record,
    )
    layout[:] = h5py.VirtualSource("plain.h5", "features", (4, 5), np.float32)
    overlay, slots = lay_out(content, content.arrays(), layout)
    with path.open("wb") as file:
        file.truncate(overlay.size)
        overlay.apply(file.fileno(), lambda: None)
        for name, array in content.arrays().items():
            write_at(file.fileno(), array.tobytes(), slots[name].offset)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What a process said to each of the files, by name; it was given nothing more where it died."""
    folder = tmp_path_factory.mktemp("outer") / "caches"
    folder.mkdir()
    good = write_cache(folder / "plain.h5", N, failed=(1, 4))
    for name, (edit, _) in EDITS.items():
        copy = shutil.copyfile(good, folder / f"{name}.h5")
        with h5py.File(copy, "r+", libver=LATEST) as h5:
            edit(h5)
    for name, (edit, _) in BYTES.items():
        data = bytearray(good.read_bytes())
        edit(data)
        (folder / f"{name}.h5").write_bytes(data)
    failures = sample(write_cache(folder / "failures.h5", 3000, failed=range(2900)))
    for name, (edit, _) in FORGED.items():
        data = bytearray(failures.data)
        edit(data)
        reseal(data, failures.blocks)
        (folder / f"{name}.h5").write_bytes(data)
    write_cache(folder / "other.h5", 4)
    write_cache(folder.parent / "outside.h5", 4)
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(folder.parent)
    (folder / "link.h5").symlink_to(folder.parent / "outside.h5")
    os.mkfifo(folder / "pipe")
    for name, (parts, _) in PARTS.items():
        merged(folder / f"merged_{name}.h5", parts)
    with h5py.File(folder / "rewritten.h5", "w") as copy, h5py.File(good) as h5:
        for name in h5:
            h5.copy(name, copy)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    with (folder / "sparse.h5").open("wb") as file:
        file.write(good.read_bytes()[:8])
        file.truncate(1 << 42)
    others = ("sub", "pipe", "rewritten.h5", "loop", "dangling", "sparse.h5", "plain.h5")
    paths = [folder / name for name in (*others, *(f"{name}.h5" for name in (*EDITS, *BYTES, *FORGED)))]
    paths += [folder / f"merged_{name}.h5" for name in PARTS] + ["/dev/zero", "/dev/null", "/dev/tty"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(LIMIT_BYTES), *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])
    return {path.split("/")[-1]: answer for path, answer in map(json.loads, done.stdout.splitlines())}


CASES = [(f"{name}.h5", message) for name, (_, message) in (EDITS | BYTES | FORGED).items()]
CASES += [(f"merged_{name}.h5", message) for name, (_, message) in PARTS.items()]
CASES += [
    ("sub", "is a folder, not a cache"),
    ("pipe", "is no regular file, not a cache"),
    ("zero", "/dev/zero is no regular file, not a cache"),
    ("null", "is no regular file, not a cache"),
    ("loop", "cannot be read: Too many levels of symbolic links"),
    ("dangling", "no such cache"),
    ("rewritten.h5", "is not laid out as tle does it .superblock 0.: was it changed by another program"),
    ("sparse.h5", "is not laid out as tle does it .superblock 0."),
]


@pytest.mark.parametrize(("name", "message"), CASES, ids=[name for name, _ in CASES])
def test_one_line_says_what_is_wrong(answers, name, message):
    assert re.match("CacheError: .*" + message, answers[name]), answers[name]
    assert len(answers[name].splitlines()) == 1


def test_the_good_one_is_opened(answers):
    assert answers["plain.h5"] == "opened"


def test_a_path_that_is_none():
    with pytest.raises(CacheError, match="cannot be read: embedded null byte"):
        open_cache("a\0b")
    with pytest.raises(CacheError, match="cannot be read: File name too long"):
        open_cache("x" * 5000)


def test_reasons_and_ids_that_are_no_utf8_are_found_when_they_are_read(tmp_path):
    path = write_cache(tmp_path / "c.h5", N, failed=(1,))
    with h5py.File(path, "r+", libver=LATEST) as h5:
        h5["ids"][0] = b"\xff"
        h5["failures"][0] = (1, b"\xff")
    cache = open_cache(path)
    assert cache.failures == ((1, "\ufffd"),)
    with pytest.raises(CacheError, match="/ids is damaged, it holds no UTF-8"):
        _ = cache.ids


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
