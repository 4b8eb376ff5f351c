"""What a report is about: a classifier, the pictures that it was measured on, and what came of it.

# n pictures measured, D feature dim, C classes
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.bundle import Bundle
from tle.enums import Target
from tle.reporting.pictures import Chosen

_EMPTY: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A measured classifier; the sections of a report are made of it.

    Attributes:
        name: name of its file.
        bundle: the classifier.
        chosen: the pictures that it was to be measured on.
        rows: (n,) int64 rows of `chosen.source` that could be read.
        labels: (n,) indices into `chosen.classes`, (n, C) indicators, or (n,) values.
        scores: (n, C) float32 probabilities, or (n,) values.
        features: (n, D) float32.
        seen: pictures among them that were trained on, byte for byte.
        metrics: figures by name, as `tle.metrics.measure` gives them.
        metric_notes: what belongs to them.
        n_failed: pictures that could not be read.
        images_per_s: rate of the pass that measured.
        limit_images_per_s: rate of the backbone alone on the same machine; None where no picture was left to measure it.
        execution: how the backbone was run, in a line.
        remarks: what the loading and running of the backbone had to say.
        notes: one-line facts that the reader has to be told.
    """

    name: str
    bundle: Bundle
    chosen: Chosen
    rows: NDArray[np.int64]
    labels: NDArray[Any]
    scores: NDArray[np.float32]
    features: NDArray[np.float32]
    seen: int
    metrics: Mapping[str, Any]
    metric_notes: tuple[str, ...]
    n_failed: int
    images_per_s: float
    limit_images_per_s: float | None
    execution: str
    remarks: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def target(self) -> Target:
        """What the labels are."""
        return self.bundle.head.target

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns of the scores."""
        return self.chosen.classes

    @property
    def training(self) -> Mapping[str, Any]:
        """The record of the fine-tuning; empty for a frozen backbone."""
        return self.bundle.training or _EMPTY

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) the most probable class of each picture; of class targets alone."""
        best: NDArray[np.int64] = self.scores.argmax(axis=1)
        return best

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """(n,) probability of the most probable class; of class targets alone."""
        best: NDArray[np.float32] = self.scores.max(axis=1)
        return best

    def id_of(self, row: int) -> str:
        """The id of a row of `chosen.source`."""
        return self.chosen.source.ids[row]
