"""Several caches of one kind as one: by pointing into them, or by copying their rows.

# N images in all, n of one cache, D feature dim, C classes in all
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tle.cache.creation import claimed, new_cache
from tle.cache.failures import add_failures
from tle.cache.joined import part_state
from tle.cache.layout import Content, lay_out
from tle.cache.lineage import distinct, merged_run
from tle.cache.reader import Cache, open_cache
from tle.cache.soundness import check_complete, check_rows
from tle.enums import Target
from tle.errors import CacheError, FingerprintError, UsageError
from tle.files import check_output, publish, reserve, write_at
from tle.identity import spec_difference
from tle.progress import track

_COPY_ROWS = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """What a merge did.

    Attributes:
        path: the merged cache.
        n_images: rows N.
        n_failed: those that have no features.
        dim: feature dimension D.
        n_caches: how many caches it is made of.
        copied: whether it holds the features itself; else it points into the caches.
        notes: one-line facts that the user has to be told.
    """

    path: Path
    n_images: int
    n_failed: int
    dim: int
    n_caches: int
    copied: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A cache and its place in the merged one.

    Attributes:
        cache: the cache.
        first: the row of the merged cache that its first one becomes.
    """

    cache: Cache
    first: int

    @property
    def rows(self) -> slice:
        """Its rows in the merged cache."""
        return slice(self.first, self.first + len(self.cache))


