"""Exact logistic regression with scikit-learn's interface: one C, or a whole path with a proven gap for every value.

# n samples, D feature dim, K rows of coefficients (one for two classes), L values of C, F folds

    min over W, b:  1/S sum_i s_i loss(W x_i + b, y_i)  +  1/(2 C S) |W|^2         s: sample weights, S their sum

is the objective of scikit-learn's `LogisticRegression(C=C)` divided by C S; the intercept is free. Every solution comes
with a lower bound of the least objective, so that how good it is need not be believed: see
`tle.heads.exact.certificate`.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tle.errors import UsageError
from tle.heads.exact.path import MAX_PASSES, TOL, Solution
from tle.heads.exact.problem import SMALL_VALUES, Problem, make_problem
from tle.heads.folds import ALWAYS_TRAIN, deal_folds
from tle.heads.words import DEVICES, check_device

DEFAULT_FOLDS = 5
_ROWS_COMPARED = 4096
_LARGEST = 1e100
_LARGEST_SINGLE = 1e12


class LogisticPath(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Multinomial (for two classes: binary) logistic regression with an L2 penalty, for one C or many.

    Samples without weight are left out before anything else, and so are classes that have no others.

    Args:
        C: inverse strength of the penalty, above 0, against the sum of the losses; or a sequence of them, one of which is
            chosen by stratified folds.
        tol: relative gap to be certified: the objective is at most (1 + tol) times the least one, or a
            `ConvergenceWarning` says what was reached. Problems whose pass is below 65,536 multiply-adds are solved to
            the last digit anyway.
        max_iter: passes over the samples for each C.
        fit_intercept: whether there is an intercept, which is not penalised.
        class_weight: "balanced", or weights by class, 1 for those not named; they multiply sample weights.
        cv: folds by which one of several C is chosen: their number (None: 5), a splitter of scikit-learn, or an iterable
            of (train, test) positions. With a number, the only sample of a class is never held out.
        scoring: what to choose by: None for accuracy, a name of a scikit-learn scorer, or `scorer(model, X, y)`. The two
            former are weighted by sample weights. Of equal values the smallest C is taken.
        random_state: seed of folds, and of the samples that large problems take their curvature from.
        device: "cpu", or "cuda" for what touches all samples. Problems of at most 4,194,304 numbers, and those with fewer
            samples than 0.7 of the features, are solved on the CPU whatever it is.

    Attributes:
        classes_: (classes,) labels.
        coef_: (K, D), of the chosen C; centred over the classes.
        intercept_: (K,).
        n_features_in_: D.
        n_iter_: (1,) passes over the samples that the chosen C took.
        C_: the chosen C.
        Cs_: (L,) all of them, ascending.
        coefs_: (L, K, D).
        intercepts_: (L, K).
        objectives_: (L,) values of the objective above.
        gaps_: (L,) how much each is above the least one, at most: a dual bound, with an allowance for rounding.
        scores_: (F, L) score of each C in the samples of each fold; only where several were given.
    """

    def __init__(
        self,
        C: float | Iterable[float] = 1.0,
        *,
        tol: float = TOL,
        max_iter: int = MAX_PASSES,
        fit_intercept: bool = True,
        class_weight: str | Mapping[Any, float] | None = None,
        cv: Any = None,
        scoring: str | Callable[..., float] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
    ) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.cv = cv
        self.scoring = scoring
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Solve for every C.

        Args:
            X: (n, D) floats; float16 and float32 are taken as they are.
            y: (n,) labels of at least two classes.
            sample_weight: (n,) weights of at least 0; None for 1.

        Returns:
            The estimator.

        Raises:
            UsageError: a setting or a weight out of range, or a device that is not there.
            ValueError: samples that cannot be used, as scikit-learn says it.
        """
        cs, seed = self._check_settings(), self._seed()
        x_ND, y_N = validate_data(self, X, y, dtype=[np.float64, np.float32, np.float16])
        check_classification_targets(y_N)
        _check_class_weight(self.class_weight, y_N)
        weight_N = _check_weight(sample_weight, len(x_ND))
        keep = np.ones(len(x_ND), bool) if weight_N is None else weight_N > 0
        by_sample = None if weight_N is None else weight_N[keep]
        if not keep.all():
            x_ND, y_N = x_ND[keep], y_N[keep]
        classes, label_N = np.unique(y_N, return_inverse=True)
        full_N = self._combine_weights(classes, label_N, y_N, by_sample)
        if not (full_N > 0).all():  # classes of weight 0
            keep = full_N > 0
            x_ND, full_N, classes, label_N = _drop(x_ND, full_N, classes, label_N, keep)
            by_sample = None if by_sample is None else by_sample[keep]
        if len(classes) < 2:
            raise ValueError(
                "This solver needs samples of at least 2 classes in the data, but the data contains only one class: "
                f"{classes[0]!r}"
            )
        double = _check_size(x_ND)
        problem = make_problem(
            x_ND, label_N, len(classes), weight_N=full_N, intercept=bool(self.fit_intercept), double=double,
            device=self.device,
        )  # fmt: skip
        found = list(problem.solve(cs, tol=self.tol, max_passes=self.max_iter, seed=seed))
        layers = [problem.coefficients(solution) for _, solution in found]
        self.classes_ = classes
        self.Cs_ = np.array([c for c, _ in found])
        self.coefs_ = np.stack([weight_KD for weight_KD, _ in layers])
        self.intercepts_ = np.stack([bias_K for _, bias_K in layers])
        self.objectives_ = np.array([solution.objective for _, solution in found])
        self.gaps_ = np.array([solution.gap for _, solution in found])
        best = 0
        if len(cs) > 1:
            self.scores_ = self._score_folds(x_ND, label_N, full_N, by_sample, double, seed)
            best = int(np.argmax(self.scores_.mean(axis=0)))
        self.C_ = float(self.Cs_[best])
        self.coef_, self.intercept_ = self.coefs_[best], self.intercepts_[best]
        self.n_iter_ = np.array([max(1, found[best][1].passes)], np.int32)
        self._warn(found)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits, float64: (n, classes), or (n,) of the second one where there are two."""
        check_is_fitted(self)
        x_ND = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        logits_NK = np.asarray(x_ND @ self.coef_.T + self.intercept_)
        return logits_NK[:, 0] if logits_NK.shape[1] == 1 else logits_NK

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row, (n,)."""
        logits = self.decision_function(X)
        index_N = (logits > 0).astype(np.int64) if logits.ndim == 1 else logits.argmax(axis=1)
        return np.asarray(self.classes_[index_N])

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logarithms of the probabilities, float64 (n, classes)."""
        logits = self.decision_function(X)
        if logits.ndim == 1:
            return -np.logaddexp(0.0, np.stack([logits, -logits], axis=1))
        logits = logits - logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities, float64 (n, classes); rows sum to 1."""
        return np.asarray(np.exp(self.predict_log_proba(X)))

    def _check_settings(self) -> list[float]:
        """The values of C, ascending and without repeats."""
        for name, value in (("tol", self.tol), ("max_iter", self.max_iter)):
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not value > 0:
                raise UsageError(f"{name} should be a number above 0, got {value!r}")
        if self.device not in DEVICES:
            raise UsageError(f"device should be {' or '.join(DEVICES)}, got {self.device!r}")
        check_device(self.device, "device")
        given: Any = self.C
        is_single = isinstance(given, str) or not isinstance(given, Iterable)
        values = [_check_c(c) for c in ([given] if is_single else given)]
        if not values:
            raise UsageError("C is an empty sequence: give at least one value")
        return sorted(set(values))

    def _seed(self) -> int:
        from sklearn.utils import check_random_state

        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31))

    def _combine_weights(
        self,
        classes: NDArray[Any],
        label_N: NDArray[np.int64],
        y_N: NDArray[Any],
        by_sample: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """Sample weights times class weights, (n,)."""
        own_N = np.ones(len(label_N)) if by_sample is None else by_sample
        if self.class_weight is None:
            return own_N
        if isinstance(self.class_weight, Mapping):
            class_weight_K = np.array([self.class_weight.get(name, 1.0) for name in classes.tolist()], np.float64)
        else:
            class_weight_K = compute_class_weight(self.class_weight, classes=classes, y=y_N, sample_weight=by_sample)
        weight_N: NDArray[np.float64] = own_N * class_weight_K[label_N]
        if not weight_N.any():
            raise UsageError("class_weight is 0 for every class: give at least two of them more")
        return weight_N

    def _score_folds(
        self,
        x_ND: NDArray[Any],
        label_N: NDArray[np.int64],
        full_N: NDArray[np.float64],
        by_sample: NDArray[np.float64] | None,
        double: bool,
        seed: int,
    ) -> NDArray[np.float64]:
        """(F, L): score of each C in the samples that a fold holds out."""
        rows = []
        for train, test in self._folds(x_ND, label_N, seed):
            classes, fold_label = np.unique(label_N[train], return_inverse=True)
            if len(classes) < 2:
                raise ValueError(f"a fold of cv has samples of one class only to fit on: {self.classes_[classes[0]]!r}")
            problem = make_problem(
                x_ND, fold_label, len(classes), weight_N=full_N[train], rows=train,
                intercept=bool(self.fit_intercept), double=double, device=self.device,
            )  # fmt: skip
            scores = [
                self._score(problem, solution, self.classes_[classes], x_ND[test], self.classes_[label_N[test]],
                            None if by_sample is None else by_sample[test])
                for _, solution in problem.solve(list(self.Cs_), tol=self.tol, max_passes=self.max_iter, seed=seed)
            ]  # fmt: skip
            rows.append(scores)
        return np.array(rows)

    def _folds(
        self, x_ND: NDArray[Any], label_N: NDArray[np.int64], seed: int
    ) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(train, test) positions, train ascending."""
        if self.cv is None or isinstance(self.cv, int | np.integer):
            folds = DEFAULT_FOLDS if self.cv is None else int(self.cv)
            if folds < 2:
                raise UsageError(f"cv should be at least 2 folds, got {folds}")
            fold_N = deal_folds(label_N, folds, seed)
            if not len(numbers := np.unique(fold_N[fold_N != ALWAYS_TRAIN])):
                raise UsageError("no class has two samples, so that no C can be chosen by folds: give one C")
            for number in numbers:
                yield np.flatnonzero(fold_N != number), np.flatnonzero(fold_N == number)
            return
        from sklearn.model_selection import check_cv

        for train, test in check_cv(self.cv, label_N, classifier=True).split(x_ND, label_N):
            yield np.sort(np.arange(len(label_N))[train]), np.arange(len(label_N))[test]

    def _score(
        self,
        problem: Problem,
        solution: Solution,
        classes: NDArray[Any],
        x_ND: NDArray[Any],
        y_N: NDArray[Any],
        weight_N: NDArray[np.float64] | None,
    ) -> float:
        """Score of one solution, as a fitted estimator."""
        model = type(self)(solution.strength, random_state=0)
        model.classes_, model.n_features_in_ = classes, x_ND.shape[1]
        model.coef_, model.intercept_ = problem.coefficients(solution)
        weighting = {} if weight_N is None else {"sample_weight": weight_N}
        if self.scoring is None:
            return float(model.score(x_ND, y_N, **weighting))
        if isinstance(self.scoring, str):
            from sklearn.metrics import get_scorer

            return float(get_scorer(self.scoring)(model, x_ND, y_N, **weighting))
        return float(self.scoring(model, x_ND, y_N))

    def _warn(self, found: list[tuple[float, Solution]]) -> None:
        """Say what is not within the tolerance, in one line."""
        loose = [(c, solution) for c, solution in found if not solution.is_certified]
        if not loose:
            return
        c, worst = max(loose, key=lambda item: item[1].relative_gap)
        where = f"at C={c:g}" if len(found) == 1 else f"at {len(loose)} of {len(found)} values of C, most at C={c:g}"
        warnings.warn(
            f"the objective {where} is certified to a relative gap of {worst.relative_gap:.1e}, not to tol={self.tol:g}: "
            "standardise the features, raise max_iter, or take a smaller C",
            ConvergenceWarning,
            stacklevel=3,
        )


