"""Which pictures are trained on, which decide, and what their labels mean to the head.

# N pictures of the source, n labels, C classes
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Split, Status, Target
from tle.errors import HeadError
from tle.heads.selection import Selection, resolve_splits, select_rows
from tle.labelling import has_label
from tle.sources import Source
from tle.sources.digests import digests_of
from tle.sources.source import plural, some

if TYPE_CHECKING:
    from tle.cache import Cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Labelled pictures, dealt into those to train on and those to choose on.

    Attributes:
        source: where they are.
        target: what the labels are.
        classes: C names that labels refer to; empty for regression.
        labels: (N,) int64, (N, C) uint8 or (N,) float32, in terms of `classes`; rows outside of train and val mean nothing.
        digests: (N,) uint64.
        train: rows of the source, ascending.
        val: rows of the source, ascending; may be empty.
        record: how they were chosen, JSON-able.
        dealt: the same before pictures that are gone were left out: of a cache, that of all its rows.
        notes: one-line facts that the user has to be told.
    """

    source: Source
    target: Target
    classes: tuple[str, ...]
    labels: NDArray[Any]
    digests: NDArray[np.uint64]
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    record: dict[str, Any]
    dealt: dict[str, Any]
    notes: tuple[str, ...]

    def counts(self) -> dict[str, Any]:
        """Pictures a split, and a class and split where there are classes, JSON-able."""
        splits = {"train": self.train, "val": self.val, "test": np.flatnonzero(self.source.splits == Split.TEST)}
        found: dict[str, Any] = {"counts": {name: len(rows) for name, rows in splits.items()}}
        if self.target is Target.CLASS:
            per_class = {
                name: np.bincount(self.labels[rows][self.labels[rows] >= 0], minlength=len(self.classes))
                for name, rows in splits.items()
            }
            found["classes"] = {
                label: {name: int(count[index]) for name, count in per_class.items()}
                for index, label in enumerate(self.classes)
            }
        return found


class _SourceRows:
    """A source as `select_rows` takes it: rows with labels, splits and digests, all of them usable but the unreadable."""

    def __init__(self, source: Source) -> None:
        self.path, self.target = source.root, source.target
        self.labels, self.classes = source.labels, source.classes
        self.ids, self.splits = source.ids, source.splits
        self.digests: NDArray[np.uint64] = np.fromiter(digests_of(source, range(len(source))), np.uint64, len(source))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        return np.where(self.digests != 0, Status.DONE, Status.FAILED).astype(np.uint8)

    @property
    def valid(self) -> NDArray[np.bool_]:
        return np.asarray(self.status == Status.DONE)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        return has_label(self.labels, self.target)


def select_pictures(
    source: Source,
    classes: Sequence[str] | None,
    *,
    cache: "Cache | None",
    val_fraction: float,
    seed: int,
    splits: str | Path | None = None,
) -> Pictures:
    """Deal labelled pictures into train and val; test is never taken.

    Args:
        source: the pictures, with labels.
        classes: the classes of the head that training starts from; None takes those of the source.
        cache: the cache that the head was fitted on: its pictures, dealt just as for the head. None deals the source's.
        val_fraction: part of train that is held out where there is no val split.
        seed: seed of that choice.
        splits: a manifest with the columns path and split, instead of the splits of cache or source.

    Returns:
        The pictures.

    Raises:
        HeadError: no labels, a class that the head does not know, or pictures that are not those of the cache.
    """
    labels, names = relabel_source(source, classes)
    if cache is None:
        rows = _SourceRows(source)
        split_values, split_notes = resolve_splits(rows, splits)
        found: Selection = select_rows(rows, split_values, val_fraction=val_fraction, seed=seed)
        train, val, digests, notes = found.train, found.val, rows.digests, (*split_notes, *found.notes)
    else:
        split_values, split_notes = resolve_splits(cache, splits)
        found = select_rows(cache, split_values, val_fraction=val_fraction, seed=seed)
        row_of, digests, notes = _align(source, cache)
        train, val = (np.sort(row_of[rows][row_of[rows] >= 0]) for rows in (found.train, found.val))
        notes = (*split_notes, *found.notes, *notes)
    if not len(train):
        raise HeadError(f"{source.root} has no labelled picture to train on")
    return Pictures(
        source=source,
        target=source.target,
        classes=names,
        labels=labels,
        digests=digests,
        train=train,
        val=val,
        dealt=found.record,
        record={**found.record, "n_train": len(train), "n_val": len(val)},
        notes=notes,
    )


