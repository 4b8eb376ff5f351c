"""Measure a classifier: a head on cached features, or head and backbone on pictures.

# N pictures of the cache or source, n of them measured, C classes of the head
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.bundle import Bundle, read_classifier
from tle.cache import Cache, open_cache
from tle.enums import Target
from tle.errors import SourceError, UsageError
from tle.files import check_output, part_path, publish
from tle.heads.head import Head
from tle.heads.params import check_seed
from tle.labelling import match_labels
from tle.metrics import measure
from tle.scored import Scored, score_cache, score_images
from tle.sources import MANIFEST_SUFFIXES

if TYPE_CHECKING:
    from tle.execution import Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a classifier is worth on some pictures.

    Attributes:
        kind: which head.
        target: what the labels are.
        classes: names of the rows and columns of the confusion matrix; those of the head.
        cache: the cache, where features came from one.
        images: the folder or manifest, where the pictures themselves were run through the backbone.
        fingerprint: identity of the features.
        split: "train", "val", "test" or "all", as it was asked for or found.
        n: pictures measured.
        n_left_out: pictures of the split that failed or have no label.
        seen_in_fit: pictures measured that were, byte for byte, in the fit.
        seed: seed of the bootstrap.
        metrics: figures by name, as `tle.metrics.measure` gives them.
        images_per_s: rate at which pictures were read and run; None of a cache.
        notes: one-line facts that the user has to be told.
    """

    kind: str
    target: Target
    classes: tuple[str, ...]
    cache: Path | None
    images: Path | None
    fingerprint: str
    split: str
    n: int
    n_left_out: int
    seen_in_fit: int
    seed: int
    metrics: dict[str, Any]
    images_per_s: float | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "kind": self.kind,
            "target": str(self.target),
            "cache": None if self.cache is None else str(self.cache),
            "images": None if self.images is None else str(self.images),
            "fingerprint": self.fingerprint,
            "split": self.split,
            "n": self.n,
            "n_left_out": self.n_left_out,
            "seen_in_fit": self.seen_in_fit,
            "seed": self.seed,
            "metrics": self.metrics,
            "images_per_s": self.images_per_s,
            "classes": list(self.classes),
            "notes": list(self.notes),
        }


def evaluate(
    head: Head | str | Path,
    data: Cache | str | Path,
    *,
    split: str | None = None,
    splits: NDArray[np.uint8] | str | Path | None = None,
    seed: int = 0,
    weights: str | None = None,
    execution: "Execution | None" = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Measure a classifier on cached features or on pictures, with 95 % bootstrap intervals.

    Args:
        head: a head, or the file of a head or classifier.
        data: a cache, of the same fingerprint as the features that the head was fitted on; or labelled pictures, a folder
            or manifest, which are run through the backbone.
        split: "train", "val", "test" or "all"; None takes test, or, where there are no test pictures and none is shared
            with the fit, all.
        splits: (N,) values of `Split`, or a manifest with the columns path and split, instead of those of the data.
        seed: seed of the bootstrap, from 0 to 2**32 - 1.
        weights: for pictures: where the backbone's weights are now, if not where they were.
        execution: for pictures: how to run the backbone; None leaves all of it to measurement.
        output: JSON file for everything; None writes none.
        overwrite: whether an existing output may be replaced.
        progress: show progress on standard error.

    Returns:
        The figures.

    Raises:
        FingerprintError: the features of the cache are others than those that the head was fitted on, or the backbone's
            weights are.
        HeadError: another target, a class that the head does not know, no picture to measure, or features that are not
            finite.
        SourceError: there are no such data, or the pictures cannot be listed or have no labels.
        CacheError: the cache cannot be read.
        UsageError: an unknown split, none was named and there is no safe one, or a seed out of range.
        OutputError: the output cannot be written, or is an input; found out before anything is measured.
    """
    path = None if output is None else Path(output)
    if path is not None:
        inputs = (head, data.path if isinstance(data, Cache) else data, splits)
        check_output(path, overwrite=overwrite, inputs=[file for file in inputs if isinstance(file, str | Path)])
    seed = check_seed(seed)
    bundle = Bundle(head=head) if isinstance(head, Head) else read_classifier(head)
    pictures = not isinstance(data, Cache) and _names_pictures(Path(data))
    if pictures:
        origin = Path("the head") if isinstance(head, Head) else Path(head)
        scored = score_images(
            bundle, origin, Path(str(data)), split, splits, weights=weights, execution=execution, progress=progress
        )
    else:
        if weights is not None or execution is not None:
            raise UsageError(f"--weights and flags of execution go with pictures, {data} is a cache of features")
        scored = score_cache(bundle.head, data if isinstance(data, Cache) else open_cache(data), split, splits)
    result = _measure(bundle.head, scored, seed, pictures=pictures)
    if path is not None:
        _write_json(path, result.to_dict())
    return result


def _names_pictures(path: Path) -> bool:
    """Whether a path is of pictures rather than of a cache, by what it is or is called.

    Raises:
        SourceError: there is nothing, and the name does not tell what should be.
    """
    if path.is_dir() or path.suffix.lower() in MANIFEST_SUFFIXES:
        return True
    # Of an extraction that did not finish, opening the cache says so.
    if not path.exists() and not part_path(path).exists():
        raise SourceError(f"no such cache, folder or manifest: {path}")
    return False


def _measure(head: Head, scored: Scored, seed: int, *, pictures: bool) -> Evaluation:
    """The figures of what was scored."""
    labels, columns_A, class_notes = match_labels(head, scored.labelled, scored.rows)
    scores = scored.scores if columns_A is None else scored.scores[:, columns_A]
    found = measure(scores, labels, head.target, seed=seed)
    n, seen = len(scored.rows), int(np.isin(scored.digests, head.fit_digests).sum())
    leak = (f"{seen} of {n} pictures measured were in the fit: these figures flatter the head",) if seen else ()
    path = scored.labelled.path
    return Evaluation(
        kind=head.kind,
        target=head.target,
        classes=head.classes if columns_A is None else tuple(head.classes[column] for column in columns_A),
        cache=None if pictures else path,
        images=path if pictures else None,
        fingerprint=head.fingerprint,
        split=scored.split,
        n=n,
        n_left_out=scored.inside - n,
        seen_in_fit=seen,
        seed=seed,
        metrics=found.values,
        images_per_s=scored.images_per_s,
        notes=(*leak, *scored.notes, *class_notes, *found.notes),
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with publish(path) as file:
        file.write(text.encode())
