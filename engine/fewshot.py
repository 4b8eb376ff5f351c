"""How accuracy grows with the number of labelled pictures: a head on k pictures a class, drawn several times.

# U pictures that are ever drawn, n pictures measured, F fits, C classes, D feature dim, k pictures a class, R repeats

Draws are nested: within a repeat the k pictures of a class are the first k of one seeded order, so more shots only add
pictures, and each fit of k is the same whatever other k are asked for.

A fit sees its k C pictures and nothing else. What a head may choose is chosen by stratified folds of these pictures, at most
`FOLDS` and at most k, and the head is fitted again on all k C. A single picture a class leaves nothing to choose by: then the
documented defaults of the head are taken.

All pictures that are ever drawn are read once, and those measured pass once, a block at a time, through all heads.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache, open_cache
from tle.enums import Split, Target
from tle.errors import HeadError, UsageError
from tle.heads.driver import check_kind, fit_task
from tle.heads.figures import METRICS, check_metric, picture_nll
from tle.heads.folds import deal_folds
from tle.heads.params import check_seed, parse_params
from tle.heads.samples import Samples, Task
from tle.heads.selection import check_finite, resolve_splits, usable_rows
from tle.heads.sweep import Model
from tle.heldout import TEST_FRACTION, Parts, set_apart
from tle.metrics import LEVEL, TOP_K, rank_of_truth

SHOTS = (1, 2, 4, 8, 16)
REPEATS = 5
FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure over the repeats.

    Attributes:
        values: one a repeat.
        mean: of the values.
        interval: 95 % interval of the mean, by Student's t; None for a single repeat.
    """

    values: list[float]
    mean: float
    interval: list[float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """What k pictures a class give.

    Attributes:
        k: pictures a class.
        n_train: pictures of each fit; fewer than k C where a class has fewer than k.
        figures: by metric.
        chosen: settings of each repeat's fit.
    """

    k: int
    n_train: int
    figures: dict[str, Spread]
    chosen: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShot:
    """The whole curve.

    Attributes:
        cache: the cache.
        head: which head was fitted.
        metric: what settings are chosen by and what is shown first.
        measured_on: the split that was measured, or what was set apart.
        n: pictures measured.
        n_classes: classes that have a picture to draw.
        repeats: draws for each k.
        seed: seed of the draws.
        rows: one for each k, ascending.
        notes: one-line facts that the user has to be told.
    """

    cache: Path
    head: str
    metric: str
    measured_on: str
    n: int
    n_classes: int
    repeats: int
    seed: int
    rows: tuple[Shots, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return asdict(self) | {"cache": str(self.cache), "rows": [asdict(row) for row in self.rows]}


@dataclass(frozen=True, slots=True)
class _Fit:
    """A fitted head and its settings."""

    model: Model
    chosen: dict[str, Any]
    notes: tuple[str, ...]


def few_shot(
    cache: Cache | str | Path,
    *,
    shots: Sequence[int] = SHOTS,
    repeats: int = REPEATS,
    head: str | None = None,
    params: Mapping[str, Any] | Sequence[str] | None = None,
    split: str | None = None,
    splits: NDArray[np.uint8] | str | Path | None = None,
    metric: str | None = None,
    seed: int = 0,
) -> FewShot:
    """Fit a head on a few pictures a class, several times, and measure it on pictures that none of them saw.

    Args:
        cache: the features; labels are classes.
        shots: the numbers k of pictures a class, each at least 1.
        repeats: draws for each k, at least 1; an interval takes two.
        head: as for `fit_head`.
        params: as for `fit_head`; a list of values is chosen from where k is at least 2.
        split: "val" or "test", what to measure on; None takes test, else val, else a fifth of train that is set apart.
        splits: (N,) values of `Split`, or a manifest with the columns path and split, instead of the cache's splits.
        metric: accuracy, balanced_accuracy, macro_f1, top5 or nll; settings are chosen by it.
        seed: seed of the draws, from 0 to 2**32 - 1.

    Returns:
        Mean and interval of every figure for each k.

    Raises:
        UsageError: an unknown head, setting, metric or split, shots or repeats out of range, or labels that are no classes.
        CacheError: the cache cannot be read.
        HeadError: nothing to fit or to measure on, or features that are not finite.
    """
    seed, shots, repeats = check_seed(seed), _check_shots(shots), _check_count("repeats", repeats)
    cache = cache if isinstance(cache, Cache) else open_cache(cache)
    usable_N, usable_notes = usable_rows(cache)
    if cache.target is not Target.CLASS:
        raise UsageError(f"shots are pictures of a class, but {cache.path} has target {cache.target}")
    kind, settings = head or "logistic", parse_params(params)
    check_kind(kind, settings, cache.target, seed)
    metric = check_metric(metric, cache.target, len(cache.classes))
    split_values, split_notes = resolve_splits(cache, splits)
    rows_N = np.flatnonzero(usable_N)
    parts, measured_on = _divide(cache.labels[rows_N], split_values[rows_N], split, seed)
    train, test = rows_N[parts.train], rows_N[parts.test]
    order_PK = _draw_orders(cache.labels[train], repeats, max(shots), seed)
    if len(order_PK[0]) < 2:
        raise HeadError(
            f"{len(train)} train pictures of {cache.path} are of fewer than two classes: at least two are needed"
        )
    drawn = train[np.unique(np.concatenate([order for orders in order_PK for order in orders]))]
    check_finite(cache, drawn)
    check_finite(cache, test)
    pool = Samples(np.asarray(cache.features[drawn], np.float32), np.arange(len(drawn)), cache.labels[drawn])
    place_of = np.full(len(train), -1)
    place_of[np.searchsorted(train, drawn)] = np.arange(len(drawn))
    fits: list[_Fit] = []
    sizes: list[int] = []
    for k in shots:
        for orders in order_PK:
            places = np.sort(place_of[np.concatenate([order[:k] for order in orders])])
            fits.append(_fit(pool, places, k, cache.classes, kind, settings, metric, seed))
            sizes.append(len(places))
    measured = Samples(cache.features, test, cache.labels[test])
    figures = _measure([fit.model for fit in fits], measured, len(cache.classes))
    rows = tuple(
        Shots(
            k=k,
            n_train=sizes[first],
            figures={
                name: spread_of([found[name] for found in figures[first : first + repeats]]) for name in figures[first]
            },
            chosen=[fit.chosen for fit in fits[first : first + repeats]],
        )
        for k, first in zip(shots, range(0, len(fits), repeats), strict=True)
    )
    return FewShot(
        cache=cache.path,
        head=kind,
        metric=metric,
        measured_on=measured_on,
        n=len(test),
        n_classes=len(order_PK[0]),
        repeats=repeats,
        seed=seed,
        rows=rows,
        notes=(*usable_notes, *split_notes, *_draw_notes(cache, train, test, max(shots)), *_fit_notes(fits)),
    )


def spread_of(values: Sequence[float]) -> Spread:
    """Mean of some repeats and its 95 % interval, mean +- t s / sqrt(R)."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Spread(values=list(values), mean=mean, interval=None)
    reach = float(t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Spread(values=list(values), mean=mean, interval=[mean - reach, mean + reach])


def _check_count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"{name} (--{name}) should be a whole number of at least 1, got {value!r}")
    return int(value)


def _check_shots(shots: Sequence[int]) -> tuple[int, ...]:
    if not len(shots):
        raise UsageError("shots (--shots) should be at least one number of pictures a class, got none")
    return tuple(sorted({_check_count("shots", k) for k in shots}))


def _divide(
    labels_N: NDArray[np.int64], splits_N: NDArray[np.uint8], split: str | None, seed: int
) -> tuple[Parts, str]:
    """Where to draw from and what to measure; val is never fitted on."""
    if split is None and not (splits_N == Split.TEST).any() and (splits_N == Split.VAL).any():
        split = "val"
    return set_apart(labels_N, splits_N, split=split, test_fraction=TEST_FRACTION, val_fraction=0.0, seed=seed)


def _draw_orders(labels_N: NDArray[np.int64], repeats: int, most: int, seed: int) -> list[list[NDArray[np.int64]]]:
    """For each repeat and class the first `most` positions of a seeded order; a class with fewer gives all."""
    by_class = [np.flatnonzero(labels_N == label) for label in np.unique(labels_N)]
    orders = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        orders.append([rng.permutation(members)[:most] for members in by_class])
    return orders


def _fit(
    pool: Samples,
    places: NDArray[np.int64],
    k: int,
    classes: tuple[str, ...],
    kind: str,
    settings: Mapping[str, Any],
    metric: str,
    seed: int,
) -> _Fit:
    """A head on some pictures of the pool, and on nothing else."""
    nothing = np.zeros(0, np.int64)
    labels = pool.labels[places]
    task = Task(
        Samples(pool.features, places, labels), Samples(pool.features, nothing, pool.labels[nothing]),
        Target.CLASS, classes, seed,
    )  # fmt: skip
    folds = min(k, FOLDS)
    fold_N = deal_folds(labels, folds, seed) if folds > 1 else None
    try:
        fitted = fit_task(task, kind, settings, fold_N=fold_N, metric=metric if fold_N is not None else None)
    except HeadError as error:
        raise HeadError(f"with {k} pictures a class: {error}") from error
    return _Fit(fitted.model, fitted.chosen, fitted.notes)


def _measure(models: Sequence[Model], samples: Samples, n_classes: int) -> list[dict[str, float]]:
    """All figures of every model, in one pass over the pictures."""
    n = len(samples)
    predicted = np.empty((len(models), n), np.int32)
    in_five = np.empty((len(models), n), bool)
    loss = np.empty((len(models), n), np.float32)
    for positions, x_BD in samples.blocks():
        labels = samples.labels[positions]
        for which, model in enumerate(models):
            scores_BC = model.scores(x_BD)
            if not np.isfinite(scores_BC).all():
                raise HeadError(
                    "a head gave a NaN or infinite score: the pictures measured are far from those of its fit"
                )
            predicted[which, positions] = scores_BC.argmax(axis=1)
            in_five[which, positions] = rank_of_truth(scores_BC, labels) < TOP_K
            loss[which, positions] = picture_nll(scores_BC, labels)
    labels_N = np.asarray(samples.labels)
    true_C = np.bincount(labels_N, minlength=n_classes)
    found = []
    for which in range(len(models)):
        right_N = predicted[which] == labels_N
        hit_C = np.bincount(labels_N[right_N], minlength=n_classes)
        both_C = true_C + np.bincount(predicted[which], minlength=n_classes)
        values = {
            "accuracy": right_N.mean(),
            "balanced_accuracy": (hit_C[true_C > 0] / true_C[true_C > 0]).mean(),
            "macro_f1": (2 * hit_C[both_C > 0] / both_C[both_C > 0]).mean(),
            "top5": in_five[which].mean(),
            "nll": loss[which].mean(dtype=np.float64),
        }
        kept = [name for name in METRICS[Target.CLASS] if name != "top5" or n_classes > TOP_K]
        found.append({name: float(values[name]) for name in kept})
    return found


def _draw_notes(cache: Cache, train: NDArray[np.int64], test: NDArray[np.int64], most: int) -> list[str]:
    counts_C = np.bincount(cache.labels[train], minlength=len(cache.classes))
    notes = []
    if short := int(((counts_C > 0) & (counts_C < most)).sum()):
        notes.append(
            f"{short} of {len(counts_C)} classes have fewer than {most} pictures to draw and gave all they have"
        )
    if unseen := int((counts_C[cache.labels[test]] == 0).sum()):
        notes.append(f"{unseen} of the {len(test)} pictures measured are of classes without a train picture: all wrong")
    if twins := int(np.isin(cache.digests[test], cache.digests[train]).sum()):
        notes.append(f"{twins} of the {len(test)} pictures measured are byte for byte the same as one in train")
    return notes


def _fit_notes(fits: Sequence[_Fit]) -> tuple[str, ...]:
    """What fits had to say, once for all that differ in their numbers alone.

    Where an optimum lies in its grid is left out: with so few pictures it says nothing.
    """
    alike: dict[str, list[str]] = {}
    for fit in fits:
        for note in dict.fromkeys(fit.notes):
            if not note.startswith("the best "):
                alike.setdefault(re.sub(r"\d[\d.,e+-]*", "#", note), []).append(note)
    return tuple(
        notes[0] if len(notes) == 1 else f"{notes[0]} (the like in {len(notes)} of {len(fits)} fits)"
        for notes in alike.values()
    )
