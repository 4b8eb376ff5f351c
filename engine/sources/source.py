"""A source: which pictures there are, where they lie, and what is known about each."""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Split, Target
from tle.errors import ImageError
from tle.files import file_states

# A larger file holds no picture within the default pixel limit, and would be read into memory whole.
MAX_FILE_BYTES = 2 << 30

SPLIT_NAMES = {
    "train": Split.TRAIN,
    "val": Split.VAL,
    "valid": Split.VAL,
    "validation": Split.VAL,
    "test": Split.TEST,
}


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """N pictures in a fixed order, known before the first is read. Made by `tle.sources.open_source`.

    Attributes:
        root: folder that the ids are relative to; absolute.
        ids: N unique ids: the POSIX-style path below `root` (a manifest's absolute paths stay as they are written).
        labels: as `Target` defines them for `target`.
        classes: C class names, sorted by code point.
        splits: (N,) uint8, values of `Split`.
        target: what the labels are.
        kind: "folder" or "manifest".
        notes: one-line facts that the user must be told: what was left out, or read in a way worth knowing.
        odd_paths: by index, where the pictures lie whose names are no valid UTF-8; their ids are escaped.
        states: sizes and modification times that the files are expected to have, as `files` gives them; `read` sets those
            to 0 that it finds otherwise. None expects nothing.
    """

    root: Path
    ids: tuple[str, ...]
    labels: NDArray[Any]
    classes: tuple[str, ...]
    splits: NDArray[np.uint8]
    target: Target
    kind: str
    notes: tuple[str, ...] = ()
    odd_paths: Mapping[int, Path] = field(default_factory=dict)
    states: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, index: int) -> Path:
        """Where picture `index` lies."""
        return self.odd_paths.get(index) or self.root / self.ids[index]

    def spread(self, n: int) -> "Source":
        """`n` of its pictures, spread evenly, as a source of their own; itself where it has no more.

        Args:
            n: how many, at least 1.
        """
        if n >= len(self):
            return self
        return self.subset(np.arange(n) * len(self) // n)

    def subset(self, rows: NDArray[np.int64]) -> "Source":
        """Some of its pictures as a source of their own; itself where they are all.

        Args:
            rows: which, ascending, at least one.
        """
        if len(rows) == len(self):
            return self
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows.tolist()),
            labels=self.labels[rows],
            splits=self.splits[rows],
            states=None if self.states is None else self.states[rows],
            odd_paths={new: self.odd_paths[old] for new, old in enumerate(rows.tolist()) if old in self.odd_paths},
        )

    def files(self) -> NDArray[Any]:
        """(N,) `tle.files.FILE_DTYPE`: sizes and modification times of the pictures' files; 0 where there is none."""
        prefix = f"{self.root}{os.sep}"
        paths = [name if name.startswith("/") else prefix + name for name in self.ids]  # absolute ones: of a manifest
        for row, path in self.odd_paths.items():
            paths[row] = str(path)
        return file_states(paths)

    def read(self, index: int) -> bytes:
        """The bytes of picture `index`; safe to call from many threads at once.

        Args:
            index: 0 to N - 1.

        Returns:
            The whole file.

        Raises:
            ImageError: missing, no permission, no regular file, too large; the message is a one-line reason.
        """
        path = self.path(index)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a named pipe would wait for ever
                raise ImageError("a folder, not a file" if stat.S_ISDIR(status.st_mode) else "not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"file of {status.st_size} bytes, more than the {MAX_FILE_BYTES} allowed")
            with path.open("rb") as file:
                self._expect(index, os.fstat(file.fileno()))
                return file.read()
        except ImageError:
            raise
        except FileNotFoundError as error:
            reason = "a link to a file that does not exist" if path.is_symlink() else "no such file"
            raise ImageError(reason) from error
        except (OSError, ValueError) as error:  # ValueError: a manifest's path with a null character
            raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def _expect(self, index: int, status: os.stat_result) -> None:
        """Note where a file is not the one that was looked at before: what is read is of another state then."""
        if self.states is not None and self.states[index].item() != (status.st_size, status.st_mtime_ns):
            self.states[index] = (0, 0)


def unlabelled(count: int) -> NDArray[np.int64]:
    """(N,) int64 of -1: the labels of a source without labels."""
    return np.full(count, -1, np.int64)


def class_labels(names: list[str | None]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(N,) int64 class indices, -1 where the name is None, and the sorted class names."""
    classes = sorted({name for name in names if name is not None})
    index: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    index[None] = -1
    return np.array([index[name] for name in names], np.int64), tuple(classes)


def class_indicators(names: Sequence[set[str] | None], classes: Sequence[str]) -> NDArray[np.uint8]:
    """(N, C) uint8 indicators of the classes that each row names, a row of 255 where it is None."""
    index = {name: number for number, name in enumerate(classes)}
    labels_NC = np.zeros((len(names), len(classes)), np.uint8)
    for number, own in enumerate(names):
        if own is None:
            labels_NC[number] = 255
        else:
            labels_NC[number, [index[name] for name in own]] = 1
    return labels_NC


def plural(count: int, noun: str) -> str:
    """`1 file`, `1,234 files`, `2 classes`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


def some(names: list[str], limit: int = 3) -> str:
    """The first few of `names`, and how many there are beyond: `a, b, c and 4 more`."""
    shown = ", ".join(printable(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def printable(name: str) -> str:
    """`name` on one line that any terminal takes: control characters and stray bytes as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
