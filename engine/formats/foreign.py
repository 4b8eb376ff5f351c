"""Files that tle did not write: features from elsewhere, with labels, ids and splits where they have them.

What made such features is not known, only which of them belong together, and that the user says with a name: the spec of
the cache has the backbone `imported:NAME`. So files that are imported under one name (and have one dimension) may meet,
a head of one is measured on the other; files of different names, or features that tle extracted, are refused.

# N images, D feature dim, C classes
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Split, Status, Target
from tle.errors import CacheError, UsageError
from tle.files import FILE_DTYPE
from tle.formats.portable import Header, Opened, Records, check_ids, check_names
from tle.sources.source import SPLIT_NAMES, class_indicators, class_labels, unlabelled

# Names of arrays and columns, in any case; of several that are there the first counts.
FEATURES = ("features", "embeddings", "embedding", "x")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "labels": ("labels", "label", "y"),
    "ids": ("ids", "id", "paths", "path"),
    "splits": ("splits", "split"),
    "classes": ("classes",),
}
_UNKNOWN = "unknown"
_NAME_LENGTH = 200


def pick(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The one of `names` that is meant, of those that are `known` in any case; None where there is none."""
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), None)


def foreign_records(opened: Opened, name: str) -> tuple[Header, Records, tuple[str, ...]]:
    """What a foreign file says, as a cache keeps it.

    Args:
        opened: the file.
        name: what features that belong together are called.

    Returns:
        What is true of all rows, the rows, and one-line notes for the user.

    Raises:
        CacheError: labels, ids or splits cannot be used.
        UsageError: the name cannot be used.
    """
    if not name.strip() or not name.isprintable() or len(name) > _NAME_LENGTH:
        raise UsageError(f"--name takes a name of 1 to {_NAME_LENGTH} printable characters, got {name!r:.60}")
    path, (n, dim), columns = opened.path, opened.shape, opened.columns
    notes = [f"{path} was not made by tle: its features count as those of the backbone imported:{name}"]
    if opened.dtype.itemsize > 4:
        notes.append(f"the features of {path} are {opened.dtype.name}; they are stored as float32")
    target, labels, classes = _labels(opened, notes)
    if columns.get("ids") is None:
        ids = list(map(str, range(n)))
        notes.append(f"{path} has no ids; they are the row numbers")
    else:
        ids = check_ids(path, [_text(value) for value in _listed(opened, "ids")], n)
    records = Records(
        ids=ids,
        labels=labels,
        splits=_splits(opened),
        status=np.full(n, Status.DONE, np.uint8),
        digests=None,
        files=np.zeros(n, FILE_DTYPE),
        reasons={},
        checksums=None,
    )
    run = {
        "runtime": "imported",
        "source": str(path.absolute()),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "notes": notes,
    }
    return Header(target=target, classes=classes, spec=imported_spec(name, dim), run=run), records, tuple(notes)


def imported_spec(name: str, dim: int) -> dict[str, Any]:
    """What defines features that were imported under a name."""
    backbone = {"name": f"imported:{name}", "dim": dim}
    backbone |= dict.fromkeys(("weights", "weights_digest", "layer", "pool"), _UNKNOWN)
    return {"backbone": backbone, "preprocess": {}, "decoder": _UNKNOWN, "precision": _UNKNOWN}


def _labels(opened: Opened, notes: list[str]) -> tuple[Target, NDArray[Any], tuple[str, ...]]:
    """Target, labels and classes; of the dtype of the labels follows what they are."""
    path, n, given = opened.path, opened.shape[0], opened.columns.get("labels")
    if given is None:
        return Target.NONE, unlabelled(n), ()
    names = None
    if opened.columns.get("classes") is not None:
        names = [_text(value) for value in _listed(opened, "classes", rows=None)]
        check_names(path, "class", names)
        if len(set(names)) < len(names):
            raise CacheError(f"{path}: a class is listed twice in classes")
    if isinstance(given, np.ndarray) and given.ndim == 2 and given.dtype.kind in "biu":
        return _indicators(opened, given, names)
    values = _listed(opened, "labels")
    known = [value for value in values if value is not None]
    if not known:
        return Target.NONE, unlabelled(n), ()
    if all(isinstance(value, list) for value in known):
        return _named_indicators(opened, values, names)
    if all(isinstance(value, str | bytes) for value in known):
        return _classes(opened, [_text(value) or None if value is not None else None for value in values], names)
    if all(isinstance(value, int) for value in known):  # also bool
        return _classes(opened, [_numbered(opened, value, names) for value in values], names)
    if all(isinstance(value, int | float) for value in known):
        notes.append(f"the labels of {path} are floating-point numbers: for regression; classes are integers or text")
        return Target.REGRESSION, _numbers(opened, values), ()
    raise CacheError(f"{path}: expected labels of one kind, integers, text, lists of text or floating-point numbers")


