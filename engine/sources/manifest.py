"""Manifests: a CSV or Parquet table with one row a picture.

Columns, in any case and order: `path` (or `image_path`, `filename`), and optionally `label` and `split`. Paths are
relative to the manifest's folder, or absolute. The order of the rows is kept.

A label is the class name as it is written, without the white space around it ("01" stays "01"); empty means unlabelled.
Multi-label cells hold names between semicolons, or a list (Parquet); a cell of only ";", or an empty list, is labelled
with none of the classes. Rows are counted as a spreadsheet shows them: the header of a CSV is row 1; a Parquet table's
first row is row 1.
"""

import math
import posixpath
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Split, Target
from tle.errors import SourceError
from tle.sources.source import SPLIT_NAMES, Source, class_indicators, class_labels, plural, printable, some, unlabelled
from tle.sources.table import Table, read_csv, read_parquet

PATH_COLUMNS = ("path", "image_path", "filename")
MANIFEST_SUFFIXES = (".csv", ".tsv", ".parquet")
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_LOOK_AT = 100  # files; if not one of them exists, the paths are probably meant relative to something else


def open_manifest(path: Path, target: Target | None) -> Source:
    """Read a manifest as a source.

    Args:
        path: the CSV, TSV or Parquet file, absolute.
        target: what the labels are, or None to find out: multilabel where a label cell holds a `;`, else class.

    Returns:
        The source, in the order of the rows.

    Raises:
        SourceError: the table cannot be read, lacks a column, or has a cell that cannot be used; rows are named.
        MissingPackageError: a Parquet manifest without pyarrow.
    """
    read = read_parquet if path.suffix.lower() == ".parquet" else read_csv
    table = read(path, (*PATH_COLUMNS, "label", "split"), PATH_COLUMNS)
    if not table.rows:
        raise SourceError(f"the manifest {path} lists no pictures")
    notes = list(table.notes)
    ids = _ids(path, table, notes)
    splits = _splits(path, table)
    target, labels, classes = _labels(path, table, target, notes)
    return Source(path.parent, tuple(ids), labels, classes, splits, target, "manifest", tuple(notes))


def _ids(path: Path, table: Table, notes: list[str]) -> list[str]:
    """The ids, one a row, all different."""
    column = next(name for name in PATH_COLUMNS if name in table.columns)
    first_row: dict[str, int] = {}
    repeated: list[str] = []
    ids: list[str] = []
    turned = 0
    for row, cell in zip(table.rows, table.columns[column], strict=True):
        if not isinstance(cell, str) or not cell.strip():
            raise SourceError(f"{path}, row {row}: expected a file name in column {column}, got {cell!r}")
        id_ = cell.strip()
        if "\\" in id_ and not _exists(path.parent / id_):
            id_ = id_.replace("\\", "/")
            turned += 1
        if ("./" in id_ or "//" in id_) and not id_.startswith("/"):
            id_ = PurePosixPath(id_).as_posix()
        ids.append(id_)
        same_file = posixpath.normpath(id_) if "./" in id_ or "//" in id_ else id_
        if (earlier := first_row.setdefault(same_file, row)) != row:
            repeated.append(f"rows {earlier} and {row} both name {printable(id_)}")
    if repeated:
        raise SourceError(f"{path}: {some(repeated)}; list each picture once")
    if turned:
        notes.append(f"{plural(turned, 'path')} with backslashes read as slashes")
    if not any(_exists(path.parent / id_) for id_ in ids[:_LOOK_AT]):
        looked = plural(min(len(ids), _LOOK_AT), "file")
        notes.append(f"none of the first {looked} exists; relative paths start from {path.parent}")
    return ids


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have: too long, or with a null character
        return False


def _splits(path: Path, table: Table) -> NDArray[np.uint8]:
    """(N,) values of `Split`; NONE where the cell is empty or there is no such column."""
    splits = np.full(len(table.rows), Split.NONE, np.uint8)
    for index, cell in enumerate(table.columns.get("split", ())):
        name = "" if cell is None else str(cell).strip().lower()
        if name in SPLIT_NAMES:
            splits[index] = SPLIT_NAMES[name]
        elif name:
            known = ", ".join(SPLIT_NAMES)
            raise SourceError(f"{path}, row {table.rows[index]}: split should be {known} or empty, got {cell!r}")
    return splits


