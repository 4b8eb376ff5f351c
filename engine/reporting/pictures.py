"""Which pictures a report is about, and their labels in terms of the classifier's classes.

# N pictures of a source, n of them chosen, C classes of the head, A of the source
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.bundle import Bundle
from tle.enums import Split, Target
from tle.errors import HeadError, SourceError, UsageError
from tle.labelling import Labels, has_label, match_labels
from tle.sources import Source, open_source
from tle.sources.digests import digests_of
from tle.sources.source import plural

SPLITS = {"train": Split.TRAIN, "val": Split.VAL, "test": Split.TEST}
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """The pictures of a report.

    Attributes:
        source: those pictures alone, all labelled.
        split: "train", "val", "test" or "all".
        classes: names of the columns of the scores that are measured; empty for regression.
        columns: those columns among the head's, or None where they are all as they stand.
        labels: (n,) indices into `classes`, (n, C) indicators, or (n,) float32 values.
        counts: labelled pictures of the whole source by split and, below it, class; "" for pictures without a split.
        notes: one-line facts that the user has to be told.
    """

    source: Source
    split: str
    classes: tuple[str, ...]
    columns: NDArray[np.int64] | None
    labels: NDArray[Any]
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...]


def open_pictures(bundle: Bundle, images: str | Path | None) -> Source:
    """The source that was named, or the one that the classifier was made of, if it is still there.

    Raises:
        UsageError: none was named, and none is known or it is gone.
        SourceError: it cannot be used, or has no labels.
    """
    if images is None:
        recorded = bundle.data.get("images")
        if not recorded:
            raise UsageError(
                "the file does not say where its pictures are: name a labelled folder or manifest with --images"
            )
        images = Path(str(recorded))
        if not images.exists():
            raise UsageError(f"the pictures are no longer at {images}: say with --images where labelled pictures are")
        if bundle.data.get("kind") != "folder":
            raise UsageError(f"the pictures below {images} were listed by a manifest: name it with --images")
    source = open_source(images, target=None if bundle.head.target is Target.MULTILABEL else bundle.head.target)
    if source.target is Target.NONE or not has_label(source.labels, source.target).any():
        raise SourceError(
            f"{images} has no labels to compare with: name class folders, or a manifest with a label column"
        )
    if source.target is not bundle.head.target:
        raise HeadError(f"the head was fitted for target {bundle.head.target}, {images} has target {source.target}")
    return source


def choose_pictures(bundle: Bundle, source: Source, split: str | None) -> Chosen:
    """The labelled pictures of a split, and their labels.

    Args:
        bundle: the classifier.
        source: labelled pictures.
        split: "train", "val", "test" or "all"; None takes test where there is one, else the pictures that the classifier
            was chosen by, else all where none of them was in the fit.

    Raises:
        UsageError: an unknown split, none that is safe to take without being asked, or one without labelled pictures.
        HeadError: pictures of a class that the head does not know.
    """
    if split is not None and split not in (*SPLITS, ALL):
        raise UsageError(f"--split takes one of {', '.join(SPLITS)}, {ALL}; got {split!r}")
    labelled_N = has_label(source.labels, source.target)
    split, inside_N = _named(bundle, source, split) if split else _safe(bundle, source)
    rows = np.flatnonzero(inside_N & labelled_N)
    if not len(rows):
        raise UsageError(f"{source.root} has no labelled picture in split {split!r}: name another with --split")
    notes = list(source.notes)
    if left_out := int(inside_N.sum()) - len(rows):
        notes.append(f"{plural(left_out, 'picture')} without a label left out")
    head = bundle.head
    labels, columns, class_notes = match_labels(head, Labels.of(source, source.root), rows)
    notes += class_notes
    return Chosen(
        source=source.subset(rows),
        split=split,
        classes=head.classes if columns is None else tuple(head.classes[column] for column in columns),
        columns=columns,
        labels=labels,
        counts=_counts(source, labelled_N),
        notes=tuple(notes),
    )


def _named(bundle: Bundle, source: Source, split: str) -> tuple[str, NDArray[np.bool_]]:
    """(N,) the pictures of a split that was asked for; without split folders those of the fit, by their digests."""
    if split == ALL:
        return split, np.full(len(source), True)
    inside_N = source.splits == SPLITS[split]
    val_digests = bundle.arrays.get("val_digests")
    if inside_N.any() or split == "test" or val_digests is None:
        return split, inside_N
    held_out_N = np.isin(_digests(source), val_digests)
    if split == "val":
        return split, held_out_N
    return split, np.isin(_digests(source), bundle.head.fit_digests) & ~held_out_N


def _safe(bundle: Bundle, source: Source) -> tuple[str, NDArray[np.bool_]]:
    """The split that was not trained on, and (N,) its pictures."""
    for split in ("test", "val"):
        inside_N = _named(bundle, source, split)[1]
        if inside_N.any():
            return split, inside_N
    if shared := int(np.isin(_digests(source), bundle.head.fit_digests).sum()):
        raise UsageError(
            f"{source.root} has no test or val pictures and shares {shared} with the fit: name other pictures with --images, "
            "or say with --split train or all what to measure on all the same"
        )
    return ALL, np.full(len(source), True)


def _digests(source: Source) -> NDArray[np.uint64]:
    return np.fromiter(digests_of(source, range(len(source))), np.uint64, len(source))


def _counts(source: Source, labelled_N: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    """Labelled pictures a split and class; a regression has one nameless class, and a picture may be of several labels."""
    found: dict[str, dict[str, int]] = {}
    for name, value in {**SPLITS, "": Split.NONE}.items():
        inside_N = labelled_N & (source.splits == value)
        if not inside_N.any():
            continue
        labels = source.labels[inside_N]
        if source.target is Target.REGRESSION:
            found[name] = {}
        else:
            one_hot = source.target is Target.MULTILABEL
            per = labels.sum(axis=0) if one_hot else np.bincount(labels, minlength=len(source.classes))
            found[name] = {label: int(count) for label, count in zip(source.classes, per, strict=True)}
        found[name][""] = int(inside_N.sum())
    return found
