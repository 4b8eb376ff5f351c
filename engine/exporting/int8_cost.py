"""What int8 costs: the quantised classifier against the same in float32, picture by picture.

# n pictures measured
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.bootstrap import percentile_interval, resample_figures
from tle.enums import Split, Target
from tle.errors import HeadError, UsageError
from tle.labelling import Labels, has_label, match_labels
from tle.scored import SPLITS
from tle.sources import Source
from tle.sources.digests import digests_of

if TYPE_CHECKING:
    from tle.exporting.agreement import Agreement
    from tle.heads.head import Head

# What a classifier is judged by; of several labels and of values the first that both know.
METRIC = {Target.CLASS: "accuracy", Target.MULTILABEL: "mAP", Target.REGRESSION: "mae"}
# As many as ONNX Runtime's own examples take; ranges of 100 and of 500 pictures give the same classes.
CALIBRATION = 100


@dataclass(frozen=True, slots=True)
class Rows:
    """Which pictures serve what.

    Attributes:
        measured: (n,) int64 rows of the source.
        calibration: int64 rows that ranges are taken from.
        split: what the measured ones are called.
        notes: one-line facts that the user has to be told.
    """

    measured: NDArray[np.int64]
    calibration: NDArray[np.int64]
    split: str
    notes: tuple[str, ...] = ()


def choose_rows(source: Source, images: Path, split: str | None, val_digests: NDArray[np.uint64] | None) -> Rows:
    """Pictures to measure on, and others to calibrate on.

    Args:
        source: labelled pictures.
        images: where they were opened, for messages.
        split: "train", "val", "test" or "all"; None takes val: the split of that name, or the pictures of `val_digests`.
        val_digests: those that a fine-tuning was judged by; None where it is not known.

    Returns:
        The rows. Calibration takes train pictures where there are any, and none that are measured, if there are others.

    Raises:
        UsageError: no such split, or none was named and it is not known which pictures are val.
        HeadError: the split has no labelled picture.
    """
    usable = has_label(source.labels, source.target)
    if split is not None and split not in (*SPLITS, "all"):
        raise UsageError(f"split should be one of {', '.join(SPLITS)}, all; got {split!r}")
    if split is None and not (source.splits == Split.VAL).any():
        if val_digests is None or not len(val_digests):
            raise UsageError(
                f"{images} has no val split to measure the cost of int8 on: name with --split train, test or all what to "
                "measure on"
            )
        known = np.fromiter(digests_of(source, range(len(source))), np.uint64)
        inside, split = np.isin(known, val_digests), "val"
    else:
        split = split or "val"
        inside = np.full(len(source), True) if split == "all" else source.splits == SPLITS[split]
    measured = np.flatnonzero(inside & usable)
    if not len(measured):
        raise HeadError(f"{images} has no labelled picture in split {split!r} to measure the cost of int8 on")
    others = ~np.isin(np.arange(len(source)), measured)
    rows = np.flatnonzero(others & (source.splits == Split.TRAIN))
    rows = rows if len(rows) else np.flatnonzero(others & (source.splits != Split.TEST))
    notes: tuple[str, ...] = ()
    if not len(rows):
        rows, notes = (
            measured,
            ("int8 takes its ranges from the very pictures that it is measured on: there are no others",),
        )
    n = min(CALIBRATION, len(rows))
    return Rows(measured, rows[np.arange(n) * len(rows) // n], split, notes)


def int8_cost(head: "Head", agreement: "Agreement", source: Source, images: Path, *, seed: int = 0) -> dict[str, Any]:
    """Figures of both, and their difference with its 95 % interval, by a paired bootstrap over the pictures.

    Args:
        head: the head.
        agreement: scores in float32 (expected) and int8 (found) of pictures of `source`.
        source: the pictures and their labels.
        images: where they were opened, for messages.
        seed: seed of the bootstrap.

    Returns:
        JSON-able: metric, float32, int8, difference (int8 less float32), interval, n, seen_in_fit, top1_agreement and
        max_abs_difference. A figure that is not defined on these pictures is None.
    """
    metric = METRIC[head.target]
    labels, columns_A, _ = match_labels(head, Labels.of(source, images), agreement.indices)
    pair = [agreement.expected, agreement.found]
    if columns_A is not None:
        pair = [scores[:, columns_A] for scores in pair]
    before, after = [_figure(metric, scores, labels) for scores in pair]
    drawn_RM = resample_figures(metric, head.target, pair, labels, seed=seed)
    return {
        "metric": metric,
        "float32": before,
        "int8": after,
        "difference": None if before is None or after is None else after - before,
        "interval": percentile_interval(drawn_RM[:, 1] - drawn_RM[:, 0]),
        "n": len(labels),
        "seen_in_fit": int(np.isin(agreement.digests, head.fit_digests).sum()),
        "top1_agreement": agreement.top1_agreement,
        "max_abs_difference": agreement.max_abs_difference,
    }


def _figure(metric: str, scores: NDArray[np.float32], labels: NDArray[Any]) -> float | None:
    from tle.metrics import mean_average_precision

    if metric == "accuracy":
        return float((scores.argmax(axis=1) == labels).mean())
    if metric == "mAP":
        return mean_average_precision(scores, labels)
    return float(np.abs(scores[:, 0].astype(np.float64) - labels).mean())
