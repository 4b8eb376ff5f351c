"""Features of a merged cache: rows of several files, indexed as if they were one array.

# N rows in all, D feature dim
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache.checksums import array_checksum
from tle.cache.layout import Slot
from tle.cache.structure import Structure, read_structure
from tle.errors import CacheError, one_line
from tle.files import file_identity


class JoinedRows:
    """(N, D) features in several mapped files; read-only.

    Attributes:
        shape: (N, D).
        dtype: float16 or float32.
        ndim: 2.
    """

    ndim = 2

    def __init__(self, path: Path, merged: Structure) -> None:
        """Map the parts of the merged cache at `path`.

        Raises:
            CacheError: a part is missing, or is not what it was when the caches were merged.
        """
        self.shape, self.dtype = merged.shape, merged.dtype
        self._parts: list[NDArray[Any]] = []
        for part in merged.parts:
            state = file_identity(part.path)
            found = read_structure(part.path)
            if found.parts:
                raise CacheError(f"{path}: its part {part.path} is a merged cache itself, which is not followed")
            if (found.shape, found.dtype) != ((part.n, self.shape[1]), self.dtype):
                raise CacheError(f"{part.path} is not what it was when {path} was made of it: tle merge again")
            if part.state != part_state(part.path, found):
                raise CacheError(f"{part.path} changed since {path} was made of it: tle merge again")
            self._parts.append(_mapped(part.path, found.slots["features"]))
            if file_identity(part.path) != state:
                raise CacheError(f"{part.path} was replaced while {path} was opened: tle merge again")
        self._starts = np.array([part.first for part in merged.parts], np.int64)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Rows as numpy would give them; a second index is applied to what the first one gives."""
        if isinstance(key, tuple):
            rows, *others = key
            # an index of rows that is a number has taken that axis away
            return self[rows][tuple(others) if np.ndim(self[rows]) == 1 else (slice(None), *others)]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            for first, rows in zip(self._starts.tolist(), self._parts, strict=True):
                if step == 1 and first <= start and max(start, stop) <= first + len(rows):
                    return rows[start - first : stop - first]  # a view: all of it in one file
            key = np.arange(start, stop, step)
        index = np.asarray(key)
        if index.dtype == np.bool_:
            if index.shape != (len(self),):
                raise IndexError(f"expected a mask of {len(self)} rows, got shape {index.shape}")
            index = np.flatnonzero(index)
        if index.size and not (-len(self) <= index.min() and index.max() < len(self)):
            raise IndexError(f"rows {index.min()} to {index.max()} are not all within {len(self)}")
        index = np.where(index < 0, index + len(self), index).astype(np.int64)
        which = np.searchsorted(self._starts, index, "right") - 1
        out = np.empty((*index.shape, self.shape[1]), self.dtype)
        for number, rows in enumerate(self._parts):
            inside = which == number
            if inside.any():
                out[inside] = rows[index[inside] - self._starts[number]]
        return out

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (row for rows in self._parts for row in rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All rows in memory."""
        if copy is False:
            raise ValueError("rows of several files cannot be one array without a copy")
        return np.concatenate(self._parts).astype(dtype or self.dtype, copy=False)


def part_state(path: Path, structure: Structure) -> str:
    """What a file has to be still when a merged cache points into it: a checksum of the checksums of its rows."""
    slot = structure.slots["checksums"]
    if not slot.nbytes:
        return ""
    return array_checksum(_mapped(path, slot))


def _mapped(path: Path, slot: Slot) -> NDArray[Any]:
    try:
        return np.memmap(path, slot.dtype, "r", slot.offset, slot.shape).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise CacheError(f"{path} cannot be mapped: {one_line(error)}") from error
