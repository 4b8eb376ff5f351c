"""The container: round trip, atomicity, determinism, and what it refuses to read."""

import json
import os
import resource
import signal
import stat
import struct
import zipfile

import numpy as np
import pytest

from tle.artefact import DOCUMENT, TENSORS, read_artefact, write_artefact
from tle.errors import HeadError, OutputError

DOCUMENT_JSON = {"name": "Größe", "list": [1, 2.5, None], "nested": {"b": 1, "a": True}}


def _tensors():
    return {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.array([0.5], np.float16),
        "digests": np.array([2**64 - 1, 0], np.uint64),
        "empty": np.empty((0, 4), np.float32),
        "scalar": np.array(3.0),
    }


@pytest.fixture
def written(tmp_path):
    return write_artefact(tmp_path / "a.head", DOCUMENT_JSON, _tensors(), {"estimator.skops": b"\x00\x01"})


def test_round_trip(written):
    artefact = read_artefact(written, allowed=["estimator.skops"])
    assert artefact.document == DOCUMENT_JSON
    assert artefact.files == {"estimator.skops": b"\x00\x01"}
    assert artefact.tensors.keys() == _tensors().keys()
    for name, array in _tensors().items():
        np.testing.assert_array_equal(artefact.tensors[name], array)
        assert artefact.tensors[name].dtype == array.dtype
        assert artefact.tensors[name].shape == array.shape


def test_strided_and_transposed_tensors_keep_their_values(tmp_path):
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = write_artefact(tmp_path / "a", {}, {"transposed": base.T, "strided": base[:, ::2]})
    tensors = read_artefact(path).tensors
    np.testing.assert_array_equal(tensors["transposed"], base.T)
    np.testing.assert_array_equal(tensors["strided"], base[:, ::2])


def test_the_document_may_have_another_name(tmp_path):
    path = write_artefact(tmp_path / "a", {"x": 1}, {}, document_name="classifier.json")
    assert read_artefact(path, document_name="classifier.json").document == {"x": 1}
    with pytest.raises(HeadError, match=r"classifier\.json"):
        read_artefact(path)


def test_bytes_do_not_depend_on_time_or_on_order(tmp_path, written):
    backwards = dict(reversed(list(_tensors().items())))
    again = write_artefact(
        tmp_path / "b.head", dict(reversed(list(DOCUMENT_JSON.items()))), backwards, {"estimator.skops": b"\x00\x01"}
    )
    assert again.read_bytes() == written.read_bytes()


def test_all_entries_are_stored_and_none_is_a_pickle(written):
    with zipfile.ZipFile(written) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist() == [DOCUMENT, TENSORS, "estimator.skops"]


