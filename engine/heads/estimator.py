"""Any classifier or regressor of scikit-learn as a head: `sklearn:IMPORT.PATH`.

# n samples, B rows of a block, K outputs, P outputs that the estimator covers

A standard scaler stands in front unless `scaler=none`. Settings are taken as they are given; nothing is swept. Where the
estimator has no `predict_proba`, probabilities are a softmax (multi-label: sigmoid) of its decision function over a
temperature that is fitted on validation data. Probabilities are taken as they are, unless a temperature is applied to
them afterwards: softmax(log p / T).

Kinds of heads that are an estimator by a shorter name, and sweep, share `try_settings` and `refit_settings`.

Stored with skops, never pickled. On reading, only classes that scikit-learn itself defines are trusted: not functions,
and nothing of other packages, so that a file from elsewhere cannot name code to be run.
"""

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError, UsageError, one_line
from tle.heads.affine import Link, apply_link
from tle.heads.params import Params, refuse_unknown
from tle.heads.safe_skops import FILE, dump_estimator, load_estimator, warn_of_version
from tle.heads.samples import MANY_CLASSES_WARNING, Samples, Task
from tle.heads.sweep import Attempt, Refit, score_samples
from tle.heads.temperature import fit_temperature
from tle.names import near_names

PREFIX = "sklearn:"
TARGETS = (Target.CLASS, Target.MULTILABEL, Target.REGRESSION)
PARAMS: tuple[str, ...] = ()  # those of the estimator that is named; `make_estimator` knows them
SCALERS = ("standard", "none")
METHODS = ("predict_proba", "decision_function", "predict")
# What scikit-learn raises on data or settings that it does not take.
_REFUSALS = (ValueError, TypeError, ArithmeticError, np.linalg.LinAlgError)


