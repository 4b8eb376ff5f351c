"""What is in a cache file, looked at with suspicion: it may come from anywhere, and may be damaged.

HDF5 is asked where things are and no more; arrays are then mapped at those places, each of which has to lie inside the
file. So no filter runs, nothing is followed into another file but the parts of a merged cache, which lie in the cache's
own folder or below, and no declared size costs memory that the file does not have.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tle.cache.layout import FAILURE_DTYPE, FORMAT, LABEL_DTYPES, Slot, fingerprint
from tle.enums import Target
from tle.errors import CacheError, one_line
from tle.files import FILE_DTYPE, part_path

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_TEXT = 1 << 26  # bytes of an attribute
_MAX_NAME = 1 << 16  # bytes of an id or class name


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of a merged cache that lie in another file.

    Attributes:
        path: the file.
        first: the first row of the merged cache that is in it.
        n: how many are.
    """

    path: Path
    first: int
    n: int


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
    size = _file_size(path)
    try:
        # Without HDF5's lock: a published cache is never written, only replaced, and some file systems have no locks.
        with h5py.File(path, "r", locking=False) as h5:
            return _Reader(path, h5, size).structure()
    except CacheError:
        raise
    # HDF5 and its Python binding raise nearly every type there is on damaged files: OSError, KeyError, RuntimeError, ...
    except Exception as error:
        raise CacheError(f"{path} is damaged, HDF5 cannot read it ({one_line(error)}): extract it again") from error


