"""Which rows of a cache a head is fitted on, and which it is chosen on.

# N rows of the cache, n rows chosen, C classes
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache
from tle.enums import Split, Status, Target
from tle.errors import HeadError, ShapeError, UsageError
from tle.heads.folds import ALWAYS_TRAIN, deal_folds
from tle.heads.views import check_no_view
from tle.labelling import Labelled

_SHOWN = 3


class Rows(Protocol):
    """Labelled rows to choose from: those of a cache, or the pictures of a source. Attributes are as `Cache` has them."""

    @property
    def path(self) -> Path:
        """What to call them in messages."""

    @property
    def target(self) -> Target:
        """What the labels are."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""

    @property
    def labels(self) -> NDArray[Any]:
        """(N,) or (N, C), as `target` defines them."""

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,) rows with a label."""

    @property
    def status(self) -> NDArray[np.uint8]:
        """(N,) values of `Status`."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(N,) rows that can be used."""

    @property
    def digests(self) -> NDArray[np.uint64]:
        """(N,) of the pictures' bytes."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows for a fit.

    Attributes:
        train: (n_train,) int64 row numbers, ascending.
        val: (n_val,) int64 row numbers, ascending; may be empty.
        record: how the choice was made, JSON-able.
        notes: one-line facts that the user has to be told.
        fold_N: (n_train,) int64, which fold holds a row of train out, as `deal_folds` gives it; None without folds.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    record: dict[str, Any]
    notes: tuple[str, ...]
    fold_N: NDArray[np.int64] | None = None


def resolve_splits(
    cache: Labelled, splits: NDArray[np.uint8] | str | Path | None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The splits to be used: those of the cache, or what overrides them.

    Args:
        cache: the cache, or pictures that are not in one.
        splits: (N,) values of `Split`; or a CSV or Parquet manifest with the columns `path` and `split`; or None.

    Returns:
        (N,) uint8 values of `Split`, and notes.

    Raises:
        ShapeError: an array of another length, or with other values.
        SourceError: the manifest cannot be read.
        UsageError: the manifest lists none of the pictures.
    """
    if splits is None:
        return cache.splits, ()
    if isinstance(splits, str | Path):
        return _read_splits(cache, Path(splits))
    known = [int(split) for split in Split]
    if splits.shape != (len(cache),) or not np.isin(splits, known).all():
        raise ShapeError(f"expected splits ({len(cache)},) with values of {known}, got {splits.shape} {splits.dtype}")
    return splits.astype(np.uint8), ()


def _read_splits(cache: Labelled, path: Path) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    from tle.sources import open_source

    source = open_source(path, target=Target.NONE)
    listed = dict(zip(source.ids, source.splits.tolist(), strict=True))
    splits = np.array([listed.get(name, Split.NONE) for name in cache.ids], np.uint8)
    known = sum(name in listed for name in cache.ids)
    if not known:
        raise UsageError(f"{path} lists none of the pictures of {cache.path}: its first is {source.ids[0]!r}, the first "
                         f"of these is {cache.ids[0]!r}")  # fmt: skip
    missing = len(cache) - known
    return splits, (
        (f"{missing} of {len(cache)} pictures are not in {path.name} and have no split",) if missing else ()
    )


def usable_rows(cache: Rows) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """(N,) bool, the rows that have both features and a label; and notes on those left out.

    Raises:
        HeadError: the cache has no labels, or labels that its classes do not explain.
        UsageError: it holds random views.
    """
    check_no_view(cache)
    if cache.target is Target.NONE:
        raise HeadError(f"{cache.path} has no labels: extract from class folders or a manifest with a label column")
    labelled = cache.labelled
    if cache.target is Target.CLASS and (cache.labels >= len(cache.classes)).any():
        raise HeadError(f"{cache.path} has a label {cache.labels.max()}, but only {len(cache.classes)} class names")
    if cache.target is Target.MULTILABEL and (cache.labels[labelled] > 1).any():
        raise HeadError(f"{cache.path} has multi-label indicators other than 0 and 1")
    notes = []
    if failed := int((cache.status == Status.FAILED).sum()):
        notes.append(f"{failed} of {len(cache)} pictures failed in the extraction and are left out")
    if unlabelled := int((cache.valid & ~labelled).sum()):
        notes.append(f"{unlabelled} of {len(cache)} pictures have no label and are left out")
    return cache.valid & labelled, tuple(notes)


