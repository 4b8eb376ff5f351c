"""What is in a cache file, looked at with suspicion: it may come from anywhere, and may be damaged.

`tle.cache.hdf5` says where things are; arrays are then mapped at those places, each of which has to lie inside the file.
So no filter runs, nothing is followed into another file but the parts of a merged cache, which lie in the cache's own
folder or below, and no declared size costs memory that the file does not have.
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import datatypes
from tle.cache.hdf5 import SIGNATURE, Attribute, Container, Dataset
from tle.cache.layout import FAILURE_DTYPE, FAILURES_CHUNK, FORMAT, LABEL_DTYPES, Slot, fingerprint
from tle.enums import Target
from tle.errors import CacheError, one_line
from tle.files import FILE_DTYPE, part_path

_MAX_ROWS = 1 << 28  # their status, splits and labels are looked over on opening; measured: 2.5 s, from memory
_MAX_DIM = 1 << 20
_MAX_CLASSES, _MAX_CLASS_BYTES = 1 << 22, 1 << 28  # decoded on opening: 1 s
_MAX_NAME = 1 << 16  # bytes of an id or class name
_MAX_DEPTH = 32  # of objects in the description of features; they have 4
# What is read of the description of a run, where it is there at all.
_RUN_KINDS: dict[str, type] = {"parity": dict, "plan": dict, "earlier": list, "parts": list}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of a merged cache that lie in another file.

    Attributes:
        path: the file.
        first: the first row of the merged cache that is in it.
        n: how many are.
        state: what it was when the caches were merged, see `tle.cache.joined`.
    """

    path: Path
    first: int
    n: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What a cache file says of itself, all of it checked against the file's size.

    Attributes:
        slots: where the arrays lie; `features` is missing from it where they are in other files.
        parts: those files.
        shape: (N, D).
        dtype: of the features.
        target: what the labels are.
        fingerprint: identity of the features.
        spec: what defines the features.
        run: how they were made.
        run_text: the same as it is stored.
        checksums: of the arrays that are written once.
        failures: (F,) `FAILURE_DTYPE`.
    """

    slots: Mapping[str, Slot]
    parts: tuple[Part, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    target: Target
    fingerprint: str
    spec: dict[str, Any]
    run: dict[str, Any]
    run_text: bytes
    checksums: dict[str, str]
    failures: NDArray[Any]


def read_structure(path: Path) -> Structure:
    """Look at the cache at `path`.

    Raises:
        CacheError: it is missing, no cache, of another format, damaged, or reaches outside itself.
    """
    fd = _open(path)
    try:
        return _Reader(path, Container(path, fd)).structure()
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    """A descriptor of a file that begins as HDF5 does."""
    try:
        mode = path.stat().st_mode
        # Looked at first: opening a device can do something. A pipe that takes its name meanwhile keeps nobody waiting.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if stat.S_ISREG(mode) else -1
    except FileNotFoundError as error:
        part = part_path(path)
        hint = (
            f"; {part.name} is there: the extraction did not finish, the same tle extract goes on"
            if part.exists()
            else ""
        )
        raise CacheError(f"no such cache: {path}{hint}") from error
    except (OSError, ValueError) as error:
        raise CacheError(f"{path} cannot be read: {one_line(error)}") from error
    if fd < 0:
        raise CacheError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}, not a cache")
    try:
        start = os.pread(fd, len(SIGNATURE), 0)
    except OSError as error:
        os.close(fd)
        raise CacheError(f"{path} cannot be read: {one_line(error)}") from error
    if start != SIGNATURE:
        os.close(fd)
        raise CacheError(f"{path} cannot be read as HDF5: it does not begin like one; was it written by tle extract?")
    return fd


class _Reader:
    """One look at one file."""

    def __init__(self, path: Path, container: Container) -> None:
        self._path, self._container = path, container
        self._attributes = container.attributes()

    def structure(self) -> Structure:
        """Everything that the file says of itself."""
        self._check_format()
        target = self._target()
        spec, run = self._json("spec"), self._json("run")
        known = {name: str(value) for name, value in self._json("checksums").items()}
        found = self._check_spec(spec)
        self._check_run(run)
        features = self._dataset("features")
        dtype = next((dtype for dtype in datatypes.FEATURES if datatypes.matches(features.kind, dtype)), None)
        if dtype is None or len(features.shape) != 2:
            raise self._wrong("features", features, "2-dimensional float16 or float32")
        n, dim = features.shape
        if n > _MAX_ROWS or not 0 < dim <= _MAX_DIM:
            raise self._wrong("features", features, f"at most {_MAX_ROWS:,} rows of 1 to {_MAX_DIM:,}")
        slots: dict[str, Slot] = {}
        parts: tuple[Part, ...] = ()
        if features.layout == "virtual":
            parts = self._parts(run, n)
        else:
            slots["features"] = self._slot("features", (n, dim), dtype)
        for name, kind in (
            ("status", np.uint8),
            ("digests", np.uint64),
            ("checksums", np.uint64),
            ("splits", np.uint8),
        ):
            slots[name] = self._slot(name, (n,), np.dtype(kind))
        slots["files"] = self._slot("files", (n,), FILE_DTYPE)
        slots["ids"], slots["classes"] = self._names("ids", n), self._names("classes", None)
        if slots["classes"].shape[0] > _MAX_CLASSES or slots["classes"].nbytes > _MAX_CLASS_BYTES:
            raise CacheError(f"{self._path}: /classes has more than {_MAX_CLASSES:,} names, or too long ones")
        shape = (n, slots["classes"].shape[0]) if target is Target.MULTILABEL else (n,)
        slots["labels"] = self._slot("labels", shape, np.dtype(LABEL_DTYPES[target]))
        return Structure(
            slots=slots,
            parts=parts,
            shape=(n, dim),
            dtype=dtype,
            target=target,
            fingerprint=found,
            spec=spec,
            run=run,
            run_text=self._text("run"),
            checksums=known,
            failures=self._failures(n),
        )

    def _check_format(self) -> None:
        attribute = self._attributes.get("tle_format")
        if attribute is None:
            raise CacheError(f"{self._path} is an HDF5 file but not a tle cache: it has no tle_format attribute")
        if not datatypes.matches(attribute.kind, np.dtype(np.int64)) or len(attribute.data) != 8:
            raise CacheError(f"{self._path} should have a cache format that is a number: was it altered?")
        version = int.from_bytes(attribute.data, "little", signed=True)
        if version != FORMAT:
            raise CacheError(
                f"{self._path} has cache format {version}, this version of tle reads {FORMAT}: "
                f"{'extract it again' if version < FORMAT else 'update tle'}"
            )

    def _target(self) -> Target:
        text = self._text("target")
        try:
            return Target(text.decode())
        except ValueError as error:
            raise self._damaged(f"its target {text[:40]!r} is none of {', '.join(Target)}") from error

    def _check_spec(self, spec: Mapping[str, Any]) -> str:
        """The fingerprint of the features, if it is that of `spec`."""
        for key, kind in (("backbone", dict), ("preprocess", dict), ("decoder", str), ("precision", str)):
            if not isinstance(spec.get(key), kind):
                raise self._damaged(f"its spec should have a {kind.__name__} called {key}")
        found = self._text("fingerprint").decode("utf-8", "replace")
        if fingerprint(spec) != found:
            raise CacheError(f"{self._path}: its fingerprint does not match its spec; the file was altered")
        return found

    def _check_run(self, run: Mapping[str, Any]) -> None:
        for key, kind in _RUN_KINDS.items():
            if not isinstance(run.get(key), kind | None):
                raise self._damaged(f"the {key} of its run should be a {kind.__name__}")
        if (parity := run.get("parity")) and not isinstance(parity.get("min_cosine"), int | float):
            raise self._damaged("the parity of its run should have a min_cosine")

    def _json(self, name: str) -> dict[str, Any]:
        """An attribute that is a JSON object, and can be printed and written again."""
        try:
            value = json.loads(self._text(name))
            if not isinstance(value, dict):
                raise TypeError("it is no object")
            _check_plain(value)
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(f"its attribute {name} is not the JSON that tle writes, {one_line(error)}") from error
        return value

    def _text(self, name: str) -> bytes:
        """A fixed-length string attribute."""
        attribute: Attribute | None = self._attributes.get(name)
        if attribute is None:
            raise self._damaged(f"it has no attribute {name}")
        length = datatypes.string_bytes(attribute.kind)
        if length is None or len(attribute.data) != length:
            raise self._damaged(f"its attribute {name} should be a string of fixed length")
        return attribute.data.rstrip(b"\0")

    def _dataset(self, name: str) -> Dataset:
        if name not in self._container.links:
            raise CacheError(f"{self._path} has no dataset /{name}: the file is damaged or not a tle cache")
        if self._container.links[name] is None:
            raise CacheError(f"{self._path}: /{name} is a link to somewhere else, which is not followed")
        return self._container.dataset(name)

    def _slot(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Slot:
        """Where a contiguous dataset lies, if it is what it should be and inside the file."""
        dataset = self._dataset(name)
        if dataset.shape != shape or not datatypes.matches(dataset.kind, dtype):
            raise self._wrong(name, dataset, f"{shape} {dtype}")
        if dataset.layout != "contiguous":
            raise CacheError(f"{self._path}: /{name} is not stored contiguously inside the file: extract it again")
        nbytes = math.prod(shape) * dtype.itemsize
        if dataset.nbytes != nbytes or (nbytes and dataset.offset % 8):
            raise self._damaged(f"/{name} should have {nbytes:,} bytes, it has {dataset.nbytes:,} at {dataset.offset}")
        if nbytes and dataset.offset + nbytes > self._container.size:
            raise CacheError(f"{self._path} is truncated: /{name} reaches beyond its end; extract it again")
        return Slot(dataset.offset if nbytes else 0, shape, dtype)

    def _names(self, name: str, rows: int | None) -> Slot:
        """The slot of fixed-length strings."""
        dataset = self._dataset(name)
        length = datatypes.string_bytes(dataset.kind)
        if length is None or not 0 < length <= _MAX_NAME or len(dataset.shape) != 1:
            raise self._wrong(name, dataset, f"1-dimensional, strings of a fixed length of at most {_MAX_NAME:,}")
        return self._slot(name, dataset.shape if rows is None else (rows,), np.dtype(f"S{length}"))

    def _failures(self, n: int) -> NDArray[Any]:
        dataset = self._dataset("failures")
        fits = datatypes.matches(dataset.kind, FAILURE_DTYPE) and len(dataset.shape) == 1 and dataset.shape[0] <= n
        piece = FAILURES_CHUNK * FAILURE_DTYPE.itemsize
        if not fits or (dataset.layout, dataset.nbytes) != ("chunked", piece):
            raise self._wrong("failures", dataset, f"at most {n} rows of index and reason in pieces, without filters")
        # HDF5 leaves a tree without entries where a list was emptied; of no rows there is nothing to look for.
        places = self._container.chunks(dataset, FAILURES_CHUNK) if dataset.shape[0] else []
        if len(places) != -(-dataset.shape[0] // FAILURES_CHUNK):
            raise self._damaged(f"/failures has {dataset.shape[0]:,} rows in {len(places):,} pieces")
        pieces = []
        for place in places:
            pieces.append(self._container.read(place, piece))
            if not pieces[-1].strip(b"\0"):  # so what is read is really in the file, and no hole in it
                raise self._damaged("a piece of /failures is empty")
        rows = np.frombuffer(b"".join(pieces), FAILURE_DTYPE)[: dataset.shape[0]]
        if len(rows) and (rows["index"].min() < 0 or rows["index"].max() >= n):
            raise CacheError(f"{self._path}: /failures names rows that do not exist; was it altered?")
        return rows

    def _parts(self, run: Mapping[str, Any], n: int) -> tuple[Part, ...]:
        """The files of a merged cache, which have to lie beside it or below.

        HDF5 has their names and places as well, for other programs; here they are read where a checksum covers them.
        """
        recorded = run.get("parts")
        parts, covered = [], 0
        for part in recorded if isinstance(recorded, list) else []:
            name, rows, state = (part.get(key) if isinstance(part, dict) else None for key in ("file", "n", "state"))
            if not (isinstance(name, str) and type(rows) is int and 0 < rows <= n and isinstance(state, str)):
                raise self._damaged("its parts should each have a file, a number of rows and a state")
            parts.append(Part(path=self._beside(name), first=covered, n=rows, state=state))
            covered += rows
        if len({os.path.realpath(part.path) for part in parts}) != len(parts):
            raise self._damaged("one of its parts is named twice")
        if covered != n or not parts:
            raise self._damaged(f"its features are in other files, which have {covered:,} rows, and it has {n:,}")
        return tuple(parts)

    def _beside(self, name: str) -> Path:
        """The path of a part."""
        relative, path = PurePosixPath(name), self._path.parent / name
        folder = os.path.realpath(self._path.parent)
        if not name.isprintable():
            raise CacheError(
                f"{self._path} points to {name!r}, which is no name that tle merge writes: was it altered?"
            )
        inside = not relative.is_absolute() and ".." not in relative.parts and relative.parts
        if not inside or not Path(os.path.realpath(path)).is_relative_to(folder):
            raise CacheError(f"{self._path} points to {name!r}, outside its own folder: that is not followed")
        return path

    def _wrong(self, name: str, dataset: Dataset, expected: str) -> CacheError:
        kind = datatypes.describe(dataset.kind)
        return CacheError(f"{self._path}: /{name} should be {expected}, found {dataset.shape} {kind}: was it altered?")

    def _damaged(self, what: str) -> CacheError:
        return CacheError(f"{self._path} has a damaged header ({what}): extract it again")


def _check_plain(value: object, depth: int = 0) -> None:
    """Refuse what JSON can hold and tle never writes: infinite numbers, half characters, objects without end."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"it holds {value}")
    elif isinstance(value, dict):
        for key, inner in value.items():
            key.encode()
            _check_plain(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, depth + 1)