def _file_size(path: Path) -> int:
    """Size of a file that begins as HDF5 does."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CacheError(
                f"{path} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'}, not a cache"
            )
        with path.open("rb") as file:
            start = file.read(len(_SIGNATURE))
    except FileNotFoundError as error:
        hint = f"; {part_path(path).name} is there: the extraction did not finish" if part_path(path).exists() else ""
        raise CacheError(f"no such cache: {path}{hint}") from error
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {one_line(error)}") from error
    if start != _SIGNATURE:
        raise CacheError(f"{path} cannot be read as HDF5: it does not begin like one; was it written by tle extract?")
    return status.st_size


class _Reader:
    """One look at one file."""

    def __init__(self, path: Path, h5: h5py.File, size: int) -> None:
        self._path, self._h5, self._size = path, h5, size

    def structure(self) -> Structure:
        """Everything that the file says of itself."""
        if "tle_format" not in self._h5.attrs:
            raise CacheError(f"{self._path} is an HDF5 file but not a tle cache: it has no tle_format attribute")
        self._check_format()
        target, spec, run, found = self._attributes()
        features = self._dataset("features")
        if features.ndim != 2 or features.dtype.name not in ("float16", "float32"):
            raise self._wrong(features, "2-dimensional float16 or float32")
        n, dim = (int(length) for length in features.shape)
        slots: dict[str, Slot] = {}
        parts: tuple[Part, ...] = ()
        if features.is_virtual:
            parts = self._parts(features)
        else:
            slots["features"] = self._slot(features, (n, dim), features.dtype)
        for name, dtype in (
            ("status", np.dtype(np.uint8)),
            ("digests", np.dtype(np.uint64)),
            ("files", FILE_DTYPE),
            ("checksums", np.dtype(np.uint64)),
            ("splits", np.dtype(np.uint8)),
        ):
            slots[name] = self._slot(self._dataset(name), (n,), dtype)
        for name, rows in (("classes", None), ("ids", n)):
            slots[name] = self._names(name, rows)
        shape = (n, slots["classes"].shape[0]) if target is Target.MULTILABEL else (n,)
        slots["labels"] = self._slot(self._dataset("labels"), shape, np.dtype(LABEL_DTYPES[target]))
        try:
            checksums = json.loads(self._text("checksums"))
            known = {str(name): str(value) for name, value in checksums.items()}
        except (ValueError, AttributeError) as error:
            raise self._damaged(error) from error
        return Structure(
            slots=slots,
            parts=parts,
            shape=(n, dim),
            dtype=np.dtype(features.dtype),
            target=target,
            fingerprint=found,
            spec=spec,
            run=run,
            run_text=self._text("run"),
            checksums=known,
            failures=self._failures(n),
        )

    def _check_format(self) -> None:
        version = self._h5.attrs["tle_format"]
        if version != FORMAT:
            older = isinstance(version, np.integer) and version < FORMAT
            raise CacheError(
                f"{self._path} has cache format {version}, this version of tle reads {FORMAT}: "
                f"{'extract it again' if older else 'update tle'}"
            )

    def _attributes(self) -> tuple[Target, dict[str, Any], dict[str, Any], str]:
        try:
            target = Target(self._text("target").decode())
            found = self._text("fingerprint").decode()
            spec, run = json.loads(self._text("spec")), json.loads(self._text("run"))
            expected = fingerprint(spec)
            if not isinstance(run, dict):
                raise TypeError("run is no object")
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(error) from error
        if expected != found:
            raise CacheError(f"{self._path}: its fingerprint does not match its spec; the file was altered")
        return target, spec, run, found

    def _text(self, name: str) -> bytes:
        """A fixed-length string attribute; a heap of variable-length ones is not touched."""
        attribute = h5py.h5a.open(self._h5.id, name.encode())
        kind = attribute.get_type()
        scalar = attribute.get_space().get_simple_extent_npoints() == 1
        if not isinstance(kind, h5py.h5t.TypeStringID) or kind.is_variable_str() or not scalar:
            raise CacheError(f"{self._path}: its attribute {name} should be a string of fixed length; was it altered?")
        if kind.get_size() > min(_MAX_TEXT, self._size):
            raise CacheError(f"{self._path}: its attribute {name} is larger than the file allows; was it altered?")
        return bytes(self._h5.attrs[name])

    def _dataset(self, name: str) -> h5py.Dataset:
        link = self._h5.get(name, getlink=True)
        if link is None:
            raise CacheError(f"{self._path} has no dataset /{name}: the file is damaged or not a tle cache")
        if not isinstance(link, h5py.HardLink):
            raise CacheError(f"{self._path}: /{name} is a link to somewhere else, which is not followed")
        if not isinstance(item := self._h5[name], h5py.Dataset):
            raise CacheError(f"{self._path}: /{name} should be a dataset")
        return item

    def _slot(self, dataset: h5py.Dataset, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Slot:
        """Where a contiguous dataset lies, if it is what it should be and inside the file."""
        if dataset.shape != shape or dataset.dtype != dtype:
            raise self._wrong(dataset, f"{shape} {dtype}")
        if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS or dataset.external:
            raise CacheError(f"{self._path}: {dataset.name} is not stored contiguously inside the file")
        offset, nbytes = dataset.id.get_offset(), int(np.prod(shape, dtype=object)) * dtype.itemsize
        if nbytes and (offset is None or offset + nbytes > self._size):
            raise CacheError(f"{self._path} is truncated: {dataset.name} reaches beyond its end; extract it again")
        return Slot(offset or 0, shape, dtype)

    def _names(self, name: str, rows: int | None) -> Slot:
        """The slot of fixed-length strings."""
        dataset = self._dataset(name)
        info = h5py.check_string_dtype(dataset.dtype)
        if info is None or info.length is None or info.length > _MAX_NAME or dataset.ndim != 1:
            raise self._wrong(dataset, "1-dimensional, strings of fixed length")
        if rows is not None and len(dataset) != rows:
            raise self._wrong(dataset, f"{rows} strings of fixed length")
        return self._slot(dataset, dataset.shape, np.dtype(f"S{info.length}"))

    def _failures(self, n: int) -> NDArray[Any]:
        dataset = self._dataset("failures")
        fits = dataset.dtype == FAILURE_DTYPE and dataset.ndim == 1 and len(dataset) <= n
        plain = dataset.id.get_create_plist().get_nfilters() == 0 and not dataset.external and not dataset.is_virtual
        if not fits or not plain or dataset.nbytes > self._size:
            raise self._wrong(dataset, f"at most {n} rows of index and reason, without filters")
        rows: NDArray[Any] = dataset[:]
        if len(rows) and (rows["index"].min() < 0 or rows["index"].max() >= n):
            raise CacheError(f"{self._path}: /failures names rows that do not exist; was it altered?")
        return rows

    def _parts(self, features: h5py.Dataset) -> tuple[Part, ...]:
        """The files of a merged cache, which have to lie beside it or below."""
        n, dim = features.shape
        parts, covered = [], 0
        for source in features.virtual_sources():
            name = PurePosixPath(source.file_name)
            inside = not name.is_absolute() and ".." not in name.parts and source.file_name != "."
            path = self._path.parent / name
            folder = Path(os.path.realpath(self._path.parent))
            if not inside or not Path(os.path.realpath(path)).is_relative_to(folder):
                raise CacheError(f"{self._path} points to {name}, outside its own folder: that is not followed")
            (first, left), (last, right) = source.vspace.get_select_bounds()
            (begin, _), (end, _) = source.src_space.get_select_bounds()
            rows = last - first + 1
            whole = (first, left, right, begin, end) == (covered, 0, dim - 1, 0, rows - 1)
            if not whole or source.dset_name != "features" or source.vspace.get_select_npoints() != rows * dim:
                raise CacheError(f"{self._path}: its features are put together in a way that tle merge does not use")
            parts.append(Part(path=path, first=first, n=rows))
            covered += rows
        if covered != n:
            raise CacheError(f"{self._path}: its parts have {covered} rows, it has {n}")
        return tuple(parts)

    def _wrong(self, dataset: h5py.Dataset, expected: str) -> CacheError:
        return CacheError(f"{self._path}: {dataset.name} should be {expected}, found {dataset.shape} {dataset.dtype}")

    def _damaged(self, error: BaseException) -> CacheError:
        return CacheError(f"{self._path} has a damaged header ({one_line(error)}): extract it again")
