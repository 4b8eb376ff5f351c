"""Tables that grow row by row under a temporary name and get their own when they are complete: CSV and Parquet."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tle.errors import MissingPackageError, OutputError, one_line
from tle.files import part_path, sync_folder

Row = dict[str, Any]


class Table(Protocol):
    """A table in the making. Left without `publish` it stays under its temporary name: what it holds was paid for.

    Attributes:
        part: the temporary name.
    """

    part: Path

    def __init__(self, path: Path, types: dict[str, type]) -> None:
        """Begin a table: `path` its final name, `types` the columns, str or float each."""

    def write(self, rows: list[Row]) -> None:
        """Append rows; a column that a row leaves out is empty."""

    def publish(self) -> None:
        """Complete the table and give it its name."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class CsvTable:
    """Comma-separated UTF-8; flushed after every batch, so that `tail -f` on the unfinished file shows rows."""

    def __init__(self, path: Path, types: dict[str, type]) -> None:
        """See `Table`."""
        self._path, self.part = path, part_path(path)
        with _refusals(self.part):
            self._file = self.part.open("w", encoding="utf-8", newline="")
            self._writer = csv.DictWriter(self._file, list(types), restval="", lineterminator="\n")
            self._writer.writeheader()

    def write(self, rows: list[Row]) -> None:
        """See `Table`."""
        with _refusals(self.part):
            for row in rows:
                self._writer.writerow(
                    {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
                )
            self._file.flush()

    def publish(self) -> None:
        """See `Table`."""
        with _refusals(self.part):
            os.fsync(self._file.fileno())
            self._file.close()
            self.part.replace(self._path)
            sync_folder(self._path.absolute().parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _refusals(self.part):
            self._file.close()


class ParquetTable:
    """Parquet through pyarrow, a row group for every 10,000 rows or more."""

    _GROUP = 10_000

    def __init__(self, path: Path, types: dict[str, type]) -> None:
        """See `Table`."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingPackageError("a .parquet table needs pyarrow: pip install pyarrow") from error
        self._path, self.part = path, part_path(path)
        arrow = {str: pa.string(), float: pa.float64()}
        self._schema = pa.schema([(name, arrow[kind]) for name, kind in types.items()])
        self._table = pa.Table
        with _refusals(self.part):
            self._writer = pq.ParquetWriter(str(self.part), self._schema)
        self._rows: list[Row] = []

    def write(self, rows: list[Row]) -> None:
        """See `Table`."""
        self._rows += rows
        if len(self._rows) >= self._GROUP:
            self._flush()

    def publish(self) -> None:
        """See `Table`."""
        self._flush()
        with _refusals(self.part):
            self._writer.close()
            self.part.replace(self._path)
            sync_folder(self._path.absolute().parent)

    def _flush(self) -> None:
        with _refusals(self.part):
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _refusals(self.part):
            self._writer.close()


@contextmanager
def _refusals(part: Path) -> Iterator[None]:
    """What the file system refuses becomes one line."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {part}: {one_line(error)}") from error


TABLES: dict[str, type[Table]] = {".csv": CsvTable, ".parquet": ParquetTable}
