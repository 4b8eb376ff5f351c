"""Measure a head on a cache.

# N rows of the cache, n rows evaluated, C classes of the head, A of the cache
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache, open_cache
from tle.enums import Split, Target
from tle.errors import FingerprintError, HeadError, UsageError
from tle.files import check_output, publish
from tle.heads.head import Head, load_head
from tle.heads.params import check_seed
from tle.heads.samples import block_rows
from tle.heads.selection import check_finite, resolve_splits, usable_rows
from tle.metrics import measure

SPLITS = {"train": Split.TRAIN, "val": Split.VAL, "test": Split.TEST}
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a head is worth on some pictures.

    Attributes:
        kind: which head.
        target: what the labels are.
        classes: names of the rows and columns of the confusion matrix; those of the head.
        cache: the cache.
        fingerprint: identity of the features.
        split: "train", "val", "test" or "all", as it was asked for or found.
        n: pictures measured.
        n_left_out: pictures of the split that failed in the extraction or have no label.
        seen_in_fit: pictures measured that were, byte for byte, in the fit.
        seed: seed of the bootstrap.
        metrics: figures by name, as `tle.metrics.measure` gives them.
        notes: one-line facts that the user has to be told.
    """

    kind: str
    target: Target
    classes: tuple[str, ...]
    cache: Path
    fingerprint: str
    split: str
    n: int
    n_left_out: int
    seen_in_fit: int
    seed: int
    metrics: dict[str, Any]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "kind": self.kind,
            "target": str(self.target),
            "cache": str(self.cache),
            "fingerprint": self.fingerprint,
            "split": self.split,
            "n": self.n,
            "n_left_out": self.n_left_out,
            "seen_in_fit": self.seen_in_fit,
            "seed": self.seed,
            "metrics": self.metrics,
            "classes": list(self.classes),
            "notes": list(self.notes),
        }


def evaluate(
    head: Head | str | Path,
    cache: Cache | str | Path,
    *,
    split: str | None = None,
    splits: NDArray[np.uint8] | str | Path | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    overwrite: bool = False,
) -> Evaluation:
    """Measure a head on cached features, with 95 % bootstrap intervals.

    Args:
        head: the head, or its file.
        cache: the features; of the same fingerprint as those that the head was fitted on.
        split: "train", "val", "test" or "all"; None takes test, or, in a cache without test pictures that shares none
            with the fit, all.
        splits: (N,) values of `Split`, or a manifest with the columns path and split, instead of the cache's splits.
        seed: seed of the bootstrap, from 0 to 2**32 - 1.
        output: JSON file for everything; None writes none.
        overwrite: whether an existing output may be replaced.

    Returns:
        The figures.

    Raises:
        FingerprintError: the features of the cache are others than those that the head was fitted on.
        HeadError: another target, a class that the head does not know, no picture to measure, or features that are not
            finite.
        UsageError: an unknown split, none was named and there is no safe one, or a seed out of range.
        OutputError: the output cannot be written, or is an input; found out before anything is measured.
    """
    path = None if output is None else Path(output)
    if path is not None:
        inputs = (head, cache.path if isinstance(cache, Cache) else cache, splits)
        check_output(path, overwrite=overwrite, inputs=[file for file in inputs if isinstance(file, str | Path)])
    seed = check_seed(seed)
    head = head if isinstance(head, Head) else load_head(head)
    cache = cache if isinstance(cache, Cache) else open_cache(cache)
    _check_fingerprint(head, cache)
    precision_notes = _precision_notes(head, cache)
    usable, left_out_notes = usable_rows(cache)
    if cache.target is not head.target:
        raise HeadError(f"the head was fitted for target {head.target}, {cache.path} has target {cache.target}")
    split_values, split_notes = resolve_splits(cache, splits)
    split = _choose_split(head, cache, split_values, usable, split)
    inside = np.full(len(cache), True) if split == "all" else split_values == SPLITS[split]
    rows = np.flatnonzero(inside & usable)
    if not len(rows):
        raise HeadError(
            f"{cache.path} has no labelled picture in split {split!r} ({int(inside.sum())} pictures are in it): name another"
        )
    labels, columns_A, class_notes = _match_labels(head, cache, rows)
    check_finite(cache, rows)
    scores = _predict_rows(head, cache, rows)
    if columns_A is not None:
        scores = scores[:, columns_A]
    found = measure(scores, labels, head.target, seed=seed)
    seen = int(np.isin(cache.digests[rows], head.fit_digests).sum())
    leak = (f"{seen} of {len(rows)} pictures measured were in the fit: these figures flatter the head",) if seen else ()
    result = Evaluation(
        kind=head.kind,
        target=head.target,
        classes=head.classes if columns_A is None else tuple(head.classes[column] for column in columns_A),
        cache=cache.path,
        fingerprint=cache.fingerprint,
        split=split,
        n=len(rows),
        n_left_out=int(inside.sum()) - len(rows),
        seen_in_fit=seen,
        seed=seed,
        metrics=found.values,
        notes=(*precision_notes, *leak, *split_notes, *left_out_notes, *class_notes, *found.notes),
    )
    if path is not None:
        _write_json(path, result.to_dict())
    return result


