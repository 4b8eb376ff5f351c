"""Multinomial logistic regression with an L2 penalty: the exact optimum for a whole path of strengths, each with its proof.

# n samples, D feature dim, C classes, P classes present in the fit, L labels with contrast

    min over W, b:  1/S sum_i s_i loss(W z_i + b, y_i)  +  1/(2 C S) |W|^2       z: scaled features, s: class weights

The intercept is not penalised. C is scikit-learn's: it weighs the *sum* of the losses, so the strength a sample feels is
1 / (C S), S = sum_i s_i (n without class weights); the refit on train + val uses C n_train / n_all and so keeps it.

Every solution comes with the largest relative gap that its objective can have to the least one, computed in float64 from
a dual bound (`tle.heads.exact.certificate`): that, not a solver's opinion of itself, is what `gap` says. Where the penalty
is weak and the classes can be separated, the objective nears 0 and a relative gap is hard to close; then the figure says so.

Unless C is given, the 45 values of DINOv2's linear evaluation are tried from strong to weak, and the sweep ends once
validation has clearly turned. All values share the scaled features, their curvature, and most of the passes.

Multi-label targets: one binary problem a label, one C for all, solved together.

With `device=cuda` what touches all pictures is done on the GPU: passes, certificates, the curvature; the rest, and small
problems, by NumPy. 45 values on 20,000 x 1,280 features of 10 classes took 10 s on an H100.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import UsageError
from tle.heads.affine import Affine, Link, embed_classes, make_affine
from tle.heads.exact.path import MAX_PASSES, TOL
from tle.heads.exact.problem import TINY_PASS, Problem, make_label_problem, make_problem, solve_all_labels
from tle.heads.gram import measure_moments
from tle.heads.params import Params
from tle.heads.samples import Samples, Task
from tle.heads.scaler import Scaler
from tle.heads.sweep import Attempt, Refit, score_samples, sole_value
from tle.heads.unit_rows import UnitRows
from tle.heads.words import device_of, one_of
from tle.names import near_names

PARAMS = ("C", "path", "tol", "max_iter", "class_weight", "scale", "device")
TARGETS = (Target.CLASS, Target.MULTILABEL)
EDGES = ("C",)
# DINOv2's linear evaluation: wide enough for any features that are scaled.
GRID = tuple((10.0 ** np.linspace(-6, 5, 45)).tolist())
PATHS = ("adaptive", "dinov2")
SCALES = ("standard", "l2", "none")
DEFAULT_C = 1e-2
# The last fit is the one that is kept: it may cost more. 400 digits of 64 pixels and 10 classes are still solved to the
# last digit, in a second at the weakest penalty.
REFIT_TOL = 1e-5
_TINY_REFIT = 2**20
_VAL_IN_MEMORY = 2**29


def ADAPTIVE(params: Params) -> bool:  # noqa: N802 - the protocol's name
    """Whether the sweep may end early: unless the user named the values or asked for all of them."""
    return "C" not in params.values and one_of(params, "path", PATHS) == PATHS[0]


@dataclass(frozen=True, slots=True)
class _Options:
    """What the user set.

    Attributes:
        max_iter: passes over the features for each C.
        scale: one of `SCALES`.
        class_weight: "balanced", or float64 (C,), or None.
        device: cpu or cuda.
    """

    max_iter: int
    scale: str
    class_weight: str | NDArray[np.float64] | None
    device: str


@dataclass(frozen=True, slots=True)
class _Solved:
    """One C.

    Attributes:
        c: the C.
        layer: on raw features.
        gap: relative, certified; the largest of any label.
        passes: over the features; the most of any label.
        converged: whether the gap is within the tolerance.
        seconds: until it came, after the one before.
    """

    c: float
    layer: Affine
    gap: float = 0.0
    passes: int = 0
    converged: bool = True
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return {"gap": self.gap, "passes": self.passes, "converged": self.converged, "seconds": self.seconds}


class _Fit:
    """The problem that some samples pose, for any C."""

    def __init__(self, task: Task, samples: Samples, options: _Options) -> None:
        self.task, self.options = task, options
        features: NDArray[Any] = samples.features
        mean_D = scale_D = None
        self.scaler = Scaler(np.zeros(samples.dim), np.ones(samples.dim))
        self.constant_D = np.zeros(samples.dim, bool)
        if options.scale == "standard":
            moments = measure_moments(samples, task.target, task.outputs, scatter=False)
            self.scaler, self.constant_D = moments.scaler(standard=True), moments.variance_D == 0
            mean_D, scale_D = self.scaler.mean_D, self.scaler.scale_D
        elif options.scale == "l2":
            features = cast(NDArray[Any], UnitRows(features))
        self.problem: Problem | None = None
        self.constant: tuple[int, ...] = ()
        if task.target is Target.MULTILABEL:
            positives_C, n = samples.labels.sum(axis=0, dtype=np.int64), len(samples)
            # A label without contrast gets the probability (positives + 1/2) / (n + 1).
            self.base_C = np.log((positives_C + 0.5) / (n - positives_C + 0.5))
            varying_C = (positives_C > 0) & (positives_C < n)
            self.constant = tuple(np.flatnonzero(~varying_C).tolist())
            self.columns = np.flatnonzero(varying_C)
            if len(self.columns):
                labels_NL = samples.labels[:, self.columns]
                self.problem = make_label_problem(
                    features, labels_NL, rows=samples.rows, mean_D=mean_D, scale_D=scale_D, device=options.device
                )
            return
        rows, labels_N, weight_N = samples.rows, samples.labels, _sample_weights(options, samples.labels, task)
        if weight_N is not None and not weight_N.all():
            keep = weight_N > 0
            rows, labels_N, weight_N = rows[keep], labels_N[keep], weight_N[keep]
        self.columns, index_N = np.unique(labels_N, return_inverse=True)
        if len(self.columns) > 1:  # a validation split can take all pictures but those of one class
            self.problem = make_problem(
                features, index_N, len(self.columns), weight_N=weight_N, rows=rows, mean_D=mean_D, scale_D=scale_D,
                device=options.device,
            )  # fmt: skip

    def solve(self, c_L: Sequence[float], tol: float, *, tiny: int = TINY_PASS) -> Iterator[_Solved]:
        """Solve for every C, the smallest first."""
        if self.problem is None:
            bare = [(c, [self._nothing()]) for c in sorted(set(c_L))]
            yield from (_Solved(c, self._layer(none)) for c, none in bare)
            return
        limits = {"tol": tol, "max_passes": self.options.max_iter, "seed": self.task.seed, "tiny": tiny}
        if self.task.target is Target.MULTILABEL:
            stream = solve_all_labels(self.problem, c_L, **limits)  # type: ignore[arg-type]
        else:
            one = self.problem.solve(c_L, **limits)  # type: ignore[arg-type]
            stream = ((c, [solution]) for c, solution in one)
        since = time.perf_counter()
        for c, found in stream:
            now = time.perf_counter()
            yield _Solved(
                c,
                self._layer([(s.weight_KD, s.bias_K) for s in found]),
                gap=max(s.relative_gap for s in found),
                passes=max(s.passes for s in found),
                converged=all(s.is_certified for s in found),
                seconds=now - since,
            )
            since = time.perf_counter()

    def separates(self, layer: Affine, samples: Samples) -> bool:
        """Whether every sample is put into its class."""
        scores = score_samples(layer, samples, self.task.outputs)
        if self.task.target is Target.MULTILABEL:
            return bool(((scores > 0.5) == samples.labels).all())
        return bool((scores.argmax(axis=1) == samples.labels).all())

    def _nothing(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = 0 if self.task.target is Target.MULTILABEL else 1
        return np.zeros((rows, len(self.constant_D))), np.zeros(rows)

    def _layer(self, found: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Affine:
        """The layer on raw features, with a row for every class."""
        weight_PD = np.concatenate([weight for weight, _ in found])
        bias_P = np.concatenate([bias for _, bias in found])
        weight_PD = np.where(self.constant_D, 0.0, weight_PD)  # rounding apart, it is that already
        weight_PD, bias_P = self.scaler.fold(weight_PD, bias_P)
        is_unit = self.options.scale == "l2"
        if self.task.target is not Target.MULTILABEL:
            weight_CD, bias_C = embed_classes(weight_PD, bias_P, self.columns, self.task.outputs)
            return make_affine(weight_CD, bias_C, Link.SOFTMAX, unit_rows=is_unit)
        weight_CD, bias_C = np.zeros((self.task.outputs, weight_PD.shape[1])), self.base_C.copy()
        weight_CD[self.columns], bias_C[self.columns] = weight_PD, bias_P
        return make_affine(weight_CD, bias_C, Link.SIGMOID, unit_rows=is_unit)


def attempts(task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
    """Solve for every C on one scaled copy of train, the strongest penalty first; see `tle.heads.sweep.Kind`."""
    grid, tol = _grid(params), params.number("tol", TOL)
    fit = _Fit(task, train, _options(params, task))
    if len(val) * val.dim * 4 <= _VAL_IN_MEMORY:  # read once, not once for every C
        val = Samples(val.gather(), np.arange(len(val)), val.labels)
    for solved in fit.solve(grid, tol):
        scores = score_samples(solved.layer, val, task.outputs)
        yield Attempt(settings={"C": solved.c}, scores=scores, details=solved.record(), model=solved.layer)


def default_settings(params: Params) -> dict[str, Any]:
    """The C that was given, or the default.

    Raises:
        HeadError: several C were given.
    """
    return {"C": sole_value("C", _grid(params), "C" in params.values, DEFAULT_C)}


def refit(
    task: Task,
    params: Params,
    samples: Samples,
    settings: Mapping[str, Any],
    carried: Sequence[Mapping[str, Any]],  # noqa: ARG001 - nothing is carried
    n_tried_on: int,
) -> Refit:
    """Solve with the same strength for each sample; see `tle.heads.sweep.Kind`."""
    options, tol = _options(params, task), params.number("tol", REFIT_TOL)
    c = float(settings["C"]) * n_tried_on / len(samples)
    fit = _Fit(task, samples, options)
    (final,) = fit.solve([c], tol, tiny=_TINY_REFIT)
    facts = {
        name: value for name, value in final.record().items() if name != "seconds"
    }  # the same seed, the same record
    device = "cpu" if fit.problem is None else fit.problem.device
    details = {
        "C_refit": c,
        "tol": tol,
        "max_iter": options.max_iter,
        "scale": options.scale,
        "device": device,
        **facts,
    }
    notes = (*fit.scaler.notes, *_final_notes(task, fit, final, samples, tol))
    return Refit(model=final.layer, details=details, notes=notes, packages=("scipy",))


def _final_notes(task: Task, fit: _Fit, final: _Solved, samples: Samples, tol: float) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if not final.converged:
        reason = f"after {final.passes} passes: raise max_iter, or take a smaller C"
        if final.passes < fit.options.max_iter and fit.separates(final.layer, samples):
            reason = f"since its classes are separable, and at C = {final.c:.3g} the objective is next to 0: what is missing "
            reason += "hardly changes a probability, and a smaller C closes the gap"
        notes += (f"the final fit is certified to {final.gap:.1e} of its objective, wanted {tol:.1e}, {reason}",)
    if fit.constant:
        names = ", ".join(task.classes[label] for label in fit.constant[:3]) + (", ..." if fit.constant[3:] else "")
        notes += (
            f"{len(fit.constant)} labels are the same in every picture of the fit and get one probability: {names}",
        )
    return notes


def _grid(params: Params) -> tuple[float, ...]:
    """Values of C, the strongest penalty first."""
    one_of(params, "path", PATHS)
    if "C" in params.values and "path" in params.values:
        raise UsageError(
            f"head {params.head} takes C or path, not both: path={params.values['path']} has values of its own"
        )
    return params.numbers("C", GRID)


def _options(params: Params, task: Task) -> _Options:
    return _Options(
        params.integer("max_iter", MAX_PASSES),
        one_of(params, "scale", SCALES),
        _class_weight(params, task),
        device_of(params),
    )


def _class_weight(params: Params, task: Task) -> str | NDArray[np.float64] | None:
    """What `class_weight` says.

    Raises:
        UsageError: neither "balanced" nor weights by class name, or not one class a picture.
    """
    given = params.values.get("class_weight")
    if given is None:
        return None
    if task.target is not Target.CLASS:
        raise UsageError(f"class_weight is for target class, got target {task.target}: leave it out")
    if given == "balanced":
        return "balanced"
    if not isinstance(given, Mapping) or not given:
        raise UsageError(
            f"parameter class_weight of head {params.head} is balanced or weights by class such as "
            f"{{'{task.classes[0]}': 2}}, got {given!r}"
        )
    weight_C = np.ones(len(task.classes))
    for name, value in given.items():
        if name not in task.classes:
            raise UsageError(f"class_weight names an unknown class {name!r}{near_names(str(name), task.classes)}")
        weight = Params(params.head, {"class_weight": value}).number("class_weight", 1.0, inclusive=True)
        weight_C[task.classes.index(name)] = weight
    return weight_C


def _sample_weights(options: _Options, labels_N: NDArray[np.int64], task: Task) -> NDArray[np.float64] | None:
    """(n,) weights; None for 1."""
    if options.class_weight is None:
        return None
    if isinstance(options.class_weight, str):
        counts_C = np.bincount(labels_N, minlength=task.outputs)
        share_C = len(labels_N) / (np.count_nonzero(counts_C) * np.maximum(counts_C, 1))
        return np.asarray(share_C[labels_N])
    weight_N = options.class_weight[labels_N]
    if not weight_N.any():
        raise UsageError(
            "class_weight is 0 for every class that has a picture to fit on: give at least two of them more"
        )
    return np.asarray(weight_N)