def _check_c(value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.number)
        or not value > 0
        or not isfinite(value)
    ):
        raise UsageError(f"C should be a finite number above 0, or a sequence of them, got {value!r}")
    return float(value)


def _check_weight(sample_weight: ArrayLike | None, n: int) -> NDArray[np.float64] | None:
    """(n,) float64 weights, or None."""
    if sample_weight is None:
        return None
    weight_N = np.asarray(sample_weight, np.float64)
    if weight_N.ndim == 0:
        weight_N = np.full(n, weight_N)
    if weight_N.shape != (n,):
        raise UsageError(f"expected sample_weight ({n},), got {weight_N.shape}")
    if not (np.isfinite(weight_N).all() and (weight_N >= 0).all()):
        raise UsageError("sample_weight should be finite and at least 0 everywhere")
    with np.errstate(over="ignore"):
        total = weight_N.sum()
    if not 0 < total < np.inf:
        what = "zero for every sample" if not weight_N.any() else "so large that its sum is infinite"
        raise UsageError(f"sample_weight is {what}: there is nothing to fit on")
    return weight_N


def _check_class_weight(class_weight: Any, y_N: NDArray[Any]) -> None:
    """Refuse what is neither "balanced" nor weights of classes that there are."""
    if isinstance(class_weight, Mapping):
        known = set(np.unique(y_N).tolist())
        if unknown := [name for name in class_weight if name not in known]:
            raise UsageError(f"class_weight names {unknown[0]!r}, which is no class of y")
        if not all(isfinite(value) and value >= 0 for value in class_weight.values()):
            raise UsageError(f"class_weight should be finite and at least 0, got {class_weight!r}")
    elif class_weight not in (None, "balanced"):
        raise UsageError(f"class_weight should be 'balanced', weights by class, or None, got {class_weight!r}")