def _predict_rows(head: Head, cache: Cache, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores of some rows; features are gathered a block at a time."""
    step = block_rows(cache.dim)
    return np.concatenate(
        [head.predict(cache.features[rows[start : start + step]]) for start in range(0, len(rows), step)]
    )


def _check_fingerprint(head: Head, cache: Cache) -> None:
    if head.fingerprint == cache.fingerprint:
        return
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
    head: Head, cache: Cache, splits: NDArray[np.uint8], usable: NDArray[np.bool_], split: str | None
) -> str:
    """The split that was asked for, or the only safe one."""
    if split is not None:
        if split not in (*SPLITS, "all"):
            raise UsageError(f"split should be one of {', '.join(SPLITS)}, all; got {split!r}")
        return split
    if (splits == Split.TEST).any():
        return "test"
    if shared := int(np.isin(cache.digests[usable], head.fit_digests).sum()):
        raise UsageError(
            f"{cache.path} has no test split and shares {shared} pictures with the fit: extract a test folder or manifest "
            "into a cache of its own; or fit again with test pictures set apart (split folders, or --splits MANIFEST); or say "
            "with split (--split) train, val or all what to measure on all the same"
        )
    return "all"


def _match_labels(
    head: Head, cache: Cache, rows: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels in terms of the head's classes, which are matched by name.

    Returns:
        The labels: (n,) indices into the head's classes, (n, A') indicators, or (n,) values; for multi-label the columns
        of the head's scores that belong to them, else None; and notes.
    """
    labels = cache.labels[rows]
    if head.target is Target.REGRESSION:
        return labels, None, ()
    column_of = {name: column for column, name in enumerate(head.classes)}
    if head.target is Target.CLASS:
        occurring = np.unique(labels)
        _refuse_unknown(head, cache, [cache.classes[label] for label in occurring])
        to_head = np.array([column_of.get(name, -1) for name in cache.classes], np.int64)
        return to_head[labels], None, ()
    _refuse_unknown(head, cache, [cache.classes[label] for label in np.flatnonzero(labels.any(axis=0))])
    shared = [label for label, name in enumerate(cache.classes) if name in column_of]
    if not shared:
        raise HeadError(f"{cache.path} and the head have no label in common")
    notes: tuple[str, ...] = ()
    if missing := len(head.classes) - len(shared):
        notes = (f"{missing} of {len(head.classes)} labels of the head are unknown to the cache and are not measured",)
    return labels[:, shared], np.array([column_of[cache.classes[label]] for label in shared]), notes


def _refuse_unknown(head: Head, cache: Cache, names: list[str]) -> None:
    if unknown := [name for name in names if name not in set(head.classes)]:
        shown = ", ".join(repr(name) for name in unknown[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        raise HeadError(
            f"{cache.path} has pictures of {len(unknown)} classes that the head does not know ({shown}): fit a head with "
            "them, or leave them out"
        )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with publish(path) as file:
        file.write(text.encode())
