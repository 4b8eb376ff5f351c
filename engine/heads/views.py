"""Random views of the pictures of a cache, for heads that are trained epoch by epoch.

# N pictures of the cache, V views
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache, fingerprint, open_cache
from tle.errors import CacheError, FingerprintError, UsageError
from tle.identity import plain_spec, spec_difference


@dataclass(frozen=True, slots=True, eq=False)
class ViewRows:
    """One view of the pictures of a cache.

    Attributes:
        features: (M, D) floats, the view's rows, possibly memory-mapped.
        row_of_N: int64 (N,), the row that shows a picture; -1 for pictures that are not fitted on.
        record: what the view is, JSON-able.
    """

    features: NDArray[Any]
    row_of_N: NDArray[np.int64]
    record: dict[str, Any]


def open_views(cache: Cache, views: Sequence[Cache | str | Path], rows: NDArray[np.int64]) -> tuple[ViewRows, ...]:
    """Match random views with the pictures of a cache, by id.

    Args:
        cache: the features that are evaluated.
        views: caches of `tle.extract(view=...)`, of the same backbone.
        rows: (n,) rows of `cache` that every view has to have.

    Returns:
        The views, in the order of their numbers.

    Raises:
        CacheError: one cannot be read, lacks pictures, or has other bytes for one.
        FingerprintError: one is of another backbone, preprocessing or decoder.
        UsageError: one is no random view, or two are the same.
    """
    opened = [view if isinstance(view, Cache) else open_cache(view) for view in views]
    for view in opened:
        if "view" not in view.spec:
            raise UsageError(f"{view.path} is no random view: make one with tle extract --view 1")
        if fingerprint(plain_spec(view.spec)) != cache.fingerprint:
            what = spec_difference(plain_spec(view.spec), cache.spec)
            raise FingerprintError(f"{view.path} is a view by another backbone than {cache.path} ({what})")
    opened.sort(key=lambda view: (view.spec["view"]["number"], view.fingerprint))
    for first, second in pairwise(opened):
        if first.fingerprint == second.fingerprint:
            raise UsageError(f"{first.path} and {second.path} are the same view: give each another --view")
    return tuple(_match(cache, view, rows) for view in opened)


def check_no_view(cache: Any) -> None:
    """Refuse features of random views where those of the pictures are meant.

    Raises:
        UsageError: they are.
    """
    if "view" in getattr(cache, "spec", {}):
        raise UsageError(f"{cache.path} holds random views, which are for tle fit-head --views: name the cache without")


def _match(cache: Cache, view: Cache, rows: NDArray[np.int64]) -> ViewRows:
    place = {name: row for row, name in enumerate(view.ids)}
    found = np.array([place.get(cache.ids[row], -1) for row in rows.tolist()], np.int64)
    lacks = (found < 0) | ~view.valid[found]
    if lacks.any():
        first = cache.ids[int(rows[int(np.argmax(lacks))])]
        raise CacheError(
            f"{view.path} lacks {int(lacks.sum())} of the {len(rows)} pictures of {cache.path} to fit on (first: {first}): "
            "run its tle extract again"
        )
    other = view.digests[found] != cache.digests[rows]
    if other.any():
        first = cache.ids[int(rows[int(np.argmax(other))])]
        raise CacheError(
            f"{view.path} was made of other bytes than {cache.path} for {int(other.sum())} pictures (first: {first}): run "
            "tle extract again for both"
        )
    row_of_N = np.full(len(cache), -1, np.int64)
    row_of_N[rows] = found
    return ViewRows(view.features, row_of_N, dict(view.spec["view"]))
