"""Stream predictions into a table: one row a picture, in order, written while the run goes on."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tle.classifier import Predictions, load_classifier
from tle.enums import Target
from tle.errors import AllImagesFailedError, ImageError, MissingPackageError, OutputError, UsageError, one_line
from tle.files import check_output, part_path
from tle.images import DEFAULT_MAX_PIXELS
from tle.pipeline import DEFAULT_BATCH_SIZE
from tle.progress import track
from tle.sources import open_source

if TYPE_CHECKING:
    from tle.heads.head import Head

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictResult:
    """What a prediction run did.

    Attributes:
        path: the table.
        n_images: pictures in the source.
        n_failed: those whose row holds a reason instead of a class.
        images_per_s: rate of the run, start-up excluded.
        elapsed_s: seconds of the run, start-up excluded.
        notes: one-line facts that the user has to be told.
    """

    path: Path
    n_images: int
    n_failed: int
    images_per_s: float
    elapsed_s: float
    notes: tuple[str, ...]


def predict(
    head: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    top_k: int = 3,
    weights: str | None = None,
    runtime: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> PredictResult:
    """Classify every picture of a source into a CSV or Parquet table.

    Columns: `id`; `class`, `probability`, then `class_2`, `probability_2`, ... up to `top_k` (multi-label: first
    `labels`, the classes of probability 0.5 or more joined by `;`; regression: `value` alone); `error`, the reason why a
    picture has none of these.

    Args:
        head: a head written by `tle.fit_head`.
        images: a folder or manifest.
        output: `NAME.csv` or `NAME.parquet`.
        top_k: classes a picture, the likeliest first.
        weights: where the backbone's weights are now, if not where they were.
        runtime: "torch" or "onnxruntime"; None takes the one that the backbone was made for.
        batch_size: pictures a call of the backbone.
        workers: decoding threads; None takes one a core.
        max_pixels: pictures with more pixels are recorded as failed.
        strict: stop at the first bad picture instead of recording it.
        overwrite: replace an existing table.
        progress: show progress on standard error.

    Returns:
        What was done.

    Raises:
        TleError: bad input, in one line; see `tle.errors`.
        AllImagesFailedError: not one picture could be read; the table with the reasons is written all the same.
    """
    path = Path(output)
    if top_k < 1 or batch_size < 1 or (workers is not None and workers < 1):
        raise UsageError(f"--top-k, --batch-size and --workers take 1 or more, got {top_k}, {batch_size}, {workers}")
    if path.suffix.lower() not in _TABLES:
        raise UsageError(f"--output takes a name that ends in {' or '.join(_TABLES)}, got {path.name!r}")
    check_output(path, overwrite=overwrite)
    source = open_source(images)
    classifier = load_classifier(head, weights=weights, runtime=runtime)
    columns = _Columns(classifier.head, top_k)
    failures: dict[int, str] = {}
    with (
        _TABLES[path.suffix.lower()](path, columns.types) as table,
        track(len(source), "predicting", shown=progress) as counter,
    ):
        for batch in classifier.predict(source, batch_size=batch_size, workers=workers, max_pixels=max_pixels):
            failed = {failure.index: failure.reason for failure in batch.failures}
            if strict and failed:
                index, reason = min(failed.items())
                raise ImageError(f"{source.path(index)}: {reason} (stopped by --strict)")
            table.write(columns.rows(source.ids, batch))
            failures |= failed
            counter.advance(len(batch.indices) + len(failed), len(failed))
        table.publish()
    if len(failures) == len(source):
        raise AllImagesFailedError(
            f"all {len(source)} pictures of {images} failed, the first because: {failures[0]} (see {path})"
        )
    return PredictResult(
        path=path,
        n_images=len(source),
        n_failed=len(failures),
        images_per_s=counter.rate,
        elapsed_s=counter.elapsed_s,
        notes=source.notes + classifier.backbone.notes,
    )


class _Columns:
    """Turns scores into rows of a table."""

    def __init__(self, head: "Head", top_k: int) -> None:
        self._target, self._classes = head.target, head.classes
        self._k = min(top_k, len(head.classes))
        numbers = ["", *(f"_{rank}" for rank in range(2, self._k + 1))]
        self._pairs = [(f"class{number}", f"probability{number}") for number in numbers]
        self.types: dict[str, type] = {"id": str}
        if self._target is Target.REGRESSION:
            self.types["value"] = float
        else:
            if self._target is Target.MULTILABEL:
                self.types["labels"] = str
            for name, probability in self._pairs:
                self.types |= {name: str, probability: float}
        self.types["error"] = str

    def rows(self, ids: Sequence[str], batch: Predictions) -> list[Row]:
        """Rows of one batch in order of the source, failures among them."""
        found = {int(index): self._values(score) for index, score in zip(batch.indices, batch.scores, strict=True)}
        found |= {failure.index: {"error": failure.reason} for failure in batch.failures}
        return [{"id": ids[index], **found[index]} for index in sorted(found)]

    def _values(self, score: NDArray[np.float32]) -> Row:
        if self._target is Target.REGRESSION:
            return {"value": float(score)}
        row: Row = {}
        if self._target is Target.MULTILABEL:
            row["labels"] = ";".join(self._classes[label] for label in np.flatnonzero(score >= 0.5))
        best = np.argsort(-score, kind="stable")[: self._k]
        for (name, probability), label in zip(self._pairs, best, strict=True):
            row |= {name: self._classes[label], probability: float(score[label])}
        return row


class _Table(Protocol):
    """A table that grows row by row under a temporary name and is published at the end."""

    def __init__(self, path: Path, types: dict[str, type]) -> None: ...
    def write(self, rows: list[Row]) -> None: ...
    def publish(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Csv:
    """Comma-separated UTF-8; rows are flushed batch by batch, so that `tail -f` on the unfinished file shows them."""

    def __init__(self, path: Path, types: dict[str, type]) -> None:
        self._path, self._part = path, part_path(path)
        try:
            self._file = self._part.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise OutputError(f"cannot create {self._part}: {one_line(error)}") from error
        self._writer = csv.DictWriter(self._file, list(types), restval="", lineterminator="\n")
        self._writer.writeheader()

    def write(self, rows: list[Row]) -> None:
        try:
            self._writer.writerows(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
                for row in rows
            )
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write to {self._part}: {one_line(error)}") from error

    def publish(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a failure the unfinished table stays under its temporary name: what it holds was paid for.
        self._file.close()


class _Parquet:
    """Parquet through pyarrow, one row group a batch of at least 10,000 rows."""

    _GROUP = 10_000

    def __init__(self, path: Path, types: dict[str, type]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingPackageError("a .parquet table needs pyarrow: pip install 'tle[parquet]'") from error
        self._path, self._part = path, part_path(path)
        arrow = {str: pa.string(), float: pa.float64()}
        self._schema = pa.schema([(name, arrow[kind]) for name, kind in types.items()])
        self._table = pa.Table
        try:
            self._writer = pq.ParquetWriter(str(self._part), self._schema)
        except OSError as error:
            raise OutputError(f"cannot create {self._part}: {one_line(error)}") from error
        self._rows: list[Row] = []

    def write(self, rows: list[Row]) -> None:
        self._rows += rows
        if len(self._rows) >= self._GROUP:
            self._flush()

    def publish(self) -> None:
        self._flush()
        self._writer.close()
        self._part.replace(self._path)

    def _flush(self) -> None:
        try:
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
        except OSError as error:
            raise OutputError(f"cannot write to {self._part}: {one_line(error)}") from error
        self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


_TABLES: dict[str, type[_Table]] = {".csv": _Csv, ".parquet": _Parquet}
