"""Reading a cache: `tle.open_cache`. What it gives is mapped, not read, and shared by all processes that open the file.

# N images, D feature dim, C classes, F failures, n valid rows, B rows of a block
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.cache.joined import JoinedRows
from tle.cache.journal import Journal
from tle.cache.layout import Slot
from tle.cache.structure import Structure, read_structure
from tle.enums import Split, Status, Target
from tle.errors import CacheError, MissingPackageError, one_line
from tle.files import file_identity
from tle.labelling import has_label

if TYPE_CHECKING:
    import polars

    from tle.cache.dataset import FeatureDataset

_BLOCK_BYTES = 1 << 26


class Cache:
    """A cache, opened for reading. Arrays are memory-mapped and read-only; nothing is copied.

    Attributes:
        path: the file.
        features: (N, D) float16 or float32; rows are undefined where `valid` is False. Of a merged cache it is a
            `JoinedRows`, which is indexed in the same way.
        labels: as `target` defines them.
        splits: (N,) uint8, values of `Split`.
        status: (N,) uint8, values of `Status`.
        digests: (N,) uint64, xxh3-64 of the image's bytes.
        files: (N,) size in bytes and mtime_ns in nanoseconds of the image's file; 0 where unknown.
        checksums: (N,) uint64, see `tle.cache.checksums`.
        classes: C class names, sorted.
        target: what the labels are.
        fingerprint: identity of the features.
        spec: what defines the features.
        run: how they were made.
        failures: (index, reason) of every failed image.
        structure: what the file says of itself.
        state: device, inode and size of the file that was opened.
    """

    def __init__(self, path: Path, structure: Structure) -> None:
        """Map the arrays of the file; see `open_cache`."""
        self.path, self.structure = path, structure
        self.state: tuple[int, int, int] | None = None
        self.target, self.fingerprint = structure.target, structure.fingerprint
        self.spec, self.run = structure.spec, structure.run
        # Once, and all of it: what is read later is of this file, whatever takes its name meanwhile.
        try:
            self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, "r").view(np.ndarray)
        except (OSError, ValueError) as error:
            raise CacheError(f"{path} cannot be mapped: {one_line(error)}") from error
        self.features: NDArray[Any] = self._features()
        self.labels = self._map("labels")
        self.splits: NDArray[np.uint8] = self._map("splits")
        self.status: NDArray[np.uint8] = self._map("status")
        self.digests: NDArray[np.uint64] = self._map("digests")
        self.files = self._map("files")
        self.checksums: NDArray[np.uint64] = self._map("checksums")
        self.classes = self._names("classes", errors="replace")
        listed = structure.failures
        listed = listed[self.status[listed["index"]] == Status.FAILED]  # a row that was repaired is still listed
        self.failures: tuple[tuple[int, str], ...] = tuple(
            (index, reason.decode("utf-8", "replace")) for index, reason in listed.tolist()
        )

    def _features(self) -> NDArray[Any]:
        if not self.structure.parts:
            return self._map("features")
        return JoinedRows(self.path, self.structure)  # type: ignore[return-value]

    @property
    def slots(self) -> dict[str, Slot]:
        """Where the arrays lie in the file."""
        return dict(self.structure.slots)

    def is_replaced(self) -> bool:
        """Whether its name is another file by now."""
        return file_identity(self.path) != self.state

    def raw(self, name: str) -> NDArray[Any]:
        """An array of the file as it is stored; names as bytes."""
        return self._map(name)

    def _map(self, name: str) -> NDArray[Any]:
        """One contiguous array of the file; mapped, not copied."""
        slot = self.structure.slots[name]
        if not slot.nbytes:
            return np.zeros(slot.shape, slot.dtype)
        if slot.offset + slot.nbytes > len(self._bytes):
            raise CacheError(f"{self.path} changed while it was opened: try again")
        return self._bytes[slot.offset : slot.offset + slot.nbytes].view(slot.dtype).reshape(slot.shape)

    def _names(self, name: str, errors: str = "strict") -> tuple[str, ...]:
        try:
            return tuple(text.decode("utf-8", errors) for text in self._map(name).tolist())
        except UnicodeDecodeError as error:
            raise CacheError(f"{self.path}: /{name} is damaged, it holds no UTF-8: tle verify tells more") from error

    def check_values(self) -> None:
        """Refuse what no array may hold, so that nobody stumbles over it later.

        Raises:
            CacheError: a status, split or label that does not exist, a class name that is no text.
        """
        self._names("classes")
        arrays: list[tuple[str, NDArray[Any], int]] = [
            ("status", self.status, max(Status)),
            ("splits", self.splits, max(Split)),
        ]
        if self.target in (Target.CLASS, Target.NONE):
            arrays.append(("labels", self.labels, len(self.classes) - 1))
        for name, values, most in arrays:
            if len(values) and (values.max() > most or values.min() < -1):
                raise CacheError(f"{self.path}: /{name} is damaged, it holds unknown values: tle verify tells more")

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """N image ids; decoded on first use (about 0.3 s for a million)."""
        return self._names("ids")

    @property
    def reasons(self) -> dict[int, str]:
        """Why the failed images failed, by row."""
        return dict(self.failures)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(N,) bool: the rows whose features are defined."""
        return np.asarray(self.status == Status.DONE)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,) bool: the rows that have a label."""
        return has_label(self.labels, self.target)

    @property
    def dim(self) -> int:
        """Feature dimension D."""
        return int(self.features.shape[1])

    def __len__(self) -> int:
        return len(self.features)

    def __reduce__(self) -> tuple[Any, tuple[Path, tuple[int, int, int] | None]]:
        """To another process goes the path; there the same pages are mapped again."""
        return _reopen, (self.path.absolute(), self.state)

    def rows(self, split: str | None = None) -> NDArray[np.int64]:
        """Valid rows, ascending.

        Args:
            split: "train", "val", "test" or "none"; None takes all.

        Raises:
            CacheError: no such split.
        """
        if split is None:
            return np.flatnonzero(self.valid)
        if split.upper() not in Split.__members__:
            raise CacheError(f"split should be one of {', '.join(Split.__members__).lower()}, got {split!r}")
        return np.flatnonzero(self.valid & (self.splits == Split[split.upper()]))

    def gather(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Features of some rows, (len(rows), D): a view of the file where they follow each other, else a copy.

        Args:
            rows: in any order, at least one.
        """
        together = bool((np.diff(rows) == 1).all())
        return self.features[int(rows[0]) : int(rows[-1]) + 1] if together else self.features[rows]

    def blocks(self, n_rows: int | None = None) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Valid rows in order, a block at a time: for caches that are larger than memory.

        Args:
            n_rows: rows of a block B, at least 1; None takes about 64 MiB.

        Yields:
            (B,) row numbers and (B, D) features, a view of the file where the rows are consecutive.
        """
        step = n_rows or max(1, _BLOCK_BYTES // (self.dim * self.features.dtype.itemsize))
        rows = self.rows()
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            yield block, self.gather(block)

    def dataset(self, split: str | None = None) -> "FeatureDataset":
        """Valid rows as a `torch.utils.data.Dataset` of (features, label); see `rows` for `split`."""
        from tle.cache.dataset import FeatureDataset

        return FeatureDataset(self, self.rows(split))

    def to_numpy(self, split: str | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Features (n, D) and labels of the valid rows, in memory; see `rows` for `split`."""
        rows = self.rows(split)
        return self.features[rows], self.labels[rows]

    def to_polars(self, split: str | None = None) -> "polars.DataFrame":
        """Valid rows as a data frame with the columns id, label, split and features; see `rows` for `split`.

        Raises:
            MissingPackageError: polars is not installed.
        """
        try:
            import polars
        except ImportError as error:
            raise MissingPackageError("polars is not installed: pip install polars") from error
        from tle.cache.labels import readable_labels

        rows = self.rows(split)
        return polars.DataFrame(
            {
                "id": [self.ids[row] for row in rows.tolist()],
                "label": readable_labels(self, rows),
                "split": [Split(value).name.lower() for value in self.splits[rows].tolist()],
                "features": self.features[rows],
            }
        )

    def summary(self) -> dict[str, Any]:
        """What the cache holds and where it came from, as a JSON-able dict for people to read."""
        counts: list[int] = []
        if self.target is Target.CLASS:
            labels = self.labels[self.labelled & (self.labels < len(self.classes))]
            counts = np.bincount(labels, minlength=len(self.classes)).tolist()
        pending = int((self.status == Status.PENDING).sum())
        return {
            "file": str(self.path),
            "bytes": self.path.stat().st_size,
            "images": len(self),
            "failed": int((self.status == Status.FAILED).sum()),
            **({"pending": pending} if pending else {}),
            **({"parts": [str(part.path) for part in self.structure.parts]} if self.structure.parts else {}),
            "labelled": int(self.labelled.sum()),
            "features": f"{self.dim} x {self.features.dtype}",
            "target": str(self.target),
            "classes": dict(zip(self.classes, counts, strict=True)) if counts else self.classes,
            "splits": {split.name.lower(): n for split in Split if (n := int((self.splits == split).sum()))},
            "fingerprint": self.fingerprint,
            **self.spec,
            **{key: value for key, value in self.run.items() if key != "parts"},
        }


