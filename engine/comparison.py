"""Which backbone? The same head on several caches of the same pictures, measured on the same held-out pictures.

# M caches, n pictures measured, C classes, R resamples, K columns of the scores

Every figure comes from pictures that all the caches have, in the order of their ids, and so depends neither on the order of
the arguments nor on that of the rows. Differences are to the best backbone, by a paired bootstrap over the pictures: they
say how far the pictures can tell the backbones apart, not how much another draw of train pictures would change.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.alignment import Aligned, align_caches
from tle.cache import Cache
from tle.enums import Split, Target
from tle.errors import HeadError, UsageError
from tle.files import check_output, publish
from tle.heads.figures import LOWER_IS_BETTER, check_metric
from tle.heads.fit import fit_head
from tle.heads.folds import check_folds
from tle.heads.params import check_seed
from tle.heads.samples import Samples, block_rows
from tle.heads.selection import check_finite, usable_rows
from tle.heldout import TEST_FRACTION, Parts, cross_validate, set_apart
from tle.metrics import measure
from tle.ranking import Standing, give_verdict, rank_models
from tle.transferability import Transferability, measure_transferability


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One backbone's features and what they are worth.

    Attributes:
        name: short name, the file's where that is enough.
        path: the cache.
        backbone: its name, as the cache has it.
        dim: feature dimension D.
        dtype: storage type of the features.
        fingerprint: identity of the features.
        standing: its place: metric, interval, distance to the best.
        figures: all figures, as `tle.metrics.measure` gives them.
        chosen: settings of the final fit, one entry for each fit.
        seconds: wall time of choosing, fitting and predicting.
        transferability: scores on train that need no fit.
        transferability_seconds: wall time of those.
    """

    name: str
    path: Path
    backbone: str
    dim: int
    dtype: str
    fingerprint: str
    standing: Standing
    figures: dict[str, Any]
    chosen: list[dict[str, Any]]
    seconds: float
    transferability: Transferability
    transferability_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Backbones side by side.

    Attributes:
        contenders: the best first.
        metric: what they are sorted by.
        lower_is_better: whether small values of it are good.
        target: what the labels are.
        head: which head was fitted.
        measured_on: the split, or what was set apart, or how many folds.
        n: pictures measured.
        n_train: pictures of the final fit; of the first fold, where there are several.
        seed: seed of every draw.
        verdict: the answer in one line.
        notes: one-line facts that the user has to be told.
    """

    contenders: tuple[Contender, ...]
    metric: str
    lower_is_better: bool
    target: Target
    head: str
    measured_on: str
    n: int
    n_train: int
    seed: int
    verdict: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        found = asdict(self)
        found["target"] = str(self.target)
        found["notes"] = list(self.notes)
        found["contenders"] = [{**row, "path": str(row["path"])} for row in found["contenders"]]
        return found


@dataclass(frozen=True, slots=True)
class _Probe:
    """One cache's fits: scores (n, K) of the pictures measured, settings, kind, seconds and notes."""

    scores_NK: NDArray[np.float32]
    chosen: list[dict[str, Any]]
    kind: str
    seconds: float
    notes: tuple[str, ...]


