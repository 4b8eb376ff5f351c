"""Tables on disk as columns of cells: CSV (comma, semicolon or tab) and Parquet."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tle.errors import MissingPackageError, SourceError
from tle.sources.source import printable

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True, slots=True)
class Table:
    """The columns that a manifest uses.

    Attributes:
        names: all column names, as they are written.
        columns: cells by lower-case column name; text out of a CSV, Python values (None where null) out of Parquet.
        rows: row numbers as a person counts them, one for each cell of a column.
        notes: one-line facts on how the table was read.
    """

    names: tuple[str, ...]
    columns: dict[str, list[Any]]
    rows: Sequence[int]
    notes: tuple[str, ...] = ()


def read_csv(path: Path, wanted: Sequence[str], required: Sequence[str]) -> Table:
    """Read a CSV with a header in UTF-8, with or without byte order mark.

    The delimiter is the one that makes the header name a required column.

    Args:
        path: the file.
        wanted: lower-case names of the columns to keep.
        required: lower-case names of which one must be there.

    Returns:
        The table; blank lines are skipped, and counted as rows.

    Raises:
        SourceError: unreadable, not UTF-8, no such column, a broken quotation, or a row of another length.
    """
    text = _read_text(path)
    delimiter, names = _header(path, text, required)
    keep = _positions(path, names, wanted)
    columns: dict[str, list[Any]] = {name: [] for name in keep}
    rows: list[int] = []
    row = 1
    try:
        for row, cells in enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1):
            blank_line = len(cells) <= 1 and not any(cells)
            if row == 1 or blank_line:
                continue
            if len(cells) != len(names):
                raise SourceError(
                    f"{path}, row {row}: {len(cells)} cells, but the header has {len(names)}; "
                    f"a cell that holds {_DELIMITERS[delimiter]} or quotes needs quotes around it"
                )
            rows.append(row)
            for name, position in keep.items():
                columns[name].append(cells[position])
    except csv.Error as error:
        raise SourceError(f"{path}, near row {row + 1}: {error}; is a quote missing?") from error
    notes = () if delimiter == "," else (f"{path.name}: columns are separated by {_DELIMITERS[delimiter]}",)
    return Table(names, columns, rows, notes)


def read_parquet(path: Path, wanted: Sequence[str], required: Sequence[str]) -> Table:
    """Read a Parquet file; see `read_csv`.

    Args:
        path: the file.
        wanted: lower-case names of the columns to keep.
        required: lower-case names of which one must be there.

    Returns:
        The table.

    Raises:
        SourceError: unreadable, or no such column.
        MissingPackageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingPackageError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            keep = _positions(path, names, wanted)
            if not any(name in keep for name in required):
                raise _no_column(path, names, required)
            table = file.read(columns=[names[position] for position in keep.values()])
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"cannot read {path} as Parquet: {' '.join(str(error).split())}") from error
    columns = {name: table.column(names[position]).to_pylist() for name, position in keep.items()}
    return Table(names, columns, range(1, table.num_rows + 1))


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read the manifest {path}: {error.strerror}") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{path} is UTF-16; save it as CSV in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#04x}); save it in UTF-8"
        ) from error
    if not text.strip():
        raise SourceError(f"the manifest {path} is empty; expected a header such as path,label,split")
    return text


def _header(path: Path, text: str, required: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The delimiter and the column names."""
    readings = {}
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        except csv.Error:
            continue  # not with this delimiter
        readings[delimiter] = tuple(cell.strip() for cell in cells)
    fitting = {
        delimiter: names for delimiter, names in readings.items() if any(name.lower() in required for name in names)
    }
    if not fitting:
        raise _no_column(path, max(readings.values(), key=len, default=()), required)
    if len(set(fitting.values())) > 1:
        kinds = " and ".join(_DELIMITERS[delimiter] for delimiter in fitting)
        raise SourceError(f"{path}: the header can be read with {kinds} between columns; use commas only")
    return next(iter(fitting.items()))


def _no_column(path: Path, names: Sequence[str], required: Sequence[str]) -> SourceError:
    found = ", ".join(printable(name) for name in names) or "none"
    return SourceError(f"{path} has no column {' or '.join(required)}; its first row names the columns: {found}")


def _positions(path: Path, names: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Where the wanted columns are, by lower-case name."""
    found: dict[str, int] = {}
    for position, name in enumerate(names):
        lower = name.strip().lower()
        if lower not in wanted:
            continue
        if lower in found:
            raise SourceError(f"{path} has two columns called {lower}; remove or rename one")
        found[lower] = position
    return found
