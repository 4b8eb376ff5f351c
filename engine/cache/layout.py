"""The layout of a cache file, and how one is laid out before the first row is known.

N images, D feature dim, C classes, F failures. Any HDF5 tool reads it:

    /features   (N, D) float16 | float32   contiguous; row i is image i, undefined unless its status is DONE
    /status     (N,)   uint8 enum          PENDING, DONE, FAILED
    /digests    (N,)   uint64              xxh3-64 of the image's bytes, 0 where they could not be read
    /files      (N,)   (size, mtime_ns)    int64 each, of the image's file before it was read; 0 where unknown
    /checksums  (N,)   uint64              of everything above in the same row, see `tle.cache.checksums`
    /labels     (N,) int64 | (N, C) uint8 | (N,) float32, see `Target`
    /classes    (C,)   UTF-8               class names, sorted
    /ids        (N,)   UTF-8               path relative to the source root, fixed length
    /splits     (N,)   uint8 enum          NONE, TRAIN, VAL, TEST
    /failures   (F,)   (index, reason)     one a FAILED row, ascending
    attributes  tle_format, target, fingerprint, spec (JSON: what defines the features), run (JSON: how they were made),
                checksums (JSON: of labels, classes, ids, splits and run)

All of it but `/failures` has its final size and place from the start, so rows are written with `pwrite` beside HDF5,
which never has anything to change. Until the file is finished, failures stand in a journal behind its end, rows like
those of `/failures`. Adding them at the end changes one page of the file (its first, where `/failures` and the end of the
file are recorded), in one write: whatever moment a process dies at, HDF5 can read the file.

Strings have fixed lengths: what HDF5 keeps of variable length lies in heaps without checksums.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tle.cache.checksums import array_checksum
from tle.cache.overlay import Overlay
from tle.enums import Split, Status, Target
from tle.files import FILE_DTYPE

FORMAT = 2
LABEL_DTYPES: dict[Target, type[np.generic]] = {
    Target.CLASS: np.int64,
    Target.NONE: np.int64,
    Target.MULTILABEL: np.uint8,
    Target.REGRESSION: np.float32,
}
REASON_BYTES = 256
FAILURE_DTYPE = np.dtype([("index", np.int64), ("reason", h5py.string_dtype("utf-8", REASON_BYTES))])
FAILURES_CHUNK = 32  # rows; 8 KiB
# Arrays of the file start at multiples of this: a cache line, and what vector instructions like.
_ALIGNMENT = 64
# HDF5 1.8 wrote this kind of file first; all its metadata carries checksums.
_LIBVER = (h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V110)


def fingerprint(spec: Mapping[str, Any]) -> str:
    """Identity of the features that `spec` describes.

    Where the weights came from (`backbone.weights`, the name of an ONNX file) is left out: their digest says what they
    are. So is the precision: features that passed the comparison with float32 are the same for what is done with them.

    Args:
        spec: JSON-able description with the keys `backbone`, `preprocess`, `decoder` and `precision`.

    Returns:
        32 hex digits of SHA-256 over the canonical JSON.
    """
    backbone = {key: value for key, value in spec["backbone"].items() if key != "weights"}
    if str(backbone.get("name")).startswith("onnx:"):
        backbone["name"] = "onnx"
    identity = {key: value for key, value in spec.items() if key != "precision"} | {"backbone": backbone}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a contiguous array lies in a file.

    Attributes:
        offset: of its first byte; 0 for an array without elements.
        shape: its dimensions.
        dtype: of an element.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.row_bytes * self.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is known of a cache before its first row.

    Attributes:
        ids: N unique image ids.
        labels: labels as `Target` defines them.
        classes: C class names.
        splits: (N,) values of `Split`.
        target: what the labels are.
        dim: feature dimension D.
        dtype: storage type of the features, "float16" or "float32".
        spec: what defines the features; its fingerprint is the identity of the cache.
        run: how the features are made (runtime, versions); JSON-able.
    """

    ids: Sequence[str]
    labels: NDArray[Any]
    classes: Sequence[str]
    splits: NDArray[np.uint8]
    target: Target
    dim: int
    dtype: str
    spec: Mapping[str, Any]
    run: Mapping[str, Any]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that are written once, as they are stored."""
        return {
            "labels": np.ascontiguousarray(self.labels, LABEL_DTYPES[self.target]),
            "classes": utf8(self.classes),
            "splits": np.ascontiguousarray(self.splits, np.uint8),
            "ids": utf8(self.ids),
        }

    def attributes(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        """The attributes of the file, but its format, as text; `arrays` as `arrays()` gives them."""
        run = json.dumps(self.run, sort_keys=True, allow_nan=False)
        checksums = {name: array_checksum(array) for name, array in arrays.items()}
        return {
            "target": str(self.target),
            "fingerprint": fingerprint(self.spec),
            "spec": json.dumps(self.spec, sort_keys=True, allow_nan=False),
            "run": run,
            "checksums": json.dumps(checksums | {"run": array_checksum(np.frombuffer(run.encode(), np.uint8))}),
        }


def lay_out(
    content: Content, arrays: Mapping[str, NDArray[Any]], features: h5py.VirtualLayout | None = None
) -> tuple[Overlay, dict[str, Slot]]:
    """Let HDF5 decide what a new file looks like, without writing one.

    Args:
        content: what the file is to hold.
        arrays: `content.arrays()`.
        features: where they are in other files, for a file that only points to them.

    Returns:
        The bytes of its metadata, and the slot of every contiguous array; whoever creates the file writes both.
    """
    n = len(content.ids)
    overlay = Overlay()
    with h5py.File(_create(overlay)) as h5:
        _create_failures(h5)
        h5.attrs["tle_format"] = FORMAT
        for name, text in content.attributes(arrays).items():
            encoded = text.encode()
            h5.attrs.create(name, encoded, dtype=h5py.string_dtype("utf-8", max(len(encoded), 1)))
        slots = {
            "status": _allocate(h5, "status", (n,), _enum_dtype(Status)),
            "digests": _allocate(h5, "digests", (n,), np.dtype(np.uint64)),
            "files": _allocate(h5, "files", (n,), FILE_DTYPE),
            "checksums": _allocate(h5, "checksums", (n,), np.dtype(np.uint64)),
        }
        for name, array in arrays.items():
            dtype = _enum_dtype(Split) if name == "splits" else array.dtype
            slots[name] = _allocate(h5, name, array.shape, dtype)
        if features is None:  # the last: what comes behind is the journal
            slots["features"] = _allocate(h5, "features", (n, content.dim), np.dtype(content.dtype))
        else:
            h5.create_virtual_dataset("features", features)
    return overlay, slots


def failure_rows(failures: Mapping[int, str]) -> NDArray[Any]:
    """(F,) `FAILURE_DTYPE`, ascending; reasons that are too long end in three dots."""
    rows = np.zeros(len(failures), FAILURE_DTYPE)
    for number, (index, reason) in enumerate(sorted(failures.items())):
        rows[number] = (index, clip_reason(reason))
    return rows


def clip_reason(reason: str) -> bytes:
    """A reason as UTF-8 of at most `REASON_BYTES`."""
    encoded = reason.encode("utf-8", "replace").replace(b"\0", b"")
    if len(encoded) <= REASON_BYTES:
        return encoded
    return encoded[: REASON_BYTES - 3].decode("utf-8", "ignore").encode() + b"..."


def utf8(names: Sequence[str]) -> NDArray[Any]:
    """Names as fixed-length UTF-8: contiguous, so a million of them are one read."""
    encoded = [name.encode() for name in names]
    length = max(map(len, encoded), default=1)
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(length, 1)))


def _create(overlay: Overlay) -> h5py.h5f.FileID:
    created = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    # Attributes in a heap of their own, not in the root group's header: it and that of /failures share the first page.
    created.set_attr_phase_change(0, 0)
    created.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(*_LIBVER)
    access.set_alignment(1, _ALIGNMENT)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, overlay)
    return h5py.h5f.create(b"cache", h5py.h5f.ACC_TRUNC, created, access)


def _create_failures(h5: h5py.File) -> None:
    """The one dataset that can grow; the first, so that its header is on the first page."""
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((FAILURES_CHUNK,))
    created.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    created.set_obj_track_times(False)
    space = h5py.h5s.create_simple((0,), (h5py.h5s.UNLIMITED,))
    h5py.h5d.create(h5.id, b"failures", h5py.h5t.py_create(FAILURE_DTYPE, logical=True), space, created)


def _allocate(h5: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Slot:
    """A contiguous dataset whose space is allocated now and not written (1 M x 1,280 is created in milliseconds)."""
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_layout(h5py.h5d.CONTIGUOUS)
    created.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    created.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    created.set_obj_track_times(False)
    kind = h5py.h5t.py_create(dtype, logical=True)
    dataset = h5py.h5d.create(h5.id, name.encode(), kind, h5py.h5s.create_simple(shape), created)
    return Slot(dataset.get_offset() or 0, shape, np.dtype(np.uint8) if name in ("status", "splits") else dtype)


def _enum_dtype(kind: type[Split] | type[Status]) -> np.dtype[Any]:
    dtype: np.dtype[Any] = h5py.enum_dtype({member.name: int(member) for member in kind}, basetype=np.uint8)
    return dtype
