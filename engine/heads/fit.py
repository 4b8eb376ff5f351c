"""Fit a head on a cache: choose rows, choose settings on validation data, fit, record, save."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache import Cache, open_cache
from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.files import check_output
from tle.heads.head import Head
from tle.heads.params import Params, check_seed, parse_params, refuse_unknown
from tle.heads.samples import Samples, Task
from tle.heads.selection import Selection, check_finite, resolve_splits, select_rows
from tle.heads.sweep import Fitted
from tle.names import near_names

# Each names its module, which has PARAMS, TARGETS and fit(task, params).
KINDS = ("logistic", "linear", "ridge", "knn")
SKLEARN = "sklearn:"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a fit did.

    Attributes:
        head: the fitted head.
        path: where it was saved; None where no output was named.
        kind: which head.
        n_train: pictures it was fitted on while settings were chosen.
        n_val: pictures the settings were chosen on; the final fit is on both.
        chosen: the settings of the final fit.
        val: validation figures of the chosen settings fitted on train only; empty without validation pictures.
        notes: one-line facts that the user has to be told.
    """

    head: Head
    path: Path | None
    kind: str
    n_train: int
    n_val: int
    chosen: dict[str, Any]
    val: dict[str, Any]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All but the head itself, JSON-able."""
        return {
            "path": None if self.path is None else str(self.path),
            "kind": self.kind,
            "n_train": self.n_train,
            "n_val": self.n_val,
            "chosen": self.chosen,
            "sweep": self.head.fit["sweep"],
            "val": self.val,
            "notes": list(self.notes),
        }


def fit_head(
    cache: Cache | str | Path,
    output: str | Path | None = None,
    *,
    head: str | None = None,
    params: Mapping[str, Any] | Sequence[str] | None = None,
    seed: int = 0,
    val_fraction: float = 0.1,
    splits: NDArray[np.uint8] | str | Path | None = None,
    overwrite: bool = False,
) -> FitResult:
    """Fit a head on cached features.

    Settings that the head leaves open (the strength of regularisation, say) are chosen on validation pictures: the val
    split, or else a seeded part of train. Then the head is fitted again on train and val together, with the same strength
    for each sample. Test pictures are never touched.

    Args:
        cache: the features.
        output: the file to write, NAME.head; None keeps the head in memory.
        head: "logistic", "linear", "ridge", "knn" or "sklearn:IMPORT.PATH"; None takes logistic, for regression ridge.
        params: settings of the head, as a mapping or as `name=value` strings.
        seed: seed of the validation split and of everything random in the head, from 0 to 2**32 - 1.
        val_fraction: part of train to hold out where there is no val split; 0 for none.
        splits: (N,) values of `Split`, or a manifest with the columns path and split, instead of the cache's splits.
        overwrite: whether an existing output may be replaced.

    Returns:
        The head and what was done.

    Raises:
        OutputError: the output cannot be written, or is an input; found out before the fit.
        UsageError: an unknown head or setting, one that does not fit the target, or a seed out of range.
        CacheError: the cache cannot be read.
        HeadError: no labels, one class only, fewer pictures than classes, or features that are not finite.
    """
    path = None if output is None else Path(output)
    if path is not None:
        inputs = (cache.path if isinstance(cache, Cache) else cache, splits)
        check_output(path, overwrite=overwrite, inputs=[file for file in inputs if isinstance(file, str | Path)])
    seed = check_seed(seed)
    cache = cache if isinstance(cache, Cache) else open_cache(cache)
    kind = _default_kind(cache.target) if head is None else head
    settings = parse_params(params)
    _check_kind(kind, settings, cache.target, seed)
    split_values, split_notes = resolve_splits(cache, splits)
    selection = select_rows(cache, split_values, val_fraction=val_fraction, seed=seed)
    task = _make_task(cache, selection, seed)
    _check_labels(cache, task)
    check_finite(cache, task.both.rows)
    fitted = _fit_kind(task, kind, settings)
    val, val_notes = _validate(task, fitted)
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
            "chosen": _jsonable(fitted.chosen),
            "sweep": _jsonable(fitted.trials),
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
        n_train=len(task.train),
        n_val=len(task.val),
        chosen=result.fit["chosen"],
        val=val,
        notes=notes,
    )


def _default_kind(target: Target) -> str:
    return "ridge" if target is Target.REGRESSION else "logistic"


def _check_kind(kind: str, settings: Mapping[str, Any], target: Target, seed: int) -> None:
    """Refuse what cannot be fitted before any features are read."""
    if kind.startswith(SKLEARN):
        if target is not Target.NONE:  # said later, as for every head
            from tle.heads.estimator import make_estimator

            make_estimator(kind, settings, target, seed)
        return
    if kind not in KINDS:
        raise UsageError(
            f"unknown head {kind!r}{near_names(kind, KINDS)} (heads: {', '.join(KINDS)}, sklearn:IMPORT.PATH)"
        )
    module = importlib.import_module(f"tle.heads.{kind}")
    refuse_unknown(kind, settings, module.PARAMS)
    if target is not Target.NONE and target not in module.TARGETS:
        others = [name for name in KINDS if target in importlib.import_module(f"tle.heads.{name}").TARGETS]
        raise UsageError(f"head {kind} cannot be fitted on target {target}: take one of {', '.join(others)}")


def _make_task(cache: Cache, selection: Selection, seed: int) -> Task:
    train, val = (Samples(cache.features, rows, cache.labels[rows]) for rows in (selection.train, selection.val))
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


def _fit_kind(task: Task, kind: str, settings: Mapping[str, Any]) -> Fitted:
    if kind.startswith(SKLEARN):
        from tle.heads.estimator import fit

        return fit(task, kind, settings)
    fitted: Fitted = importlib.import_module(f"tle.heads.{kind}").fit(task, Params(kind, settings))
    return fitted


def _validate(task: Task, fitted: Fitted) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Validation figures without the confusion matrix, and the notes that belong to them."""
    from tle.metrics import measure

    if fitted.val_scores is None:
        return {}, ()
    scores = fitted.val_scores
    if not np.isfinite(scores).all():
        raise HeadError("the head gave NaN or infinite validation scores")
    found = measure(
        scores[:, 0] if task.target is Target.REGRESSION else scores, task.val.labels, task.target, seed=task.seed
    )
    return {name: value for name, value in found.values.items() if name != "confusion"}, found.notes


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