def _labels(
    path: Path, table: Table, target: Target | None, notes: list[str]
) -> tuple[Target, NDArray[Any], tuple[str, ...]]:
    """What the labels are, the labels, and the class names."""
    count = len(table.rows)
    if target is Target.NONE:
        return Target.NONE, unlabelled(count), ()
    path_column = next(name for name in PATH_COLUMNS if name in table.columns)
    unused = [name for name in table.names if name.strip().lower() not in (path_column, "label", "split")]
    cells = table.columns.get("label")
    if cells is None:
        if target is not None:
            found = ", ".join(printable(name) for name in table.names)
            raise SourceError(f"target {target} needs a column label; {path} has the columns {found}")
        if unused:
            notes.append(f"no column is called label, so all pictures are unlabelled; not used: {some(unused)}")
        return Target.NONE, unlabelled(count), ()
    if unused:
        notes.append(f"{plural(len(unused), 'column')} not used: {some(unused)}")

    empty = sum(_is_empty(cell) for cell in cells)
    if empty == count:
        if target is not None:
            raise SourceError(f"target {target} needs labels; the label column of {path} is empty")
        notes.append("the label column is empty: all pictures are unlabelled")
        return Target.NONE, unlabelled(count), ()
    if empty:
        notes.append(f"{plural(empty, 'row')} of {count:,} with an empty label kept as unlabelled")
    asked = target is not None
    if target is None:
        several = any(isinstance(cell, list) or (isinstance(cell, str) and ";" in cell) for cell in cells)
        target = Target.MULTILABEL if several else Target.CLASS
        if several:
            notes.append("labels hold several names (lists or ';'), so this is multi-label")
    if target is Target.REGRESSION:
        return target, _numbers(path, table, cells), ()
    if target is Target.MULTILABEL:
        return target, *_indicators(path, table, cells)
    names = [None if _is_empty(cell) else _name(path, row, cell) for row, cell in zip(table.rows, cells, strict=True)]
    labels, classes = class_labels(names)
    if not asked and any(isinstance(cell, float) and not math.isnan(cell) for cell in cells):
        shown = some(list(classes))
        notes.append(f"label holds numbers, read as the class names {shown}; --target regression treats them as values")
    if all(_looks_continuous(name) for name in classes):
        notes.append(f"labels such as {classes[0]} are read as class names; for numbers use target regression")
    return target, labels, classes


def _is_empty(cell: Any) -> bool:
    """Whether a label cell says nothing: blank text, null, or the NaN that pandas writes for null."""
    return (
        cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell))
    )


def _name(path: Path, row: int, cell: Any) -> str:
    """The class name in a cell: text as it is written; whole numbers of a Parquet column as their digits."""
    if isinstance(cell, str) and cell.strip():
        return cell.strip()
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, float) and cell.is_integer():  # pandas stores integers beside missing values as floats
        return str(int(cell))
    raise SourceError(f"{path}, row {row}: expected a class name, got {cell!r}; for numbers use target regression")


def _looks_continuous(name: str) -> bool:
    try:
        return "." in name and math.isfinite(float(name))
    except ValueError:
        return False


def _indicators(path: Path, table: Table, cells: list[Any]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """(N, C) uint8 indicators, rows of 255 where the cell is empty, and the sorted class names."""
    names_by_row: list[set[str] | None] = []
    for row, cell in zip(table.rows, cells, strict=True):
        if _is_empty(cell):
            names_by_row.append(None)
            continue
        if isinstance(cell, str):
            parts: list[Any] = [part for part in cell.split(";") if part.strip()]
        else:
            parts = cell if isinstance(cell, list) else [cell]
        names_by_row.append({_name(path, row, part) for part in parts})
    classes = sorted(set().union(*(names for names in names_by_row if names is not None)))
    if not classes:
        raise SourceError(f"the label column of {path} names no class")
    return class_indicators(names_by_row, classes), tuple(classes)


def _numbers(path: Path, table: Table, cells: list[Any]) -> NDArray[np.float32]:
    """(N,) float32, NaN where the cell is empty."""
    labels = np.full(len(cells), np.nan, np.float32)
    for index, (row, cell) in enumerate(zip(table.rows, cells, strict=True)):
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            continue
        try:
            number = float(cell)
        except (TypeError, ValueError, OverflowError) as error:
            raise SourceError(f"{path}, row {row}: expected a number as label, got {cell!r}") from error
        if not abs(number) <= _FLOAT32_MAX:  # also NaN
            raise SourceError(f"{path}, row {row}: expected a finite float32 number as label, got {cell!r}")
        labels[index] = number
    return labels
