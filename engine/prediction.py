"""Predictions into a table: one row a picture, in order, written while the run goes on."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tle.classifier import Predictions, load_classifier
from tle.enums import Target
from tle.errors import AllImagesFailedError, ImageError, UsageError
from tle.execution import Execution
from tle.files import check_output
from tle.progress import tell, track
from tle.sources import open_source
from tle.tables import TABLES, Row

if TYPE_CHECKING:
    from tle.heads.head import Head


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
    execution: Execution | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> PredictResult:
    """Classify every picture of a source into a CSV or Parquet table.

    Columns: `id`; `class`, `probability`, then `class_2`, `probability_2`, ... up to `top_k` (multi-label: first
    `labels`, the classes of probability 0.5 or more joined by `;`; regression: `value` alone); `error`, the reason why a
    picture has none of these.

    Args:
        head: the file of a head, or of a classifier that holds its backbone.
        images: a folder or manifest.
        output: `NAME.csv` or `NAME.parquet`.
        top_k: classes a picture, the likeliest first.
        weights: where the backbone's weights are now, if not where they were.
        execution: how to run the backbone; None leaves all of it to measurement.
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
    if top_k < 1:
        raise UsageError(f"--top-k takes 1 or more, got {top_k}")
    if path.suffix.lower() not in TABLES:
        raise UsageError(f"--output takes a name that ends in {' or '.join(TABLES)}, got {path.name!r}")
    check_output(path, overwrite=overwrite, inputs=[head, images])
    source = open_source(images)
    tell(source.notes, shown=progress)
    classifier = load_classifier(head, weights=weights, execution=execution)
    tell(classifier.backbone.notes, shown=progress)
    choice = classifier.choose(source, say=lambda line: tell([line], shown=progress))
    tell([*choice.notes, choice.describe()], shown=progress)
    columns = _Columns(classifier.head, top_k)
    failures: dict[int, str] = {}
    with (
        TABLES[path.suffix.lower()](path, columns.types) as table,
        track(len(source), "predicting", shown=progress) as counter,
    ):
        for batch in classifier.predict(source, choice):
            failed = {failure.index: failure.reason for failure in batch.failures}
            if strict and failed:
                index, reason = min(failed.items())
                raise ImageError(
                    f"{source.path(index)}: {reason} (stopped by --strict; the rows before are in {table.part})"
                )
            table.write(columns.rows(source.ids, batch))
            failures |= failed
            counter.advance(len(batch.indices) + len(failed), len(failed))
        table.publish()
    if len(failures) == len(source):
        raise AllImagesFailedError(
            f"all {len(source)} pictures of {images} failed, the first because: {failures[0]} (see {shlex.quote(str(path))})"
        )
    return PredictResult(
        path=path,
        n_images=len(source),
        n_failed=len(failures),
        images_per_s=counter.rate,
        elapsed_s=counter.elapsed_s,
        notes=source.notes + classifier.backbone.notes + choice.notes,
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