def _numbered(opened: Opened, value: int | None, names: Sequence[str] | None) -> str | None:
    """The class name behind an integer; -1 is unlabelled."""
    if value is None or value == -1:
        return None
    if names is None:
        return str(int(value))
    if not 0 <= value < len(names):
        raise CacheError(
            f"{opened.path}: expected labels from -1 to {len(names) - 1} for {len(names)} classes, got {value}"
        )
    return names[value]


def _classes(
    opened: Opened, labels: Sequence[str | None], names: Sequence[str] | None
) -> tuple[Target, NDArray[np.int64], tuple[str, ...]]:
    check_names(opened.path, "class", [label for label in labels if label is not None])
    indices, classes = class_labels(list(labels))
    if names is None:
        return Target.CLASS, indices, classes
    if missing := set(classes).difference(names):
        raise CacheError(f"{opened.path}: the label {min(missing)!r} is not one of its classes")
    every = tuple(sorted(names))  # classes without a picture among them
    places = np.array([every.index(name) for name in classes] + [-1], np.int64)
    return Target.CLASS, places[indices], every


def _indicators(
    opened: Opened, given_NC: NDArray[Any], names: Sequence[str] | None
) -> tuple[Target, NDArray[np.uint8], tuple[str, ...]]:
    n, c = given_NC.shape
    names = names if names is not None else [str(number) for number in range(c)]
    if n != opened.shape[0] or len(names) != c or not c:
        raise CacheError(
            f"{opened.path}: expected labels ({opened.shape[0]}, {len(names)}), rows by classes, got {given_NC.shape}"
        )
    unlabelled_N = (given_NC == 255).all(1)
    if not np.isin(given_NC[~unlabelled_N], (0, 1)).all():
        raise CacheError(f"{opened.path}: labels of several classes should be 0 or 1, or a row of 255 for unlabelled")
    order = sorted(range(c), key=names.__getitem__)
    return Target.MULTILABEL, given_NC[:, order].astype(np.uint8), tuple(names[number] for number in order)


def _named_indicators(
    opened: Opened, values: Sequence[list[Any] | None], names: Sequence[str] | None
) -> tuple[Target, NDArray[np.uint8], tuple[str, ...]]:
    rows = [None if value is None else {_text(name) for name in value} for value in values]
    used = set().union(*(row for row in rows if row is not None))
    check_names(opened.path, "class", list(used))
    if names is not None and (missing := used.difference(names)):
        raise CacheError(f"{opened.path}: the label {min(missing)!r} is not one of its classes")
    classes = sorted(used if names is None else names)
    if not classes:
        raise CacheError(f"{opened.path}: its lists of labels name no class")
    return Target.MULTILABEL, class_indicators(rows, classes), tuple(classes)


def _numbers(opened: Opened, values: Sequence[float | None]) -> NDArray[np.float32]:
    """(N,) float32, NaN where there is none."""
    with np.errstate(over="ignore"):
        labels = np.array([np.nan if value is None else value for value in values], np.float64).astype(np.float32)
    if np.isinf(labels).any():
        raise CacheError(f"{opened.path}: label {values[int(np.isinf(labels).argmax())]!r} is no finite float32 number")
    return labels


def _splits(opened: Opened) -> NDArray[np.uint8]:
    splits = np.full(opened.shape[0], Split.NONE, np.uint8)
    if opened.columns.get("splits") is None:
        return splits
    for row, value in enumerate(_listed(opened, "splits")):
        name = _text(value).strip().lower() if isinstance(value, str | bytes) else value
        if name in SPLIT_NAMES:
            splits[row] = SPLIT_NAMES[name]
        elif name not in (None, "", "none"):
            known = ", ".join(SPLIT_NAMES)
            raise CacheError(f"{opened.path}: the split of row {row} should be {known} or empty, got {value!r:.60}")
    return splits


def _listed(opened: Opened, column: str, rows: int | None = -1) -> list[Any]:
    """A column as Python values, of `rows` rows; -1 for N, None for any number."""
    values = opened.columns[column]
    if isinstance(values, np.ndarray):
        if values.ndim != 1 or values.dtype.kind not in "biufUS":
            raise CacheError(
                f"{opened.path}: expected {column} (N,) of numbers or text, got {values.shape} {values.dtype}"
            )
        values = values.tolist()
    if not isinstance(values, list) or (rows is not None and len(values) != opened.shape[0]):
        found = f"{len(values):,}" if isinstance(values, list) else type(values).__name__
        raise CacheError(f"{opened.path}: expected {column} for {opened.shape[0]:,} rows, found {found}")
    return values


def _text(value: Any) -> Any:
    """Text of bytes and whole numbers; anything else as it is, for the check of names to refuse."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
