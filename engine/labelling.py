"""Labels of pictures, whatever holds them, in terms of a head's classes.

# N pictures, n of them looked at, C classes of the head
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError

if TYPE_CHECKING:
    from tle.heads.head import Head
    from tle.sources import Source

_SHOWN = 5


class Labelled(Protocol):
    """N pictures with ids, labels, classes and splits, as `tle.sources.Source` defines them: a cache, or `Labels`."""

    @property
    def path(self) -> Path:
        """What holds them, for messages."""

    @property
    def ids(self) -> tuple[str, ...]:
        """N ids."""

    @property
    def labels(self) -> NDArray[Any]:
        """As `Target` defines them."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""

    @property
    def splits(self) -> NDArray[np.uint8]:
        """(N,) values of `Split`."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The labels of a source of pictures; see `Labelled`."""

    path: Path
    ids: tuple[str, ...]
    labels: NDArray[Any]
    classes: tuple[str, ...]
    splits: NDArray[np.uint8]

    @classmethod
    def of(cls, source: "Source", path: str | Path) -> Self:
        """Those of `source`, which was opened at `path`."""
        return cls(Path(path), source.ids, source.labels, source.classes, source.splits)

    def __len__(self) -> int:
        return len(self.ids)


def has_label(labels: NDArray[Any], target: Target) -> NDArray[np.bool_]:
    """(N,) bool: the rows that have a label."""
    if target is Target.REGRESSION:
        return np.asarray(~np.isnan(labels))
    if target is Target.MULTILABEL:
        return np.asarray((labels != 255).all(1))
    return np.asarray(labels >= 0)


def match_labels(
    head: "Head", labelled: Labelled, rows: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels in terms of the head's classes, which are matched by name.

    Args:
        head: the head.
        labelled: pictures of its target.
        rows: (n,) those looked at; all have a label.

    Returns:
        The labels: (n,) indices into the head's classes, (n, A) indicators, or (n,) values; for multi-label the A columns
        of the head's scores that belong to them, else None; and notes.

    Raises:
        HeadError: a picture is of a class that the head does not know.
    """
    labels, classes = labelled.labels[rows], labelled.classes
    if head.target is Target.REGRESSION:
        return labels, None, ()
    column_of = {name: column for column, name in enumerate(head.classes)}
    if head.target is Target.CLASS:
        _refuse_unknown(head, labelled, [classes[label] for label in np.unique(labels)])
        to_head = np.array([column_of.get(name, -1) for name in classes], np.int64)
        return to_head[labels], None, ()
    _refuse_unknown(head, labelled, [classes[label] for label in np.flatnonzero(labels.any(axis=0))])
    shared = [label for label, name in enumerate(classes) if name in column_of]
    if not shared:
        raise HeadError(f"{labelled.path} and the head have no label in common")
    notes: tuple[str, ...] = ()
    if missing := len(head.classes) - len(shared):
        notes = (
            f"{missing} of {len(head.classes)} labels of the head are unknown to {labelled.path.name} and are not measured",
        )
    return labels[:, shared], np.array([column_of[classes[label]] for label in shared]), notes


def _refuse_unknown(head: "Head", labelled: Labelled, names: list[str]) -> None:
    if unknown := [name for name in names if name not in set(head.classes)]:
        shown = ", ".join(repr(name) for name in unknown[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        raise HeadError(
            f"{labelled.path} has pictures of {len(unknown)} classes that the head does not know ({shown}): fit a head with "
            "them, or leave them out"
        )
