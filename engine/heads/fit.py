"""Fit a head on a cache: choose rows, choose settings on validation data, fit, record, save."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache, open_cache
from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.files import check_output
from tle.heads.choice import make_rule
from tle.heads.driver import KINDS as KINDS
from tle.heads.driver import check_kind
from tle.heads.driver import fit_task as fit_task
from tle.heads.folds import check_folds
from tle.heads.head import Head
from tle.heads.params import check_seed, parse_params
from tle.heads.samples import Samples, Task
from tle.heads.selection import Selection, check_finite, resolve_splits, select_rows
from tle.heads.sweep import Fitted
from tle.heads.views import open_views


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a fit did.

    Attributes:
        head: the fitted head.
        path: where it was saved; None where no output was named.
        kind: which head.
        n_train: pictures it was fitted on while settings were chosen; with folds, those that were dealt into them.
        n_val: pictures the settings were chosen on; the final fit is on both unless that was declined.
        folds: folds that held these pictures out in turn; 0 where they are a part of their own.
        chosen: the settings of the final fit, and facts about it.
        choice: how the settings were chosen: metric, rule, standard error, best settings, where the sweep stopped; empty
            without validation pictures.
        sweep: the settings that were tried, each with figures, standard errors (`NAME_se`) and details; the one that was
            taken has `chosen`.
        val: validation figures of the chosen settings fitted without these pictures; empty without any.
        calibration: a temperature, NLL and ECE before and after, and whether it was applied; None where there is none.
        notes: one-line facts that the user has to be told.
    """

    head: Head
    path: Path | None
    kind: str
    n_train: int
    n_val: int
    folds: int
    chosen: dict[str, Any]
    choice: dict[str, Any]
    sweep: list[dict[str, Any]]
    val: dict[str, Any]
    calibration: dict[str, Any] | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All but the head itself, JSON-able."""
        return {
            "path": None if self.path is None else str(self.path),
            "kind": self.kind,
            "n_train": self.n_train,
            "n_val": self.n_val,
            "folds": self.folds,
            "chosen": self.chosen,
            "choice": self.choice,
            "sweep": self.sweep,
            "val": self.val,
            "calibration": self.calibration,
            "notes": list(self.notes),
        }


def fit_head(
    cache: Cache | str | Path,
    output: str | Path | None = None,
    *,
    head: str | None = None,
    params: Mapping[str, Any] | Sequence[str] | None = None,
    views: Sequence[Cache | str | Path] = (),
    seed: int = 0,
    val_fraction: float = 0.1,
    folds: int | None = None,
    splits: NDArray[np.uint8] | str | Path | None = None,
    metric: str | None = None,
    one_se: bool = False,
    refit: bool = True,
    calibrate: bool = False,
    overwrite: bool = False,
) -> FitResult:
    """Fit a head on cached features.

    Settings that the head leaves open (the strength of regularisation, say) are chosen on validation pictures: the val
    split, or else a seeded part of train, or folds of it. Then the head is fitted again on train and val together, with the
    same strength for each sample. Test pictures are never touched.

    Args:
        cache: the features.
        output: the file to write, NAME.head; None keeps the head in memory.
        head: one of `KINDS` or "sklearn:IMPORT.PATH"; None takes logistic, for regression ridge.
        params: settings of the head, as a mapping or as `name=value` strings.
        views: caches of `tle.extract(view=...)` by the same backbone; head linear then sees each picture as it is in one
            epoch and in another view in the next. Validation pictures are seen as they are.
        seed: seed of the validation split and of everything random in the head, from 0 to 2**32 - 1.
        val_fraction: part of train to hold out where there is no val split; 0 for none.
        folds: hold out each of so many parts of train in turn instead, stratified for classes; None or 0 for none.
        splits: (N,) values of `Split`, or a manifest with the columns path and split, instead of the cache's splits.
        metric: what settings are chosen by: accuracy (the default), balanced_accuracy, macro_f1, top5 or nll; for
            multi-label mAP (the default) or nll; for regression mse (the default), mae or r2.
        one_se: take the simplest setting whose metric is within one standard error of the best.
        refit: False keeps the final fit to train, without val.
        calibrate: apply the temperature that was found on the validation pictures to the head.
        overwrite: whether an existing output may be replaced.

    Returns:
        The head and what was done.

    Raises:
        OutputError: the output cannot be written, or is an input; found out before the fit.
        UsageError: an unknown head or setting, one that does not fit the target, or a seed out of range.
        CacheError: a cache cannot be read, or a view lacks pictures that are fitted on.
        FingerprintError: a view is of another backbone.
        HeadError: no labels, one class only, fewer pictures than classes, or features that are not finite.
    """
    path = None if output is None else Path(output)
    if path is not None:
        inputs = (splits, *(file.path if isinstance(file, Cache) else file for file in (cache, *views)))
        check_output(path, overwrite=overwrite, inputs=[file for file in inputs if isinstance(file, str | Path)])
    seed, folds = check_seed(seed), check_folds(folds)
    cache = cache if isinstance(cache, Cache) else open_cache(cache)
    kind = _default_kind(cache.target) if head is None else head
    settings = parse_params(params)
    check_kind(kind, settings, cache.target, seed)
    if views and kind != "linear":
        raise UsageError(
            f"views are for head linear, which is trained epoch by epoch, not for {kind}: add --head linear"
        )
    _check_options(cache, metric=metric, one_se=one_se, folds=folds, refit=refit, calibrate=calibrate)
    split_values, split_notes = resolve_splits(cache, splits)
    selection = select_rows(cache, split_values, val_fraction=val_fraction, seed=seed, folds=folds)
    task = _make_task(cache, selection, seed, views)
    _check_labels(cache, task)
    check_finite(cache, task.both.rows)
    fitted = fit_task(
        task,
        kind,
        settings,
        fold_N=selection.fold_N,
        metric=metric,
        one_se=one_se,
        refit=refit,
        apply_calibration=calibrate,
    )
    val, val_notes = _validate(task, fitted)
    chosen, sweep = _jsonable(fitted.chosen), _jsonable(fitted.trials)
    notes = (*split_notes, *selection.notes, *_label_notes(task), *fitted.notes)
    result = Head(
        kind=kind,
        target=cache.target,
        classes=task.classes,
        dim=task.train.dim,
        fingerprint=cache.fingerprint,
        spec=cache.spec,
        fit={
            "seed": seed,
            "selection": selection.record,
            "settings": _jsonable(settings),
            "views": [view.record for view in task.train.views],
            "refit": refit,
            "chosen": _untimed(chosen),
            "choice": _jsonable(fitted.choice),
            "sweep": [_untimed(row) for row in sweep],
            "calibration": fitted.calibration,
            "val": val,
            "val_notes": list(val_notes),
            "notes": list(notes),
            "versions": {name: metadata.version(name) for name in ("tle", "numpy", *fitted.packages)},
        },
        fit_digests=np.unique(cache.digests[task.both.rows]),
        model=fitted.model,
    )
    if path is not None:
        result.save(path)
    return FitResult(
        head=result,
        path=path,
        kind=kind,
        n_train=selection.record["n_train"],
        n_val=selection.record["n_val"],
        folds=folds,
        chosen=chosen,
        choice=result.fit["choice"],
        sweep=sweep,
        val=val,
        calibration=fitted.calibration,
        notes=notes,
    )


def _default_kind(target: Target) -> str:
    return "ridge" if target is Target.REGRESSION else "logistic"


def _check_options(cache: Cache, *, metric: str | None, one_se: bool, folds: int, refit: bool, calibrate: bool) -> None:
    """Refuse how settings shall be chosen before any features are read."""
    if cache.target is Target.NONE:  # said later, as for every head
        return
    make_rule(cache.target, len(cache.classes), metric=metric, one_se=one_se, folds=folds)
    if folds and not refit:
        raise UsageError("with folds every picture is in train for the final fit: leave out --no-refit, or --folds")
    if calibrate and cache.target is Target.REGRESSION:
        raise UsageError("a temperature belongs to probabilities, and the target of this cache is regression")


def _make_task(cache: Cache, selection: Selection, seed: int, views: Sequence[Cache | str | Path]) -> Task:
    train, val = (Samples(cache.features, rows, cache.labels[rows]) for rows in (selection.train, selection.val))
    if views:
        both = np.sort(np.concatenate([selection.train, selection.val]))
        train = replace(train, views=open_views(cache, views, both))
    classes = () if cache.target is Target.REGRESSION else cache.classes
    return Task(train, val, cache.target, classes, seed)


def _check_labels(cache: Cache, task: Task) -> None:
    """Refuse labels from which nothing can be learnt."""
    labels, where = task.both.labels, f"of {cache.path} to fit on"
    if task.target is Target.REGRESSION:
        if not np.isfinite(labels).all():
            raise HeadError(
                f"{int((~np.isfinite(labels)).sum())} labels {where} are infinite: correct them and extract again"
            )
        if labels.min() == labels.max():
            raise HeadError(f"all {len(labels)} labels {where} are {labels[0]:g}: there is nothing to learn")
        return
    if task.target is Target.CLASS:
        present = np.unique(labels)
        if len(present) == 1:
            name = task.classes[present[0]]
            raise HeadError(f"all {len(labels)} pictures {where} are of one class, {name!r}: at least two are needed")
    elif (labels == labels[0]).all():
        raise HeadError(f"all {len(labels)} pictures {where} carry the same labels: there is nothing to learn")
    if len(task.classes) > len(labels):
        raise HeadError(
            f"{cache.path} has {len(task.classes)} classes but only {len(labels)} labelled pictures to fit on: "
            "at least one for each class is needed"
        )


def _label_notes(task: Task) -> tuple[str, ...]:
    """What is odd about labels that can be fitted."""
    if task.target is not Target.CLASS:
        return ()
    count, n = len(np.unique(task.both.labels)), len(task.both)
    if 2 * count <= n:
        return ()
    return (
        f"{count} classes in {n} pictures, fewer than two a class: hardly anything can be learnt or measured; "
        "if the labels are numbers, extract with --target regression",
    )


def _validate(task: Task, fitted: Fitted) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Validation figures without the confusion matrix, and the notes that belong to them."""
    from tle.metrics import measure

    if fitted.val_scores is None or fitted.val_labels is None:
        return {}, ()
    scores = fitted.val_scores[:, 0] if task.target is Target.REGRESSION else fitted.val_scores
    found = measure(scores, fitted.val_labels, task.target, seed=task.seed)
    return {name: value for name, value in found.values.items() if name != "confusion"}, found.notes


def _untimed(record: dict[str, Any]) -> dict[str, Any]:
    """A record without its seconds: the same seed gives the same file."""
    return {name: value for name, value in record.items() if name != "seconds"}


def _jsonable(value: Any) -> Any:
    """Settings as JSON takes them; what JSON has no form for becomes its text."""
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        return _jsonable(value.item())
    finite = isinstance(value, float) and np.isfinite(value)
    return value if finite or value is None or isinstance(value, str | int) else repr(value)