def test_writing_replaces_and_leaves_nothing_else(tmp_path, written):
    before = os.umask(0o022)
    try:
        write_artefact(written, {"new": 1}, {})
    finally:
        os.umask(before)
    assert read_artefact(written).document == {"new": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.head"]
    assert stat.S_IMODE(written.stat().st_mode) == 0o644


def test_a_failed_write_keeps_the_old_file(tmp_path, written):
    before = written.read_bytes()
    with pytest.raises(HeadError, match="not JSON"):
        write_artefact(written, {"bad": float("nan")}, {})
    with pytest.raises(HeadError, match="not JSON"):
        write_artefact(written, {"bad": np.float32(1)}, {})
    assert written.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.head"]


def test_a_write_that_the_disk_refuses_keeps_the_old_file(tmp_path, written):
    before = written.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails instead of ending the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*a\.head: File too large"):
            write_artefact(written, {}, {"big": np.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert written.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.head"]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"folder .*nowhere does not exist"):
        write_artefact(tmp_path / "nowhere" / "a.head", {}, {})


def test_a_folder_in_the_place_of_the_file_is_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "a.head" / "inner").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot write"):
        write_artefact(tmp_path / "a.head", {}, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.head"]


def test_missing_file(tmp_path):
    with pytest.raises(HeadError, match="no such file"):
        read_artefact(tmp_path / "a.head")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x89HDF\r\n\x1a\n" + b"\0" * 200])
def test_another_kind_of_file(tmp_path, content):
    path = tmp_path / "a.head"
    path.write_bytes(content)
    with pytest.raises(HeadError, match="another kind of file"):
        read_artefact(path)


def test_every_truncation_is_noticed(tmp_path, written):
    content = written.read_bytes()
    cut = tmp_path / "cut.head"
    for length in range(0, len(content), 13):
        cut.write_bytes(content[:length])
        with pytest.raises(HeadError):
            read_artefact(cut, allowed=["estimator.skops"])


def test_every_flipped_content_byte_is_noticed(tmp_path, written):
    content = written.read_bytes()
    weight = content.index(_tensors()["weight"].tobytes())
    name = content.index("Größe".encode())
    for position in (weight, weight + 11, name):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path = tmp_path / "damaged.head"
        path.write_bytes(damaged)
        with pytest.raises(HeadError, match="CRC"):
            read_artefact(path, allowed=["estimator.skops"])


def _zip(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


EMPTY_TENSORS = struct.pack("<Q", 2) + b"{}"


def test_compressed_entries_are_refused_before_they_are_unpacked(tmp_path):
    bomb = [(DOCUMENT, b"{}"), (TENSORS, b"\0" * 50_000_000)]
    path = _zip(tmp_path / "a", bomb, zipfile.ZIP_DEFLATED)
    with pytest.raises(HeadError, match="compressed or encrypted"):
        read_artefact(path)


def test_a_size_that_the_file_cannot_hold_is_refused(tmp_path):
    path = _zip(tmp_path / "a", [(DOCUMENT, b"{}"), (TENSORS, EMPTY_TENSORS)])
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the directory's entry of the tensors
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**30, 2**30)
    path.write_bytes(content)
    with pytest.raises(HeadError, match="claim"):
        read_artefact(path)


def test_a_huge_document_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tle.artefact.MAX_DOCUMENT_BYTES", 100)
    path = write_artefact(tmp_path / "a", {"x": "y" * 200}, {})
    with pytest.raises(HeadError, match="more than the 100 allowed"):
        read_artefact(path)


def test_unexpected_missing_and_repeated_entries(tmp_path, written):
    with pytest.raises(HeadError, match=r"unexpected entry 'estimator\.skops'"):
        read_artefact(written)
    with pytest.raises(HeadError, match=r"unexpected entry '\.\./evil'"):
        read_artefact(_zip(tmp_path / "b", [(DOCUMENT, b"{}"), (TENSORS, EMPTY_TENSORS), ("../evil", b"")]))
    with pytest.raises(HeadError, match=r"no entry 'tensors\.safetensors'"):
        read_artefact(_zip(tmp_path / "c", [(DOCUMENT, b"{}")]))
    with pytest.warns(UserWarning, match="Duplicate name"):
        _zip(tmp_path / "d", [(DOCUMENT, b"{}"), (TENSORS, EMPTY_TENSORS), (DOCUMENT, b"{}")])
    with pytest.raises(HeadError, match="twice"):
        read_artefact(tmp_path / "d")


@pytest.mark.parametrize("document", [b"{", b"\xff\xfe", b"[" * 100_000, b'"text"', b"[]"])
def test_bad_documents(tmp_path, document):
    path = _zip(tmp_path / "a", [(DOCUMENT, document), (TENSORS, EMPTY_TENSORS)])
    with pytest.raises(HeadError, match=r"head\.json (is not valid JSON|should be a JSON object)"):
        read_artefact(path)


@pytest.mark.parametrize(
    "tensors",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 64)
        + json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}).ljust(64).encode(),
    ],
)
def test_bad_tensors(tmp_path, tensors):
    path = _zip(tmp_path / "a", [(DOCUMENT, b"{}"), (TENSORS, tensors)])
    with pytest.raises(HeadError, match=r"tensors\.safetensors cannot be read"):
        read_artefact(path)