def _drop(
    x_ND: NDArray[Any],
    weight_N: NDArray[np.float64],
    classes: NDArray[Any],
    label_N: NDArray[np.int64],
    keep: NDArray[np.bool_],
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[Any], NDArray[np.int64]]:
    """Samples that are kept, and the classes that these have."""
    present, label_N = np.unique(label_N[keep], return_inverse=True)
    return x_ND[keep], weight_N[keep], classes[present], label_N


def _check_size(x_ND: NDArray[Any]) -> bool:
    """Whether passes have to be in float64 however many samples there are.

    So they are where float32 could not hold the numbers as they are, since a certificate is for the numbers that were
    used, and where their squares come near its range.

    Raises:
        UsageError: squares of the numbers come near the range of float64.
    """
    largest = float(max(x_ND.max(), -x_ND.min()))
    if largest > _LARGEST:
        raise UsageError(f"X has values up to {largest:.1e}, and squares of them cannot be summed: scale them down")
    if x_ND.size <= SMALL_VALUES or largest > _LARGEST_SINGLE:
        return True
    if x_ND.dtype != np.float64:
        return False
    with np.errstate(under="ignore"):
        blocks = (x_ND[start : start + _ROWS_COMPARED] for start in range(0, len(x_ND), _ROWS_COMPARED))
        return not all(bool((block == block.astype(np.float32)).all()) for block in blocks)