def merge(
    caches: Sequence[str | Path],
    output: str | Path,
    *,
    copy: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> MergeResult:
    """Join caches of one kind into one, in the order given.

    Args:
        caches: files of one identity: the same backbone, weights, layer, preprocessing, decoder, precision, storage type
            and kind of target. Their ids have to differ; their classes need not agree, the merged cache has all of them.
        output: the merged cache, `NAME.h5`.
        copy: write the features into it. Without, it points into the caches, which have to lie in its folder or below, and
            stay there unchanged; labels, splits and all else are written into it in any case.
        overwrite: replace an existing output.
        progress: show progress on standard error.

    Returns:
        What was done.

    Raises:
        UsageError: no caches, or one twice.
        FingerprintError: they hold features of different kinds.
        CacheError: one is damaged or incomplete, an id is in two of them, or one cannot be pointed to.
        OutputError: the output cannot be written.
    """
    path, files = Path(output), [Path(file) for file in caches]
    if not files:
        raise UsageError("expected caches to merge, got none")
    if len({os.path.realpath(file) for file in files}) < len(files):
        raise UsageError(f"expected different caches, one of {', '.join(map(str, files))} is named twice")
    check_output(path, overwrite=overwrite, inputs=files)
    opened = [open_cache(file) for file in files]
    for cache in opened:
        check_complete(cache)
    _check_same_kind(opened)
    placed = _place(opened)
    ids = _all_ids(placed)
    notes = _notes(opened)
    if copy:
        _copy(path, placed, _content(placed, ids, merged_run(opened)), overwrite=overwrite, progress=progress)
    else:
        names = [_name_beside(path, cache) for cache in opened]
        notes += (f"{path} points to the {len(opened)} caches, which have to stay where and as they are",)
        _point(path, placed, names, ids, overwrite=overwrite)
    merged = open_cache(path)
    return MergeResult(
        path=path,
        n_images=len(merged),
        n_failed=len(merged.failures),
        dim=merged.dim,
        n_caches=len(opened),
        copied=copy,
        notes=notes,
    )


def _check_same_kind(caches: Sequence[Cache]) -> None:
    """Refuse caches whose features or labels are not comparable with those of the first."""
    first = caches[0]
    for cache in caches[1:]:
        precisions = [found.spec.get("precision") for found in (first, cache)]
        if cache.fingerprint != first.fingerprint or precisions[0] != precisions[1]:
            what = spec_difference(cache.spec, first.spec) or "their descriptions differ"
            raise FingerprintError(
                f"{cache.path} holds features of another kind than {first.path} ({what}): merge caches of one backbone, "
                "preprocessing and precision"
            )
        for name, ours, theirs in (
            ("features of dtype", cache.features.dtype, first.features.dtype),
            ("feature dimension", cache.dim, first.dim),
            ("target", cache.target, first.target),
        ):
            if ours != theirs:
                raise CacheError(
                    f"expected {name} {theirs} as in {first.path}, {cache.path} has {ours}: extract it alike"
                )


def _place(caches: Sequence[Cache]) -> list[_Placed]:
    placed, first = [], 0
    for cache in caches:
        if not len(cache):
            raise CacheError(f"{cache.path} has no rows: leave it out")
        placed.append(_Placed(cache, first))
        first += len(cache)
    return placed


def _all_ids(placed: Sequence[_Placed]) -> tuple[str, ...]:
    """N ids, all different."""
    owners: dict[str, Path] = {}
    for part in placed:
        for name in part.cache.ids:
            if name in owners:
                where = f"twice in {part.cache.path}" if owners[name] == part.cache.path else ""
                where = where or f"in {owners[name]} and in {part.cache.path}"
                raise CacheError(f"the id {name!r} is {where}: ids have to differ, leave one of them out")
            owners[name] = part.cache.path
    return tuple(owners)


def _content(placed: Sequence[_Placed], ids: tuple[str, ...], run: Mapping[str, Any]) -> Content:
    first = placed[0].cache
    classes = tuple(sorted(set().union(*(part.cache.classes for part in placed))))
    return Content(
        ids=ids,
        labels=np.concatenate([_labels_among(part.cache, classes) for part in placed]),
        classes=classes,
        splits=_joined(placed, "splits"),
        target=first.target,
        dim=first.dim,
        dtype=first.features.dtype.name,
        spec=first.spec,
        run=run,
    )


def _labels_among(cache: Cache, classes: Sequence[str]) -> NDArray[Any]:
    """Labels of a cache as they are where `classes` are the classes."""
    place = {name: number for number, name in enumerate(classes)}
    places = np.array([place[name] for name in cache.classes], np.int64)
    if cache.target in (Target.CLASS, Target.NONE):
        return np.asarray(np.append(places, -1)[cache.labels])  # an unlabelled row is -1, the last of them
    if cache.target is Target.MULTILABEL:
        labels_NC = np.zeros((len(cache), len(classes)), np.uint8)
        labels_NC[:, places] = cache.labels
        labels_NC[~cache.labelled] = 255
        return labels_NC
    return np.asarray(cache.labels)


def _joined(placed: Sequence[_Placed], name: str) -> NDArray[Any]:
    """One array of all caches."""
    return np.concatenate([getattr(part.cache, name) for part in placed])


def _copy(path: Path, placed: Sequence[_Placed], content: Content, *, overwrite: bool, progress: bool) -> None:
    """The merged cache with features of its own."""
    n = len(content.ids)
    with track(n, "checking", unit="rows", shown=progress) as counter:
        for part in placed:
            check_rows(part.cache, counter)
    with (
        new_cache(path, content, overwrite=overwrite) as writer,
        track(n, "copying", unit="rows", shown=progress) as counter,
    ):
        for part in placed:
            for start in range(0, len(part.cache), _COPY_ROWS):
                rows = np.arange(start, min(start + _COPY_ROWS, len(part.cache)))
                writer.carry(part.cache, rows, part.first + rows, part.cache.files[rows])
                counter.advance(len(rows))


def _point(
    path: Path, placed: Sequence[_Placed], names: Sequence[str], ids: tuple[str, ...], *, overwrite: bool
) -> None:
    """The merged cache whose features are those of the caches where they lie.

    Checksums of rows are copied as they are: what they are of is the same, and damage is found as before.
    """
    caches = [part.cache for part in placed]
    parts = [
        {"file": name, "n": len(cache), "state": part_state(cache.path, cache.structure)}
        for name, cache in zip(names, caches, strict=True)
    ]
    content = _content(placed, ids, merged_run(caches) | {"parts": parts})
    arrays = content.arrays()
    dtype = np.dtype(content.dtype)
    features = h5py.VirtualLayout((len(ids), content.dim), dtype)
    for part, name in zip(placed, names, strict=True):
        source = h5py.VirtualSource(name, "features", (len(part.cache), content.dim), dtype)
        # Rows and columns in figures: HDF5 does not keep the bounds of what is selected as a whole.
        features[part.rows] = source[0 : len(part.cache), 0 : content.dim]
    overlay, slots = lay_out(content, arrays, features)
    add_failures(overlay, {part.first + row: why for part in placed for row, why in part.cache.failures})
    arrays |= {name: _joined(placed, name) for name in ("status", "digests", "files", "checksums")}
    with claimed(path, overwrite=overwrite), publish(path) as file:
        reserve(file.fileno(), overlay.size)
        overlay.apply(file.fileno(), lambda: None)
        for name, array in arrays.items():
            if slots[name].nbytes:
                write_at(file.fileno(), array.reshape(-1).view(np.uint8).data, slots[name].offset)
        check_output(path, overwrite=overwrite)  # the name may have been taken meanwhile


def _name_beside(path: Path, cache: Cache) -> str:
    """How a merged cache at `path` names one that it points to.

    Raises:
        CacheError: it cannot point there.
    """
    if cache.structure.parts:
        raise CacheError(f"{cache.path} is merged itself, a merged cache cannot point to it: pass --copy")
    folder, file = Path(os.path.realpath(path.absolute().parent)), Path(os.path.realpath(cache.path))
    if not file.is_relative_to(folder):
        raise CacheError(
            f"{cache.path} lies outside {folder}, the folder of {path.name}, which cannot point there: pass --copy, or move "
            "it there or below"
        )
    name = file.relative_to(folder).as_posix()
    if "%" in name:  # HDF5 takes it as the beginning of a pattern
        raise CacheError(f"{cache.path} has a % in its name, which HDF5 cannot point to: pass --copy, or rename it")
    if not name.isprintable():
        raise CacheError(f"{name!r} has characters that a merged cache does not point to: pass --copy, or rename it")
    return name


def _notes(caches: Sequence[Cache]) -> tuple[str, ...]:
    """What the user should know of caches that differ in what may differ."""
    notes = []
    every = set().union(*(cache.classes for cache in caches))
    if any(set(cache.classes) != every for cache in caches):
        notes.append(f"the caches have different classes; the merged one has all {len(every):,} of them")
    runtimes = distinct(cache.run.get("runtime") for cache in caches)
    if len(runtimes) > 1:
        notes.append(f"the features were made by different runtimes: {', '.join(map(str, runtimes))}")
    return tuple(notes)