def open_cache(path: str | Path) -> Cache:
    """Open a feature cache.

    Args:
        path: a file written by `tle.extract` or `tle.merge`.

    Returns:
        The cache, with memory-mapped arrays.

    Raises:
        CacheError: the file is missing, not HDF5, not a tle cache, truncated, altered, or reaches outside its folder.
    """
    cache = open_unchecked(Path(path))
    cache.check_values()
    return cache


def _reopen(path: Path, state: tuple[int, int, int] | None) -> Cache:
    cache = open_cache(path)
    if cache.state != state:
        raise CacheError(f"{path} was replaced since it was opened: open it again")
    return cache


def open_unchecked(path: Path) -> Cache:
    """Open a cache whose values may be damaged, as long as its structure is not.

    Raises:
        CacheError: as `open_cache`, but for values.
    """
    while True:
        state = file_identity(path)
        cache = Cache(path, read_structure(path))
        cache.state = state
        if not cache.is_replaced():  # while it was opened
            return cache


def open_unfinished(path: Path, fd: int) -> Cache:
    """Open the unfinished file of a claim; its failures come from the journal.

    Args:
        path: the unfinished file.
        fd: its descriptor.

    Raises:
        CacheError: it is damaged.
    """
    cache = open_cache(path)
    found = cache.reasons | Journal(cache.structure.slots["features"]).read(fd, cache.status)
    cache.failures = tuple(sorted((row, why) for row, why in found.items() if cache.status[row] == Status.FAILED))
    return cache
