"""Pictures with labels and scores, out of a cache or out of the pictures themselves: what a classifier is measured on.

# N pictures of the cache or source, n of them measured, C classes of the head
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.bundle import Bundle
from tle.cache import Cache
from tle.classifier import make_classifier
from tle.enums import Split
from tle.errors import FingerprintError, HeadError, UsageError
from tle.heads.head import Head
from tle.heads.samples import block_rows
from tle.heads.selection import check_finite, resolve_splits, usable_rows
from tle.identity import FINETUNED
from tle.labelling import Labelled, Labels, has_label, match_labels
from tle.progress import tell
from tle.sources import Source, open_source

if TYPE_CHECKING:
    from tle.execution import Execution
    from tle.picture_scores import PictureScores

SPLITS = {"train": Split.TRAIN, "val": Split.VAL, "test": Split.TEST}
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """Pictures with a label and with scores, wherever these came from.

    Attributes:
        labelled: all N pictures.
        rows: (n,) int64, those measured.
        scores: (n, C) or (n,) float32.
        digests: (n,) uint64.
        split: as in `Evaluation`.
        inside: pictures of the split.
        images_per_s: as in `Evaluation`.
        notes: likewise.
    """

    labelled: Labelled
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    digests: NDArray[np.uint64]
    split: str
    inside: int
    images_per_s: float | None = None
    notes: tuple[str, ...] = ()


def score_cache(head: Head, cache: Cache, split: str | None, splits: NDArray[np.uint8] | str | Path | None) -> Scored:
    """Scores of the cached features of a split.

    Args:
        head: the head.
        cache: features that it may be applied to.
        split: as for `tle.evaluate`, like `splits` and what is raised.
        splits: splits that take the place of the cache's.
    """
    _check_fingerprint(head, cache)
    precision_notes = _precision_notes(head, cache)
    usable, left_out_notes = usable_rows(cache)
    if cache.target is not head.target:
        raise HeadError(f"the head was fitted for target {head.target}, {cache.path} has target {cache.target}")
    split_values, split_notes = resolve_splits(cache, splits)
    split = _choose_split(head, cache.path, split_values, split, lambda: cache.digests[usable])
    inside = np.full(len(cache), True) if split == "all" else split_values == SPLITS[split]
    rows = np.flatnonzero(inside & usable)
    _check_rows(rows, int(inside.sum()), split, cache.path)
    match_labels(head, cache, rows)  # refuses before anything is computed
    check_finite(cache, rows)
    step = block_rows(cache.dim)
    scores = [head.predict(cache.features[rows[start : start + step]]) for start in range(0, len(rows), step)]
    return Scored(
        labelled=cache,
        rows=rows,
        scores=np.concatenate(scores),
        digests=cache.digests[rows],
        split=split,
        inside=int(inside.sum()),
        notes=(*precision_notes, *split_notes, *left_out_notes),
    )


def score_images(
    bundle: Bundle,
    origin: Path,
    images: Path,
    split: str | None,
    splits: NDArray[np.uint8] | str | Path | None,
    *,
    weights: str | None,
    execution: "Execution | None",
    progress: bool,
) -> Scored:
    """Scores of the pictures of a split, run through backbone and head.

    Args:
        bundle: the classifier.
        origin: its file, for messages.
        images: folder or manifest with labels.
        split: as for `tle.evaluate`, like what follows and what is raised.
        splits: splits that take the place of the pictures' own.
        weights: where the backbone's weights are now.
        execution: how to run the backbone.
        progress: show progress on standard error.
    """
    from tle.picture_scores import score_pictures
    from tle.sources.digests import digests_of

    head = bundle.head
    source = open_source(images, target=head.target)
    labelled = Labels.of(source, images)
    usable = has_label(source.labels, source.target)
    split_values, split_notes = resolve_splits(labelled, splits)

    def digests() -> NDArray[np.uint64]:
        return np.fromiter(digests_of(source, np.flatnonzero(usable).tolist()), np.uint64)

    split = _choose_split(head, images, split_values, split, digests)
    inside = np.full(len(source), True) if split == "all" else split_values == SPLITS[split]
    rows = np.flatnonzero(inside & usable)
    _check_rows(rows, int(inside.sum()), split, images)
    match_labels(head, labelled, rows)  # refuses before anything is computed
    classifier = make_classifier(bundle, origin, weights=weights, execution=execution)
    found = score_pictures(
        classifier, source.subset(rows), progress=progress, say=lambda line: tell([line], shown=progress)
    )
    return Scored(
        labelled=labelled,
        rows=rows[found.indices],
        scores=found.scores,
        digests=found.digests,
        split=split,
        inside=int(inside.sum()),
        images_per_s=found.images_per_s,
        notes=(*source.notes, *classifier.backbone.notes, *split_notes, *_failure_notes(source, rows, found, usable)),
    )


def _failure_notes(
    source: Source, rows: NDArray[np.int64], found: "PictureScores", usable: NDArray[np.bool_]
) -> tuple[str, ...]:
    notes = []
    if found.failures:
        first = found.failures[0]
        notes.append(
            f"{len(found.failures)} of {len(rows)} pictures failed and are left out, the first "
            f"{source.ids[rows[first.index]]}: {first.reason}"
        )
    if unlabelled := int((~usable).sum()):
        notes.append(f"{unlabelled} of {len(source)} pictures have no label and are left out")
    return tuple(notes)


def _check_rows(rows: NDArray[np.int64], inside: int, split: str, path: Path) -> None:
    if not len(rows):
        raise HeadError(
            f"{path} has no labelled picture in split {split!r} ({inside} pictures are in it): name another"
        )


def _check_fingerprint(head: Head, cache: Cache) -> None:
    if head.fingerprint == cache.fingerprint:
        return
    if _flatten(head.spec).get("backbone.weights") == FINETUNED:
        raise FingerprintError(
            f"{cache.path} holds features of another network than the classifier's, which was fine-tuned: give the pictures "
            "themselves (tle evaluate CLASSIFIER PICTURES)"
        )
    ours, theirs = _flatten(head.spec), _flatten(cache.spec)
    # Where the weights were read from, and what an ONNX file is called, is no part of the identity; their digest is.
    both_onnx = all(str(spec.get("backbone.name")).startswith("onnx:") for spec in (ours, theirs))
    ignored = {"backbone.weights", *(("backbone.name",) if both_onnx else ())}
    ignored.add("precision")
    names = [name for name in sorted({*ours, *theirs} - ignored) if ours.get(name) != theirs.get(name)]
    shown = "; ".join(
        f"{name}: head {_short(ours.get(name))}, cache {_short(theirs.get(name))}" for name in names[:_SHOWN]
    )
    more = f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise FingerprintError(
        f"{cache.path} holds other features than the head was fitted on ({shown or 'their descriptions agree'}{more}): "
        "extract with the head's backbone and preprocessing, or fit a head on this cache"
    )


def _precision_notes(head: Head, cache: Cache) -> tuple[str, ...]:
    """Say that the head was fitted on features of another precision, and how near these are to float32."""
    ours, theirs = head.spec.get("precision"), cache.spec.get("precision")
    if ours == theirs:
        return ()
    parity = cache.run.get("parity")
    near = f", least cosine to float32 {parity['min_cosine']:.6f}" if parity else ""
    return (f"the head was fitted on {ours} features, those of {cache.path.name} are {theirs}{near}",)


def _flatten(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in spec.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else f"{text[:45]}..."


def _choose_split(
    head: Head, path: Path, splits: NDArray[np.uint8], split: str | None, digests: Callable[[], NDArray[np.uint64]]
) -> str:
    """The split that was asked for, or the only safe one; `digests` gives those of all pictures with a label."""
    if split is not None:
        if split not in (*SPLITS, "all"):
            raise UsageError(f"split should be one of {', '.join(SPLITS)}, all; got {split!r}")
        return split
    if (splits == Split.TEST).any():
        return "test"
    if shared := int(np.isin(digests(), head.fit_digests).sum()):
        raise UsageError(
            f"{path} has no test split and shares {shared} pictures with the fit: extract a test folder or manifest "
            "into a cache of its own; or fit again with test pictures set apart (split folders, or --splits MANIFEST); or say "
            "with split (--split) train, val or all what to measure on all the same"
        )
    return "all"