def compare(
    caches: Sequence[Cache | str | Path],
    *,
    head: str | None = None,
    params: Mapping[str, Any] | Sequence[str] | None = None,
    split: str | None = None,
    splits: str | Path | None = None,
    metric: str | None = None,
    test_fraction: float = TEST_FRACTION,
    folds: int = 0,
    val_fraction: float = 0.1,
    seed: int = 0,
    output: str | Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Compare backbones by a head on their cached features of the same pictures.

    Where there is no test split, a seeded stratified part of train is set apart and measured on; with `folds` all of train
    and val is measured instead, each picture by a head that has not seen it: slower, and telling with few pictures.

    Args:
        caches: at least two, of the same pictures and labels; rows in any order, any storage types.
        head: as for `fit_head`.
        params: as for `fit_head`.
        split: "val" or "test", what to measure on; None takes test, or a part of train.
        splits: a manifest with the columns path and split, instead of the caches' splits.
        metric: one of `tle.heads.figures.METRICS` of the target; what the backbones are sorted by and settings are chosen by.
        test_fraction: part of train to set apart where there is no test split, above 0 and below 1.
        folds: measure by cross-validation with so many folds, at least 2; 0 does not.
        val_fraction: part of train to choose settings on where there is no val split.
        seed: seed of every draw, from 0 to 2**32 - 1.
        output: JSON file for everything; None writes none.
        overwrite: whether an existing output may be replaced.
        say: told what is being done, a line at a time.

    Returns:
        The backbones, the best first, and a verdict.

    Raises:
        CacheError: the caches are not of the same pictures, labels, classes and target.
        UsageError: fewer than two caches, an unknown head, setting, metric or split, or folds beside a test split.
        HeadError: nothing to fit or to measure on, or features that are not finite.
        OutputError: the output cannot be written.
    """
    path = None if output is None else Path(output)
    if path is not None:
        inputs = [cache.path if isinstance(cache, Cache) else cache for cache in caches]
        check_output(path, overwrite=overwrite, inputs=[*inputs, *([splits] if splits is not None else [])])
    seed, folds = check_seed(seed), check_folds(folds)
    aligned = align_caches(caches, splits=splits)
    if aligned.target is Target.NONE:
        usable_rows(aligned.caches[0])  # which says what to do
    metric_name = check_metric(metric, aligned.target, len(aligned.classes))
    parts, measured_on = _divide(aligned, split, test_fraction, folds, val_fraction, seed)
    test = np.concatenate([part.test for part in parts])
    notes = list(aligned.notes) + _twin_notes(aligned, parts)
    probes, promises = [], []
    for cache, name, rows_N in zip(aligned.caches, aligned.names, aligned.rows_MN, strict=True):
        say(f"{name}: fitting on {cache.dim} features of {len(parts[0].train) + len(parts[0].val):,} pictures")
        probe = _probe(cache, rows_N, parts, head, params, metric, seed)
        probes.append(probe)
        promises.append(_promise(cache, np.sort(rows_N[parts[0].train]), aligned))
        notes += [f"{name}: {note}" for note in probe.notes]
    labels = aligned.labels[test]
    standings = rank_models([probe.scores_NK for probe in probes], labels, aligned.target, metric_name, seed=seed)
    contenders = tuple(
        _contender(aligned, place, standing, probes[place], promises[place], labels, seed)
        for place, standing in standings
    )
    result = Comparison(
        contenders=contenders,
        metric=metric_name,
        lower_is_better=metric_name in LOWER_IS_BETTER,
        target=aligned.target,
        head=probes[0].kind,
        measured_on=measured_on,
        n=len(test),
        n_train=len(parts[0].train) + len(parts[0].val),
        seed=seed,
        verdict=give_verdict([(found.name, found.standing) for found in contenders], metric_name, len(test)),
        notes=tuple(dict.fromkeys(notes)),
    )
    if path is not None:
        text = json.dumps(result.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        with publish(path) as file:
            file.write(text.encode())
    return result


def _divide(
    aligned: Aligned, split: str | None, test_fraction: float, folds: int, val_fraction: float, seed: int
) -> tuple[list[Parts], str]:
    """The fits to be made, and what is measured, in words."""
    groups_N = aligned.labels if aligned.target is Target.CLASS else np.zeros(len(aligned.labels), np.int64)
    if not folds:
        parts, name = set_apart(
            groups_N, aligned.splits_N, split=split, test_fraction=test_fraction, val_fraction=val_fraction, seed=seed
        )
        return [parts], name
    if split is not None or (aligned.splits_N == Split.TEST).any():
        what = f"the split {split!r} was named" if split is not None else "there is a test split"
        raise UsageError(f"{what}, which says what to measure on: leave out the folds (--folds)")
    found = list(cross_validate(groups_N, aligned.splits_N, folds=folds, val_fraction=val_fraction, seed=seed))
    if len(found) < 2:
        raise HeadError(f"{len(groups_N)} pictures are too few for {folds} folds: at least two of a class are needed")
    return found, f"all of train, by {len(found)} folds"


def _probe(
    cache: Cache,
    rows_N: NDArray[np.int64],
    parts: Sequence[Parts],
    head: str | None,
    params: Mapping[str, Any] | Sequence[str] | None,
    metric: str | None,
    seed: int,
) -> _Probe:
    """Fit on every part and predict what it holds out, in the order of the parts."""
    started = time.perf_counter()
    scores, chosen, notes, kind = [], [], [], ""
    own_notes = usable_rows(cache)[1]  # already said, of all caches
    for part in parts:
        # What is in no part is called test: that, a fit never touches.
        splits_N = np.full(len(cache), Split.TEST, np.uint8)
        splits_N[rows_N[part.train]], splits_N[rows_N[part.val]] = Split.TRAIN, Split.VAL
        result = fit_head(cache, head=head, params=params, seed=seed, val_fraction=0.0, splits=splits_N, metric=metric)
        test = rows_N[part.test]
        check_finite(cache, test)
        step = block_rows(cache.dim)
        found = [result.head.predict(cache.features[test[at : at + step]]) for at in range(0, len(test), step)]
        scores.append(np.concatenate(found))
        chosen.append(result.chosen)
        notes += [note for note in result.notes if note not in own_notes]
        kind = result.kind
    scores_NK = np.concatenate(scores)
    scores_NK = scores_NK[:, None] if scores_NK.ndim == 1 else scores_NK
    return _Probe(scores_NK, chosen, kind, time.perf_counter() - started, tuple(dict.fromkeys(notes)))


def _promise(cache: Cache, rows: NDArray[np.int64], aligned: Aligned) -> tuple[Transferability, float]:
    """The scores that need no fit, and the seconds that they took."""
    started = time.perf_counter()
    outputs = 1 if aligned.target is Target.REGRESSION else len(aligned.classes)
    found = measure_transferability(Samples(cache.features, rows, cache.labels[rows]), aligned.target, outputs)
    return found, time.perf_counter() - started


def _contender(
    aligned: Aligned,
    place: int,
    standing: Standing,
    probe: _Probe,
    promise: tuple[Transferability, float],
    labels: NDArray[Any],
    seed: int,
) -> Contender:
    cache = aligned.caches[place]
    scores = probe.scores_NK[:, 0] if aligned.target is Target.REGRESSION else probe.scores_NK
    figures = measure(scores, labels, aligned.target, seed=seed).values
    return Contender(
        name=aligned.names[place],
        path=cache.path,
        backbone=str(cache.spec.get("backbone", {}).get("name", "")),
        dim=cache.dim,
        dtype=cache.features.dtype.name,
        fingerprint=cache.fingerprint,
        standing=standing,
        figures={key: value for key, value in figures.items() if key != "confusion"},
        chosen=probe.chosen,
        seconds=probe.seconds,
        transferability=promise[0],
        transferability_seconds=promise[1],
    )


def _twin_notes(aligned: Aligned, parts: Sequence[Parts]) -> list[str]:
    if aligned.digests_N is None:
        return []
    digests_N = aligned.digests_N
    twins = sum(
        int(np.isin(digests_N[part.test], digests_N[np.concatenate([part.train, part.val])]).sum()) for part in parts
    )
    if not twins:
        return []
    return [f"{twins} of the pictures measured are byte for byte the same as one of the fit: the figures flatter all"]