@dataclass(frozen=True, slots=True)
class Estimator:
    """A fitted scikit-learn pipeline and how its output becomes scores.

    Attributes:
        pipeline: what was fitted.
        method: which of its methods gives the output: one of `METHODS`.
        temperature: divides a decision function, or the logarithms of probabilities.
        columns_P: int64 (P,), the class or label of each column of the output.
        base_K: float32 (K,), scores of the outputs that the estimator does not cover.
        link: what turns a decision function into probabilities.
    """

    pipeline: Any
    method: str
    temperature: float
    columns_P: NDArray[np.int64]
    base_K: NDArray[np.float32]
    link: Link

    def output(self, x_BD: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the method gives, as float64 (B, P).

        Raises:
            HeadError: the estimator fails, or gives another shape.
        """
        name = type(self.pipeline[-1]).__name__
        try:
            raw = getattr(self.pipeline, self.method)(x_BD.astype(np.float64))
            raw_BP: NDArray[np.float64] = np.asarray(raw, np.float64)
        except _REFUSALS as error:
            raise HeadError(f"{self.method} of {name} fails with these settings: {one_line(error)}") from error
        if self.method == "predict":
            raw_BP = raw_BP.reshape(len(x_BD), -1)
        elif raw_BP.ndim == 1:  # two classes: one signed distance; halved, the two logits are centred
            raw_BP = np.stack([-raw_BP, raw_BP], axis=1) / 2
        if raw_BP.shape != (len(x_BD), len(self.columns_P)):
            raise HeadError(
                f"{self.method} of {name} gave {raw_BP.shape}, expected "
                f"({len(x_BD)}, {len(self.columns_P)}): this estimator, or this setting of it, cannot be used as a head"
            )
        return raw_BP

    def scores(self, x_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 (B, K) probabilities, or (B, 1) values for regression."""
        scores_BK = np.tile(self.base_K, (len(x_BD), 1))
        if not len(x_BD):  # scikit-learn refuses to predict nothing
            return scores_BK
        covered_BP = self.output(x_BD)
        if self.method == "decision_function":
            covered_BP = apply_link((covered_BP / self.temperature).astype(np.float32), self.link).astype(np.float64)
        elif self.method == "predict_proba" and self.temperature != 1.0:
            target = Target.CLASS if self.link is Link.SOFTMAX else Target.MULTILABEL
            logits_BP = log_probability(covered_BP, target) / self.temperature
            covered_BP = apply_link(logits_BP.astype(np.float32), self.link).astype(np.float64)
        scores_BK[:, self.columns_P] = covered_BP
        return scores_BK

    def record(self) -> dict[str, Any]:
        """What `load` needs beside the tensors."""
        import sklearn

        return {
            "type": "estimator",
            "method": self.method,
            "temperature": self.temperature,
            "link": str(self.link),
            "sklearn": sklearn.__version__,
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Arrays to be stored."""
        return {"columns": self.columns_P, "base": self.base_K}

    def files(self) -> dict[str, bytes]:
        """The estimator, by skops."""
        return {FILE: dump_estimator(self.pipeline)}

    @classmethod
    def load(
        cls,
        record: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        content: bytes | None,
        *,
        target: Target,
        outputs: int,
        dim: int,
    ) -> Self:
        """Read back what `record`, `tensors` and `files` wrote; another version of scikit-learn is warned of.

        Raises:
            HeadError: a part is missing or does not fit, or the estimator holds what is not trusted.
        """
        columns_P, base_K = tensors.get("columns"), tensors.get("base")
        method, temperature, link = record.get("method"), record.get("temperature"), Link.of(target)
        if content is None:
            raise HeadError(f"expected an entry {FILE!r}")
        if columns_P is None or columns_P.ndim != 1 or columns_P.dtype != np.int64:
            raise HeadError("expected a one-dimensional int64 tensor 'columns'")
        if base_K is None or base_K.shape != (outputs,) or base_K.dtype != np.float32:
            raise HeadError(f"expected a float32 tensor 'base' of shape ({outputs},)")
        if len(columns_P) and not 0 <= columns_P.min() <= columns_P.max() < outputs:
            raise HeadError(f"expected columns from 0 to {outputs - 1}")
        if method not in METHODS or record.get("link") != link:
            raise HeadError(f"unknown method {method!r}, or link {record.get('link')!r} for target {target}")
        if not isinstance(temperature, int | float) or not 0 < temperature < np.inf:
            raise HeadError(f"expected a temperature above 0, found {temperature!r}")
        warn_of_version(str(record.get("sklearn")))
        pipeline = load_estimator(content)
        if getattr(pipeline, "n_features_in_", None) != dim or not hasattr(pipeline, method):
            raise HeadError(f"expected a stored estimator with {method} for {dim} features")
        return cls(pipeline, method, float(temperature), columns_P, base_K, link)


def attempts(task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
    """The one setting that was given; see `tle.heads.sweep.Kind`."""
    yield try_settings(task, params.head, params.values, train, val)


def default_settings(params: Params) -> dict[str, Any]:
    """The settings that were given."""
    return _sorted(params.values)


def refit(
    task: Task,
    params: Params,
    samples: Samples,
    settings: Mapping[str, Any],
    carried: Sequence[Mapping[str, Any]],
    n_tried_on: int,  # noqa: ARG001 - what the settings of an estimator mean is not known here
) -> Refit:
    """The last fit; see `tle.heads.sweep.Kind`."""
    return refit_settings(task, params.head, settings, samples, carried)


def try_settings(task: Task, kind: str, settings: Mapping[str, Any], train: Samples, val: Samples) -> Attempt:
    """Fit an estimator on train and score val.

    Args:
        task: target, classes and seed.
        kind: `sklearn:IMPORT.PATH`.
        settings: arguments of the estimator, and `scaler`.
        train: what to fit on.
        val: what to score; a temperature is fitted on it for a decision function, and carried.

    Returns:
        The attempt.

    Raises:
        UsageError: see `make_estimator`.
        HeadError: the estimator refuses the data, or fails to predict once it is fitted.
    """
    unfitted, method = make_estimator(kind, settings, task.target, task.seed)
    notes: list[str] = []
    model = _fit_once(task, train, unfitted, method, notes)
    carry = {}
    if method == "decision_function":
        raw_NP = np.concatenate([model.output(x_BD) for _, x_BD in val.blocks()])
        carry["temperature"] = fit_temperature(raw_NP, val.labels, task.target, model.columns_P)
        model = replace(model, temperature=carry["temperature"])
    scores = score_samples(model, val, task.outputs)
    return Attempt(settings=_sorted(settings), scores=scores, carry=carry, model=model, notes=tuple(notes))


def refit_settings(
    task: Task, kind: str, settings: Mapping[str, Any], samples: Samples, carried: Sequence[Mapping[str, Any]]
) -> Refit:
    """Fit an estimator for good.

    Args:
        task: target, classes and seed.
        kind: `sklearn:IMPORT.PATH`.
        settings: arguments of the estimator, and `scaler`.
        samples: what to fit on.
        carried: temperatures from `try_settings`, of which the geometric mean is taken; may be empty.

    Returns:
        The head.

    Raises:
        UsageError: see `make_estimator`.
        HeadError: the estimator refuses the data, or fails to predict once it is fitted.
    """
    unfitted, method = make_estimator(kind, settings, task.target, task.seed)
    notes: list[str] = []
    model = _fit_once(task, samples, unfitted, method, notes)
    details: dict[str, Any] = {}
    if method == "decision_function":
        if carried:
            logs = np.log([float(carry["temperature"]) for carry in carried])
            model = replace(model, temperature=float(np.exp(logs.mean())))
        else:
            notes.append("no temperature could be fitted without validation pictures: probabilities are not calibrated")
        details["temperature"] = model.temperature
    model.output(samples.gather(slice(0, 1)))  # what fails to predict shall not be saved
    return Refit(model=model, details=details, notes=tuple(notes), packages=("scikit-learn", "skops"))


def log_probability(p_NP: NDArray[np.floating[Any]], target: Target, floor: float | None = None) -> NDArray[np.float64]:
    """What a temperature divides: log p, or for multi-label the logit of p.

    Args:
        p_NP: probabilities.
        target: CLASS or MULTILABEL.
        floor: smallest probability that counts; None takes that of `tle.metrics`, below which votes and trees give zeros.

    Returns:
        Finite float64 (N, P).
    """
    from tle.metrics import NLL_FLOOR

    p = np.clip(p_NP.astype(np.float64), NLL_FLOOR if floor is None else floor, 1.0)
    if target is Target.MULTILABEL:
        p = np.minimum(p, 1.0 - np.finfo(np.float32).eps / 2)  # the largest float32 below 1
    logits_NP: NDArray[np.float64] = np.log(p) - (np.log1p(-p) if target is Target.MULTILABEL else 0.0)
    return logits_NP


def _sorted(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in sorted(settings)}


def make_estimator(kind: str, settings: Mapping[str, Any], target: Target, seed: int) -> tuple[Any, str]:
    """The unfitted pipeline, and the method whose output becomes scores.

    Raises:
        UsageError: no such class, not one of scikit-learn, not for this target, or a setting that it does not take.
    """
    from sklearn.base import is_classifier, is_regressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kind_class = _import_class(kind)
    valid = [name for name in kind_class._get_param_names() if name != "scaler"]
    refuse_unknown(kind, settings, [*valid, "scaler"])
    arguments = {name: value for name, value in settings.items() if name != "scaler"}
    if "random_state" in valid:
        arguments.setdefault("random_state", seed)
    try:
        estimator = kind_class(**arguments)
    except TypeError as error:
        raise UsageError(f"{kind} cannot be made from name=value settings: {one_line(error)}") from error
    is_right, wanted = (is_regressor, "regressor") if target is Target.REGRESSION else (is_classifier, "classifier")
    if not is_right(estimator):
        raise UsageError(f"{kind} is not a {wanted}, and the target of this cache is {target}")
    scaler = settings.get("scaler", "standard")
    if scaler is not None and scaler not in SCALERS:
        raise UsageError(f"scaler should be {' or '.join(SCALERS)}, got {scaler!r}")
    methods = METHODS[2:] if target is Target.REGRESSION else METHODS[:2]
    method = next((name for name in methods if hasattr(estimator, name)), None)
    if method is None:
        raise UsageError(f"{kind} has neither predict_proba nor decision_function: it gives no probabilities")
    return make_pipeline(*([StandardScaler()] if scaler == "standard" else []), estimator), method


def _import_class(kind: str) -> Any:
    from sklearn.base import BaseEstimator
    from sklearn.utils import all_estimators

    path = kind.removeprefix(PREFIX)
    module_name, _, class_name = path.rpartition(".")
    if module_name.partition(".")[0] != "sklearn":
        raise UsageError(
            f"{kind}: only scikit-learn's own estimators can be stored without a pickle; "
            "name one by its import path, such as sklearn:sklearn.svm.LinearSVC"
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError:
        found = None  # said below, with the names that are near
    if not (isinstance(found, type) and issubclass(found, BaseEstimator)):
        # Modules that start with an underscore are re-exported by the package that holds them.
        known = [
            ".".join([part for part in kind_class.__module__.split(".") if part[0] != "_"] + [name])
            for name, kind_class in all_estimators(type_filter=["classifier", "regressor"])
        ]
        near = near_names(path, known)
        raise UsageError(f"scikit-learn has no estimator {path}{near} (the form is sklearn:sklearn.svm.LinearSVC)")
    return found


def _fit_once(task: Task, samples: Samples, unfitted: Any, method: str, notes: list[str]) -> Estimator:
    """Fit a copy of the pipeline; warnings become notes."""
    from sklearn.base import clone
    from sklearn.multiclass import OneVsRestClassifier

    pipeline, labels = clone(unfitted), samples.labels
    columns_P, base_K = np.arange(task.outputs), np.zeros(task.outputs, np.float32)
    if task.target is Target.CLASS:
        columns_P = np.unique(labels)
    elif task.target is Target.MULTILABEL:
        positives_C = labels.sum(axis=0, dtype=np.int64)
        base_K = ((positives_C + 0.5) / (len(labels) + 1)).astype(np.float32)
        columns_P = np.flatnonzero((positives_C > 0) & (positives_C < len(labels)))
        if constant := task.outputs - len(columns_P):
            notes.append(f"{constant} labels are the same in every picture of the fit and get one probability")
        if len(columns_P) == 1:  # one column would be taken for two classes; the same twice is still multi-label
            columns_P = np.repeat(columns_P, 2)
        pipeline.steps[-1] = ("onevsrestclassifier", OneVsRestClassifier(pipeline.steps[-1][1]))
        labels = labels[:, columns_P]
    if task.target is not Target.REGRESSION and len(columns_P) < 2:
        raise HeadError("the train pictures differ in no class or label: nothing can be fitted on them")
    z_ND = np.empty((len(samples), samples.dim))
    for positions, x_BD in samples.blocks():
        z_ND[positions] = x_BD
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message=MANY_CLASSES_WARNING)
        try:
            pipeline.fit(z_ND, labels)
        except _REFUSALS as error:
            name = type(unfitted[-1]).__name__
            raise HeadError(f"{name} cannot be fitted on these features: {one_line(error)}") from error
    notes += [f"{warning.category.__name__}: {str(warning.message).splitlines()[0]}" for warning in caught]
    return Estimator(pipeline, method, 1.0, columns_P, base_K, Link.of(task.target))
