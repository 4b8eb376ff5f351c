"""The HDF5 feature cache: one writer, many readers.

N images, D feature dim, C classes. Layout of a finished file (any HDF5 tool reads it):

    /features  (N, D) float16 | float32   contiguous; row i is image i, undefined unless its status is DONE
    /status    (N,)   uint8 enum          PENDING, DONE, FAILED
    /digests   (N,)   uint64              xxh3-64 of the image's bytes, 0 where they could not be read
    /labels    (N,) int64 | (N, C) uint8 | (N,) float32, see `Target`
    /classes   (C,)   UTF-8               class names, sorted
    /ids       (N,)   UTF-8               path relative to the source root, fixed length
    /splits    (N,)   uint8 enum          NONE, TRAIN, VAL, TEST
    /failures  rows of (index, reason)
    attributes tle_format, target, fingerprint, spec (JSON: what defines the features), run (JSON: how they were made)

Only `tle.cache_writer` writes it.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tle.enums import Split, Status, Target
from tle.errors import CacheError, one_line
from tle.files import part_path

FORMAT = 1
LABEL_DTYPES: dict[Target, type[np.generic]] = {
    Target.CLASS: np.int64,
    Target.NONE: np.int64,
    Target.MULTILABEL: np.uint8,
    Target.REGRESSION: np.float32,
}


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


class Cache:
    """A finished cache, opened for reading. Arrays are memory-mapped and read-only; nothing is copied.

    Attributes:
        path: the file.
        features: (N, D) float16 or float32; rows are undefined where `valid` is False.
        labels: as `target` defines them.
        splits: (N,) uint8, values of `Split`.
        status: (N,) uint8, values of `Status`.
        digests: (N,) uint64, xxh3-64 of the image's bytes.
        classes: C class names, sorted.
        target: what the labels are.
        fingerprint: identity of the features.
        spec: what defines the features.
        run: how they were made.
        failures: (index, reason) of every failed image.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`; see `open_cache`."""
        self.path = path
        with _open_h5(path) as h5:
            self._read_attributes(h5)
            self.features: NDArray[Any] = self._map(h5, "features", 2, ("float16", "float32"))
            n = len(self.features)
            label_dtype = np.dtype(LABEL_DTYPES[self.target]).name
            self.labels = self._map(h5, "labels", 2 if self.target is Target.MULTILABEL else 1, (label_dtype,), n)
            self.splits = self._map(h5, "splits", 1, ("uint8",), n)
            self.status = self._map(h5, "status", 1, ("uint8",), n)
            self.digests = self._map(h5, "digests", 1, ("uint64",), n)
            self.classes = tuple(str(name) for name in _dataset(h5, path, "classes").asstr()[:])
            rows = _dataset(h5, path, "failures")[:]
            self.failures = tuple((int(index), reason.decode()) for index, reason in rows)

    def _read_attributes(self, h5: h5py.File) -> None:
        version = h5.attrs.get("tle_format")
        if version is None:
            raise CacheError(f"{self.path} is an HDF5 file but not a tle cache: it has no tle_format attribute")
        if version != FORMAT:
            raise CacheError(f"{self.path} has cache format {version}, this version of tle reads {FORMAT}: update tle")
        try:
            self.target = Target(h5.attrs["target"])
            self.fingerprint = str(h5.attrs["fingerprint"])
            self.spec: dict[str, Any] = json.loads(h5.attrs["spec"])
            self.run: dict[str, Any] = json.loads(h5.attrs["run"])
            found = fingerprint(self.spec)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CacheError(f"{self.path} has a damaged header ({one_line(error)}): extract it again") from error
        if found != self.fingerprint:
            raise CacheError(f"{self.path}: its fingerprint does not match its spec; the file was altered")

    def _map(self, h5: h5py.File, name: str, ndim: int, dtypes: tuple[str, ...], n: int | None = None) -> NDArray[Any]:
        """Map one contiguous dataset of the file without copying it."""
        dataset = _dataset(h5, self.path, name)
        wrong = dataset.ndim != ndim or dataset.dtype.name not in dtypes or (n is not None and len(dataset) != n)
        if wrong:
            raise CacheError(
                f"{self.path}: /{name} should be {ndim}-dimensional {' or '.join(dtypes)}"
                f"{'' if n is None else f' with {n} rows'}, found {dataset.shape} {dataset.dtype}"
            )
        offset = dataset.id.get_offset()
        if offset is None or dataset.external:
            raise CacheError(f"{self.path}: /{name} is not stored contiguously inside the file")
        if offset + dataset.nbytes > self.path.stat().st_size:
            raise CacheError(f"{self.path} is truncated: /{name} reaches beyond its end; extract it again")
        mapped: NDArray[Any] = np.memmap(self.path, dataset.dtype, "r", offset, dataset.shape)
        return mapped.view(np.ndarray)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """N image ids; decoded on first use (about 0.3 s for a million)."""
        with _open_h5(self.path) as h5:
            return tuple(name.decode() for name in _dataset(h5, self.path, "ids")[:].tolist())

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(N,) bool: the rows whose features are defined."""
        return np.asarray(self.status == Status.DONE)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,) bool: the rows that have a label."""
        if self.target is Target.REGRESSION:
            return np.asarray(~np.isnan(self.labels))
        if self.target is Target.MULTILABEL:
            return np.asarray((self.labels != 255).all(1))
        return np.asarray(self.labels >= 0)

    def __len__(self) -> int:
        return len(self.features)

    def summary(self) -> dict[str, Any]:
        """What the cache holds and where it came from, as a JSON-able dict for people to read."""
        counts: list[int] = []
        if self.target is Target.CLASS:
            counts = np.bincount(self.labels[self.labelled], minlength=len(self.classes)).tolist()
        return {
            "file": str(self.path),
            "bytes": self.path.stat().st_size,
            "images": len(self),
            "failed": len(self.failures),
            "labelled": int(self.labelled.sum()),
            "features": f"{self.dim} x {self.features.dtype}",
            "target": str(self.target),
            "classes": dict(zip(self.classes, counts, strict=True)) if counts else self.classes,
            "splits": {split.name.lower(): n for split in Split if (n := int((self.splits == split).sum()))},
            "fingerprint": self.fingerprint,
            **self.spec,
            **self.run,
        }

    @property
    def dim(self) -> int:
        """Feature dimension D."""
        return int(self.features.shape[1])


def open_cache(path: str | Path) -> Cache:
    """Open a finished feature cache.

    Args:
        path: a file written by `tle.extract`.

    Returns:
        The cache, with memory-mapped arrays.

    Raises:
        CacheError: the file is missing, not HDF5, not a tle cache, truncated or altered.
    """
    return Cache(Path(path))


def _open_h5(path: Path) -> h5py.File:
    if not path.is_file():
        hint = f"; {part_path(path).name} is there: the extraction did not finish" if part_path(path).exists() else ""
        raise CacheError(f"no such cache: {path}{hint}")
    try:
        # Without HDF5's lock: a published cache is never written, only replaced, and some file systems have no locks.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise CacheError(
            f"{path} cannot be read as HDF5 ({one_line(error)}); was it written by tle extract?"
        ) from error


def _dataset(h5: h5py.File, path: Path, name: str) -> h5py.Dataset:
    if not isinstance(item := h5.get(name), h5py.Dataset):
        raise CacheError(f"{path} has no dataset /{name}: the file is damaged or not a tle cache")
    return item
