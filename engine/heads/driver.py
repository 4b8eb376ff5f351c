"""The way from samples to a fitted head: folds, attempts, table, choice, last fit.

# n samples, K outputs
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import UsageError
from tle.heads.choice import Choice, Rule, Trial, choose, make_rule
from tle.heads.exploration import Exploration, Part, explore, open_store
from tle.heads.folds import split_folds
from tle.heads.params import Params, refuse_unknown
from tle.heads.samples import Task
from tle.heads.sweep import Fitted, Kind, Model, Refit, edge_note
from tle.names import near_names

# Each names its module.
KINDS = ("logistic", "linear", "ridge", "lda", "prototype", "knn", "mlp", "svm")
SKLEARN = "sklearn:"
_SHOWN = 3


def load_kind(kind: str) -> Kind:
    """The module of a kind of head; everything that starts with `sklearn:` shares one."""
    name = "estimator" if kind.startswith(SKLEARN) else kind
    return cast(Kind, importlib.import_module(f"tle.heads.{name}"))


def check_kind(kind: str, settings: Mapping[str, Any], target: Target, seed: int) -> None:
    """Refuse what cannot be fitted before any features are read.

    Raises:
        UsageError: an unknown head or setting, or a head that does not fit the target.
    """
    if kind.startswith(SKLEARN):
        if target is not Target.NONE:  # said later, as for every head
            from tle.heads.estimator import make_estimator

            make_estimator(kind, settings, target, seed)
        return
    if kind not in KINDS:
        raise UsageError(
            f"unknown head {kind!r}{near_names(kind, KINDS)} (heads: {', '.join(KINDS)}, sklearn:IMPORT.PATH)"
        )
    module = load_kind(kind)
    refuse_unknown(kind, settings, module.PARAMS)
    if target is not Target.NONE and target not in module.TARGETS:
        others = [name for name in KINDS if target in load_kind(name).TARGETS]
        raise UsageError(f"head {kind} cannot be fitted on target {target}: take one of {', '.join(others)}")


def fit_task(
    task: Task,
    kind: str,
    settings: Mapping[str, Any],
    *,
    fold_N: NDArray[np.int64] | None = None,
    metric: str | None = None,
    one_se: bool = False,
    refit: bool = True,
    apply_calibration: bool = False,
) -> Fitted:
    """Choose the settings of a head on validation samples, then fit it on train and val.

    Args:
        task: the samples; without val and folds there is nothing to choose by.
        kind: which head.
        settings: settings of the head, as `check_kind` lets them pass.
        fold_N: (n_train,) from `deal_folds`, which fold holds a train sample out; only without val.
        metric: one of `METRICS` of the target; None takes the first of them.
        one_se: see `tle.heads.choice`.
        refit: whether the last fit is on train and val; else on train alone.
        apply_calibration: whether the temperature that was found is applied to the head.

    Returns:
        The head, and how it came about.

    Raises:
        UsageError: a setting out of range, or a metric that does not belong to the target.
        HeadError: the head cannot be fitted on these samples, or there is nothing to choose by among several values.
    """
    module, params = load_kind(kind), Params(kind, settings)
    parts: Sequence[Part] = ((task.train, task.val),) if len(task.val) else ()
    if fold_N is not None:
        parts = split_folds(task.train, fold_N)
    folds = len(parts) if fold_N is not None else 0
    rule = make_rule(task.target, len(task.classes), metric=metric, one_se=one_se, folds=folds)
    samples = task.both if refit else task.train
    if not parts:
        defaults = module.default_settings(params)
        last = module.refit(task, params, samples, defaults, (), len(task.train))
        notes = _unique(last.notes)
        return Fitted(model=last.model, chosen={**defaults, **last.details}, notes=notes, packages=last.packages)
    with open_store() as store:
        explored = explore(task, module, params, parts, rule, store)
        choice = choose(explored.trials, rule, len(parts))
        val_scores = np.concatenate([store.get(place) for place in explored.places[choice.taken]])
    taken = explored.trials[choice.taken]
    val_labels = np.concatenate([val.labels for _, val in parts])
    n_tried_on = round(sum(len(train) for train, _ in parts) / len(parts))
    last = module.refit(task, params, samples, taken.settings, tuple(taken.carried), n_tried_on)
    model, calibration, notes = _calibrate(task, kind, parts, taken, val_scores, val_labels, last, apply_calibration)
    return Fitted(
        model=model,
        chosen={**taken.settings, **last.details},
        trials=_table(explored.trials, choice, rule, len(parts)),
        val_scores=val_scores,
        val_labels=val_labels,
        notes=_unique((*explored.notes, *_sweep_notes(module, explored.trials, choice, rule), *last.notes, *notes)),
        packages=last.packages,
        choice=_choice_record(explored, choice, rule, folds),
        calibration=calibration,
    )


def _calibrate(
    task: Task,
    kind: str,
    parts: Sequence[Part],
    taken: Trial,
    val_scores: NDArray[np.float32],
    val_labels: NDArray[Any],
    last: Refit,
    apply: bool,
) -> tuple[Model, dict[str, Any] | None, tuple[str, ...]]:
    """The head, with a temperature if that is asked for; the record of the temperature; notes."""
    from tle.heads.calibration import apply_temperature, calibrate, own_temperature

    if all("temperature" in carry for carry in taken.carried):
        found = own_temperature([float(carry["temperature"]) for carry in taken.carried], len(val_labels))
        return last.model, found.record(), ()
    columns_P = np.arange(task.outputs)
    if task.target is Target.CLASS:
        present = np.stack([np.bincount(train.labels, minlength=task.outputs) > 0 for train, _ in parts])
        columns_P = np.flatnonzero(present.all(axis=0))
    source = "val" if len(parts) == 1 else "folds"
    measured = calibrate(task, val_scores, val_labels, columns_P, source=source, model=last.model)
    if measured is None:
        return last.model, None, ("no temperature could be fitted: it takes probabilities of four pictures",) * apply
    if not apply:
        return last.model, measured.record(), ()
    model, measured, notes = apply_temperature(last.model, measured, kind)
    return model, measured.record(), notes


def _table(trials: Sequence[Trial], choice: Choice, rule: Rule, folds: int) -> list[dict[str, Any]]:
    rows = [trial.record(rule.names, folds) for trial in trials]
    rows[choice.taken]["chosen"] = True
    return rows


def _choice_record(explored: Exploration, choice: Choice, rule: Rule, folds: int) -> dict[str, Any]:
    return {
        "metric": rule.metric,
        "rule": "one standard error" if rule.one_se else "best",
        "standard_error": f"over {folds} folds" if folds > 1 else "over pictures",
        "settings": explored.trials[choice.taken].settings,
        "best": explored.trials[choice.best].settings,
        "stopped": explored.stopped,
    }


def _sweep_notes(module: Kind, trials: Sequence[Trial], choice: Choice, rule: Rule) -> Iterable[str]:
    """What the table shows and a user may overlook."""
    finite = [trial for trial in trials if not trial.diverged]
    best = trials[choice.best].settings
    for name in getattr(module, "EDGES", ()):
        values = [trial.settings[name] for trial in finite if isinstance(trial.settings.get(name), int | float)]
        if isinstance(best.get(name), int | float):
            yield from edge_note(name, sorted(set(values)), best[name])
    if diverged := [trial for trial in trials if trial.diverged]:
        yield f"training diverged at {_label(diverged)}"
    if slow := [trial for trial in finite if any(details.get("converged") is False for details in trial.details)]:
        yield f"the solver did not converge at {_label(slow)} while settings were chosen"
    if rule.one_se and trials[choice.best].figure(rule.metric).se is None:
        yield f"{rule.metric} has no standard error here: the best setting was taken, not the simplest within one"


def _label(trials: Sequence[Trial]) -> str:
    """Settings as `C = 0.1, 1`, or `lr = 0.1 weight_decay = 0; ...` where several differ."""
    names = list(trials[0].settings)
    more = f", ... ({len(trials)} in all)" if len(trials) > _SHOWN else ""
    if len(names) == 1:
        return f"{names[0]} = " + ", ".join(_short(trial.settings[names[0]]) for trial in trials[:_SHOWN]) + more
    return (
        "; ".join(
            " ".join(f"{name} = {_short(value)}" for name, value in trial.settings.items()) for trial in trials[:_SHOWN]
        )
        + more
    )


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _unique(notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(notes))