def relabel_source(source: Source, classes: Sequence[str] | None) -> tuple[NDArray[Any], tuple[str, ...]]:
    """All labels of a source in terms of a head's C classes, which are matched by name: what can be trained on.

    Args:
        source: the pictures.
        classes: of the head; None takes those of the source.

    Returns:
        The labels of all N rows, unlabelled ones too, for several labels (N, C); and the classes that they refer to.

    Raises:
        HeadError: the source has pictures of classes that the head does not know.
    """
    if source.target is Target.NONE:
        raise HeadError(f"{source.root} has no labels: name class folders, or a manifest with a label column")
    if source.target is Target.REGRESSION:
        return source.labels, ()
    if classes is None or tuple(classes) == source.classes:
        return source.labels, source.classes
    column_of = {name: column for column, name in enumerate(classes)}
    if unknown := [name for name in source.classes if name not in column_of]:
        raise HeadError(
            f"{source.root} has {plural(len(unknown), 'class')} that the head does not know ({some(unknown)}): fit a head "
            "with them first, or leave these pictures out"
        )
    to_head = np.array([column_of[name] for name in source.classes], np.int64)
    if source.target is Target.CLASS:
        return np.where(source.labels >= 0, to_head[source.labels], -1), tuple(classes)
    labels_NC = np.zeros((len(source), len(classes)), np.uint8)
    labels_NC[:, to_head] = source.labels
    labels_NC[(source.labels > 1).any(axis=1)] = 255
    return labels_NC, tuple(classes)


def _align(source: Source, cache: "Cache") -> tuple[NDArray[np.int64], NDArray[np.uint64], tuple[str, ...]]:
    """(rows of the cache,) rows of the source by id, -1 where it has none; digests by row of the source; notes."""
    index = {name: row for row, name in enumerate(source.ids)}
    row_of = np.array([index.get(name, -1) for name in cache.ids], np.int64)
    known = row_of >= 0
    if not known.any():
        raise HeadError(
            f"{source.root} holds none of the pictures of {cache.path} (its first is {cache.ids[0]!r}, the folder's "
            f"{source.ids[0]!r}): name the pictures that were extracted, or another --cache"
        )
    sizes = source.files()["size"][row_of[known]]
    recorded = cache.files["size"][known]
    changed = np.flatnonzero((recorded != 0) & (sizes != recorded))
    if len(changed):
        first = source.ids[row_of[known][changed[0]]]
        raise HeadError(
            f"{plural(len(changed), 'picture')} changed since {cache.path} was extracted, for example {first}: run "
            "tle extract and tle fit-head again"
        )
    digests = np.zeros(len(source), np.uint64)
    digests[row_of[known]] = cache.digests[known]
    notes = []
    if gone := int((~known).sum()):
        notes.append(f"{plural(gone, 'picture')} of {cache.path.name} are no longer in {source.root}")
    if new := len(source) - int(known.sum()):
        notes.append(
            f"{plural(new, 'picture')} of {source.root} are not in {cache.path.name} and are left out: tle extract adds them"
        )
    return row_of, digests, tuple(notes)


def default_cache(head: Path) -> Path | None:
    """The cache that lies beside a head under the same name, photos.h5 beside photos.head; None where there is none."""
    beside = head.with_suffix(".h5")
    return beside if beside.is_file() else None
