"""Caches of the same pictures, row by row: which rows are one picture, and that nothing but the features differs.

# M caches, n pictures that all of them can use, N pictures of a cache
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache, open_cache
from tle.enums import Status, Target
from tle.errors import CacheError, UsageError
from tle.heads.selection import resolve_splits, usable_rows

_SHOWN = 3
_IMPORTED = "imported:"  # how the backbone of features begins that tle did not make


@dataclass(frozen=True, slots=True)
class Aligned:
    """Several caches of the same pictures.

    Attributes:
        caches: M caches, in an order that does not depend on how they were given.
        names: M short names, all different.
        rows_MN: (M, n) int64, where each cache has each picture; pictures are in the order of their ids.
        labels: labels of the n pictures.
        splits_N: (n,) uint8, values of `Split`.
        digests_N: (n,) uint64, of the pictures' bytes; None where every cache was imported.
        target: what the labels are.
        classes: C class names.
        notes: one-line facts that the user has to be told.
    """

    caches: tuple[Cache, ...]
    names: tuple[str, ...]
    rows_MN: NDArray[np.int64]
    labels: NDArray[Any]
    splits_N: NDArray[np.uint8]
    digests_N: NDArray[np.uint64] | None
    target: Target
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def align_caches(caches: Sequence[Cache | str | Path], *, splits: str | Path | None = None) -> Aligned:
    """Match the rows of caches by id, and refuse what are not the same pictures with the same labels.

    A picture that has no features in one of them (it failed there) is left out of all. Features that tle did not make
    have no digests of pictures: they are matched by id alone.

    Args:
        caches: at least two, of any backbones and storage types, their rows in any order.
        splits: a manifest with the columns path and split, instead of the caches' splits.

    Returns:
        The matched rows.

    Raises:
        UsageError: fewer than two caches, or one named twice.
        CacheError: a cache cannot be read, or pictures, labels, classes, targets or splits differ.
        HeadError: no labels.
    """
    opened = [cache if isinstance(cache, Cache) else open_cache(cache) for cache in caches]
    opened.sort(key=lambda cache: (cache.fingerprint, str(cache.path)))
    _check_names(opened)
    first = opened[0]
    for cache in opened[1:]:
        if cache.target is not first.target:
            raise CacheError(
                f"{first.path} has target {first.target}, {cache.path} {cache.target}: extract both with the same --target"
            )
        if cache.classes != first.classes:
            raise CacheError(_different_classes(first, cache))
    orders = [_order_by_id(cache) for cache in opened]
    for cache, order_N in zip(opened[1:], orders[1:], strict=True):
        _check_pictures(first, orders[0], cache, order_N, own_splits=splits is None)
    given_N, notes = resolve_splits(first, splits)
    known = [_is_known(cache) for cache in opened]
    if not all(known):
        notes += ("features that tle did not make have no digests of pictures: they were matched by id alone",)
    usable_MN = np.stack([usable_rows(cache)[0][order_N] for cache, order_N in zip(opened, orders, strict=True)])
    names = _short_names(opened)
    keep_N = usable_MN.all(axis=0)
    notes += _left_out(opened, names)
    if not keep_N.any():
        raise CacheError(f"no picture has a label and features in all of {len(opened)} caches: see tle inspect")
    rows_MN = np.stack([order_N[keep_N] for order_N in orders])
    place = known.index(True) if any(known) else None
    return Aligned(
        caches=tuple(opened),
        names=names,
        rows_MN=rows_MN,
        labels=first.labels[rows_MN[0]],
        splits_N=given_N[rows_MN[0]],
        digests_N=None if place is None else opened[place].digests[rows_MN[place]],
        target=first.target,
        classes=first.classes,
        notes=notes,
    )


def _check_names(caches: Sequence[Cache]) -> None:
    if len(caches) < 2:
        raise UsageError(f"expected at least two caches to compare, got {len(caches)}")
    paths = [cache.path.resolve() for cache in caches]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise UsageError(f"expected different caches, {twice} is named twice")


def _is_known(cache: Cache) -> bool:
    """Whether its digests are those of pictures."""
    return not str(cache.spec.get("backbone", {}).get("name", "")).startswith(_IMPORTED)


def _short_names(caches: Sequence[Cache]) -> tuple[str, ...]:
    """File names without their suffix where they tell the caches apart, else paths."""
    stems = tuple(cache.path.stem for cache in caches)
    return stems if len(set(stems)) == len(stems) else tuple(str(cache.path) for cache in caches)


def _order_by_id(cache: Cache) -> NDArray[np.int64]:
    """(N,) rows in the order of their ids."""
    order = sorted(range(len(cache)), key=cache.ids.__getitem__)
    for row, following in pairwise(order):
        if cache.ids[row] == cache.ids[following]:
            raise CacheError(f"{cache.path} has the id {cache.ids[row]!r} twice: pictures cannot be matched by it")
    return np.array(order, np.int64)


def _different_classes(first: Cache, other: Cache) -> str:
    for ours, theirs in ((first, other), (other, first)):
        if missing := sorted(set(ours.classes) - set(theirs.classes)):
            shown = ", ".join(map(repr, missing[:_SHOWN])) + (", ..." if missing[_SHOWN:] else "")
            return (
                f"{theirs.path} lacks {len(missing)} of the {len(ours.classes)} classes of {ours.path} ({shown}): "
                "extract both from the same labels"
            )
    return f"{first.path} and {other.path} list the same classes in another order: extract both from the same labels"


def _check_pictures(
    first: Cache, first_order: NDArray[np.int64], other: Cache, other_order: NDArray[np.int64], *, own_splits: bool
) -> None:
    """Refuse another set of pictures, other bytes, other labels, or other splits."""
    pair = f"{first.path} and {other.path}"
    for ours, theirs in ((first, other), (other, first)):
        if missing := sorted(set(ours.ids) - set(theirs.ids)):
            raise CacheError(
                f"{theirs.path} lacks {len(missing)} of the {len(ours)} pictures of {ours.path} (first: {missing[0]}): "
                "extract both from the same pictures"
            )

    def refuse(differ_N: NDArray[np.bool_], what: str, remedy: str) -> None:
        if differ_N.any():
            name = first.ids[first_order[int(np.argmax(differ_N))]]
            count = f"{int(differ_N.sum())} of {len(first)}"
            raise CacheError(f"{pair} have {what} for {count} pictures (first: {name}): {remedy}")

    if _is_known(first) and _is_known(other):
        digests, theirs_N = first.digests[first_order], other.digests[other_order]
        both_read = (digests != 0) & (theirs_N != 0)
        refuse((digests != theirs_N) & both_read, "other bytes", "extract both from the same files")
    labels, their_labels = first.labels[first_order], other.labels[other_order]
    same = (labels == their_labels) | ((labels != labels) & (their_labels != their_labels))  # NaN: unlabelled
    differ = ~(same.all(axis=1) if same.ndim == 2 else same)
    refuse(differ, "other labels", "extract both from the same labels")
    if own_splits:
        splits_differ = first.splits[first_order] != other.splits[other_order]
        refuse(splits_differ, "other splits", "give the splits for both (--splits MANIFEST)")


def _left_out(caches: Sequence[Cache], names: Sequence[str]) -> tuple[str, ...]:
    notes = [
        f"{missing} of {len(cache)} pictures have no features in {name} and are left out of all"
        for cache, name in zip(caches, names, strict=True)
        if (missing := int((cache.status != Status.DONE).sum()))
    ]
    if unlabelled := int((~caches[0].labelled).sum()):
        notes.append(f"{unlabelled} of {len(caches[0])} pictures have no label and are left out")
    return tuple(notes)