def select_rows(cache: Rows, splits: NDArray[np.uint8], *, val_fraction: float, seed: int, folds: int = 0) -> Selection:
    """Choose train and validation rows; test rows are never taken.

    Train is what the splits call train, or, where they call nothing train, the pictures without a split. Val is what
    they call val, or else a seeded part of train, or each of several folds of train in turn: stratified for classes, where
    a class keeps at least one picture in train; plainly random for multi-label and regression.

    Args:
        cache: the cache.
        splits: (N,) values of `Split`.
        val_fraction: part of train to hold out where there is no val split, at least 0 and below 1.
        seed: seed of that choice.
        folds: number of folds to hold out in turn instead of a fraction; 0 for none.

    Returns:
        The rows, with how they were chosen.

    Raises:
        HeadError: there is no labelled picture to train on.
        UsageError: the fraction is out of range, or folds are asked for and there is a val split.
    """
    if not 0.0 <= val_fraction < 1.0:
        raise UsageError(f"val_fraction should be at least 0 and below 1, got {val_fraction:g}")
    usable, notes = usable_rows(cache)
    rows = {split: np.flatnonzero(usable & (splits == split)) for split in Split}
    train, unassigned = rows[Split.TRAIN], rows[Split.NONE]
    found = list(notes)
    if not len(train):
        train = unassigned
    elif len(unassigned):
        found.append(f"{len(unassigned)} pictures have no split and are left out, since others are marked as train")
    if not len(train):
        counts = ", ".join(f"{len(rows[split])} {split.name.lower()}" for split in Split)
        raise HeadError(f"{cache.path} has no labelled picture to train on: usable pictures by split are {counts}")
    val, source, fold_N = rows[Split.VAL], "split", None
    strata = cache.labels[train] if cache.target is Target.CLASS else np.zeros(len(train), np.int64)
    if folds and len(val):
        raise UsageError(
            f"{cache.path} has a val split of {len(val)} pictures to choose on, and {folds} folds were asked for: "
            "leave out folds, or give splits without val"
        )
    if folds:
        source, fold_N = "folds", deal_folds(strata, folds, seed)
        found += _fold_notes(cache, train, fold_N, folds)
    else:
        if not len(val):
            held_out = stratified_holdout(strata, val_fraction, seed)
            train, val = train[~held_out], train[held_out]
            source = "fraction" if len(val) else "none"
        found += _val_notes(cache, train, val)
    record = {
        "val_source": source,
        "val_fraction": val_fraction if source == "fraction" else None,
        "stratified": source in ("fraction", "folds") and cache.target is Target.CLASS,
        "seed": seed,
        "n_train": len(train),
        "n_val": len(val) if fold_N is None else int((fold_N != ALWAYS_TRAIN).sum()),
        "n_test_untouched": len(rows[Split.TEST]),
        "n_without_split": len(unassigned),
    }
    if folds:
        record["folds"] = folds
    return Selection(train, val, record, tuple(found), fold_N)


def stratified_holdout(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark a seeded part of each class.

    Of n pictures round(fraction n) are marked, at least one if that is possible at all. Each class gives the whole part
    of its share; the rest comes from the classes with the largest remainders, ties drawn by lot. The last picture of a
    class is never marked.

    Args:
        labels: (n,) class of each picture.
        fraction: at least 0 and below 1; 0 marks nothing.
        seed: seed of the draw.

    Returns:
        (n,) bool.
    """
    marked = np.zeros(len(labels), bool)
    if not len(labels) or fraction == 0.0:
        return marked
    rng = np.random.default_rng(seed)
    classes, class_of = np.unique(labels, return_inverse=True)
    counts = np.bincount(class_of, minlength=len(classes))
    wanted = max(1, round(fraction * len(labels)))
    quota = np.minimum(np.floor(counts * fraction).astype(np.int64), counts - 1)
    remainder = counts * fraction - quota
    lot = rng.permutation(len(classes))
    # By remainder, largest first, then by lot; a class that has only its last picture left is passed over.
    while quota.sum() < wanted and (quota < counts - 1).any():
        for index in np.lexsort((lot, -remainder)):
            if quota.sum() < wanted and quota[index] < counts[index] - 1:
                quota[index] += 1
    shuffled = rng.permutation(len(labels))
    shuffled = shuffled[np.argsort(class_of[shuffled], kind="stable")]
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for start, take in zip(first, quota, strict=True):
        marked[shuffled[start : start + take]] = True
    return marked


def check_finite(cache: Cache, rows: NDArray[np.int64]) -> None:
    """Refuse NaN and infinite features.

    Raises:
        HeadError: with how many pictures have one, and the first ids.
    """
    from tle.heads.samples import Samples

    bad: list[int] = []
    for positions, x_BD in Samples(cache.features, rows, rows).blocks():
        bad += rows[positions][~np.isfinite(x_BD).all(axis=1)].tolist()
    if bad:
        ids = ", ".join(cache.ids[row] for row in bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        raise HeadError(
            f"{cache.path} has NaN or infinite features in {len(bad)} of {len(rows)} pictures (first: {ids}): "
            "look at those pictures and the backbone's precision, then extract again"
        )


def _val_notes(cache: Rows, train: NDArray[np.int64], val: NDArray[np.int64]) -> list[str]:
    """What makes validation figures less telling than they look."""
    if not len(val):
        return [
            "no picture is left to validate on: nothing could be measured, and what was left open takes a default "
            "(ridge: what leave-one-out finds)"
        ]
    notes = []
    if twins := int(np.isin(cache.digests[val], cache.digests[train]).sum()):
        notes.append(f"{twins} of {len(val)} validation pictures are byte for byte the same as one in train")
    if cache.target is Target.CLASS:
        absent = np.setdiff1d(cache.labels[val], cache.labels[train])
        if len(absent):
            names = ", ".join(cache.classes[label] for label in absent[:_SHOWN]) + (
                ", ..." if len(absent) > _SHOWN else ""
            )
            notes.append(f"{len(absent)} classes have validation pictures but none in train: {names}")
    return notes


def _fold_notes(cache: Rows, train: NDArray[np.int64], fold_N: NDArray[np.int64], folds: int) -> list[str]:
    """What makes the figures of folds less telling than they look."""
    held_out = fold_N != ALWAYS_TRAIN
    if len(np.unique(fold_N[held_out])) < 2:
        return [f"{len(train)} pictures cannot be dealt into {folds} folds: nothing could be measured, and settings that "
                "were left open take defaults"]  # fmt: skip
    notes = []
    if stay := int((~held_out).sum()):
        notes.append(f"{stay} pictures are the only one of their class: they are in train in every fold")
    # A picture has a twin in another fold where its digest stands beside more than one fold.
    pairs = np.unique(np.stack([cache.digests[train], fold_N.astype(np.uint64)], axis=1), axis=0)
    digests, counts = np.unique(pairs[:, 0], return_counts=True)
    if twins := int((np.isin(cache.digests[train], digests[counts > 1]) & held_out).sum()):
        notes.append(
            f"{twins} of {int(held_out.sum())} validation pictures are byte for byte the same as one in another fold"
        )
    return notes
