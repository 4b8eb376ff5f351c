"""Everything odd that a file can be, opened in one process that may take 2 GB and has a few seconds a file."""

import json
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from tle.benchmarks.cache_damage import RUN, SPEC, write_cache
from tle.cache import fingerprint, open_cache
from tle.cache.layout import FAILURE_DTYPE, Content, lay_out
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
    "huge_rows": (instead("features", shape=(1 << 40, 5), dtype=F4), "/features should be at most 268,435,456 rows"),
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
        instead("classes", data=np.full(1 << 23, b"x", h5py.string_dtype("utf-8", 1))),
        "/classes has more than 4,194,304 names, or too long ones",
    ),
    "many_objects": (lambda h5: [h5.create_group(f"g{number}") for number in range(25)], "a B-tree of another kind"),
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
    paths = [folder / name for name in (*others, *(f"{name}.h5" for name in EDITS))]
    paths += [folder / f"merged_{name}.h5" for name in PARTS] + ["/dev/zero", "/dev/null", "/dev/tty"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(LIMIT_BYTES), *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])
    return {path.split("/")[-1]: answer for path, answer in map(json.loads, done.stdout.splitlines())}


CASES = [(f"{name}.h5", message) for name, (_, message) in EDITS.items()]
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
