"""Generated problems through `tle.heads.LogisticPath` and scikit-learn: same optimum, true certificates, no NaN.

    python -m tle.benchmarks.fuzz_heads [--problems 10000] [--seed 0] [--processes 2]

# n samples, D feature dim, K rows of coefficients

Problems are small and nasty: more features than samples, duplicate samples, constant columns, columns of 1e-6 to 1e6, far
from 0, weights of zero, classes of one sample, separable ones, of any float type, with and without intercept. The
objective is written down here once more, in extended precision, and decides:

    better      f <= f_ref + gap + 1e-9 f_ref       f, f_ref: ours and scikit-learn's; gap: what we claim at most
    certified   f - gap <= f_ref + 1e-12 f_ref      a lower bound above any value is a wrong certificate
    same W      |W - W_ref| <= sqrt(2 gap / lambda) + sqrt(2 (f_ref - f + gap) / lambda), by strong convexity

What cannot be solved (one class) has to be refused in one line. The exit status is 1 if anything else happened.
"""

import argparse
import collections
import multiprocessing
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from tle.heads.exact.design import Design
from tle.heads.exact.objective import Targets
from tle.heads.exact.problem import Problem
from tle.heads.logistic_path import LogisticPath
from tle.heads.samples import MANY_CLASSES_WARNING

KINDS = (
    "plain",
    "wide",
    "scales",
    "duplicates",
    "constant",
    "separable",
    "counts",
    "far",
    "many",
    "large",
    "tall",
    "single",
)
_BETTER, _CERTIFIED, _ROUNDING = 1e-9, 1e-12, 1e-13
_CHUNK = 20


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One problem.

    Attributes:
        kind: how it was made.
        x_ND: features.
        y_N: labels.
        weight_N: sample weights; None for 1.
        c_L: values of C.
        settings: of the estimator.
    """

    kind: str
    x_ND: NDArray[Any]
    y_N: NDArray[np.int64]
    weight_N: NDArray[np.float64] | None
    c_L: list[float]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one problem.

    Attributes:
        number: which.
        kind: how it was made.
        name: "agrees", "refused", or what is wrong.
        what: details of that.
        gap: largest relative gap that was claimed.
        excess: largest relative excess over scikit-learn; negative where it is worse.
        loose: whether a gap was above the tolerance, and that was said.
    """

    number: int
    kind: str
    name: str
    what: str = ""
    gap: float = 0.0
    excess: float = 0.0
    loose: bool = False

    @property
    def bad(self) -> bool:
        """Whether it may not happen."""
        return self.name not in ("agrees", "refused")


def make_case(number: int, seed: int) -> Case:
    """A problem, always the same for a number and a seed."""
    rng = np.random.default_rng([seed, number])
    kind = str(rng.choice(KINDS, p=[0.14, 0.14, 0.14, 0.1, 0.1, 0.1, 0.1, 0.06, 0.03, 0.02, 0.01, 0.06]))
    n, dim, classes = int(rng.integers(2, 40)), int(rng.integers(1, 12)), int(rng.integers(2, 6))
    if kind == "wide":
        n, dim = int(rng.integers(2, 15)), int(rng.integers(10, 80))
    elif kind == "many":
        n, classes = int(rng.integers(60, 120)), int(rng.integers(10, 60))
    elif kind == "large":
        n, dim, classes = int(rng.integers(150, 400)), int(rng.integers(30, 70)), int(rng.integers(6, 12))
    elif kind == "tall":
        n, dim = int(rng.integers(2000, 3000)), int(rng.integers(1, 8))
    x_ND = rng.normal(size=(n, dim))
    signal = x_ND @ rng.normal(size=(dim, classes)) * 10 ** rng.uniform(-1, 1) + rng.gumbel(size=(n, classes))
    y_N = signal.argmax(axis=1) if rng.random() < 0.7 else rng.integers(0, classes, n)
    if rng.random() < 0.1:  # all of one class but for one sample
        y_N = np.zeros(n, np.int64)
        y_N[rng.integers(n)] = 1
    if kind == "scales":
        x_ND *= 10 ** rng.uniform(-6, 6, dim)
    elif kind == "duplicates":
        rows = rng.integers(0, max(1, n // 3), n)
        x_ND = x_ND[rows]
        y_N = y_N[rows] if rng.random() < 0.5 else y_N
    elif kind == "constant":
        x_ND[:, rng.random(dim) < 0.5] = rng.choice([0.0, 1.0, -7.5, 1e4])
    elif kind == "separable":
        x_ND += 20 * rng.normal(size=(classes, dim))[y_N]
    elif kind == "counts":
        x_ND = rng.poisson(0.7, (n, dim)).astype(np.float64)
    elif kind == "far":
        x_ND += 10 ** rng.uniform(0, 5)
    types: dict[str, list[Any]] = {
        "single": [np.float32],
        "scales": [np.float64, np.float32],
        "far": [np.float64, np.float32],
    }
    x_ND = x_ND.astype(rng.choice(np.array(types.get(kind, [np.float64, np.float32, np.float16]))))
    weight_N = None
    if rng.random() < 0.5:
        weight_N = rng.integers(0, 3, n).astype(float) if rng.random() < 0.5 else rng.exponential(size=n)
        weight_N[rng.random(n) < 0.2] = 0.0
        weight_N *= 10 ** rng.uniform(-2, 2)
    c_L = (10 ** rng.uniform(-6, 5, int(rng.choice([1, 1, 1, 2, 6])))).tolist()
    settings: dict[str, Any] = {"fit_intercept": bool(rng.random() < 0.8)}
    if rng.random() < 0.2:
        settings["class_weight"] = "balanced" if rng.random() < 0.5 else {int(y_N[0]): float(rng.uniform(0.1, 5))}
    return Case(kind, x_ND, y_N.astype(np.int64), weight_N, c_L, settings)


def check_case(number: int, seed: int) -> Outcome:
    """Make one problem, solve it, and compare it."""
    return judge(make_case(number, seed), number)


def judge(case: Case, number: int = 0) -> Outcome:
    """Solve a problem and compare it with scikit-learn and with what is claimed of it."""
    keep = np.ones(len(case.y_N), bool) if case.weight_N is None else case.weight_N > 0
    solvable = len(np.unique(case.y_N[keep])) > 1
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", message=MANY_CLASSES_WARNING)
            found = _solve_single(case, keep) if case.kind == "single" and solvable else _solve(case)
    except ValueError as error:
        lines = str(error).splitlines()
        if solvable or len(lines) != 1:
            return Outcome(number, case.kind, "refused wrongly", f"{type(error).__name__}: {error}")
        return Outcome(number, case.kind, "refused")
    except Exception as error:  # noqa: BLE001 - to be reported, whatever it is
        return Outcome(number, case.kind, "exception", f"{type(error).__name__}: {error}")
    if strange := [str(w.message) for w in caught if not issubclass(w.category, ConvergenceWarning)]:
        return Outcome(number, case.kind, "warning", strange[0])
    if not solvable:
        return Outcome(number, case.kind, "not refused")
    return _compare(number, case, keep, found, bool(caught))


Layer = tuple[
    float, NDArray[np.float64], NDArray[np.float64], float, float
]  # C, coefficients, intercepts, objective, gap


def _solve(case: Case) -> list[Layer]:
    model = LogisticPath(case.c_L[0] if len(case.c_L) == 1 else case.c_L, cv=2, **case.settings)
    try:
        model.fit(case.x_ND, case.y_N, case.weight_N)
    except ValueError as error:
        if "no class has two samples" not in str(error):
            raise
        return [
            layer
            for c in case.c_L
            for layer in _solve(Case(case.kind, case.x_ND, case.y_N, case.weight_N, [c], case.settings))
        ]
    p_NK = model.predict_proba(case.x_ND)
    if not (np.isfinite(p_NK).all() and np.allclose(p_NK.sum(axis=1), 1.0)):
        raise ArithmeticError("probabilities that are not finite or do not sum to 1")
    return list(
        zip(
            model.Cs_.tolist(),
            model.coefs_,
            model.intercepts_,
            model.objectives_.tolist(),
            model.gaps_.tolist(),
            strict=True,
        )
    )


def _solve_single(case: Case, keep: NDArray[np.bool_]) -> list[Layer]:
    """The same in float32, as for large problems, with and without its last steps in float64."""
    classes, label_N = np.unique(case.y_N[keep], return_inverse=True)
    weight_N = _weights(case, keep)
    design = Design(case.x_ND[keep], None, None, None, np.dtype(np.float32))
    targets = Targets(label_N.astype(np.int64), weight_N / weight_N.sum(), len(classes))
    problem = Problem(design, targets, float(weight_N.sum()), case.settings["fit_intercept"])
    stream = problem.solve(case.c_L, tol=1e-4 if len(case.c_L) > 1 else 1e-7, tiny=0)
    return [(c, *problem.coefficients(s), s.objective, s.gap) for c, s in stream]


def _weights(case: Case, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sample times class weights of the samples that are kept."""
    own_N = np.ones(int(keep.sum())) if case.weight_N is None else case.weight_N[keep]
    y_N, given = case.y_N[keep], case.settings.get("class_weight")
    if given == "balanced":
        total = np.bincount(y_N, own_N)
        return np.asarray(own_N * own_N.sum() / (np.count_nonzero(total) * total[y_N]))
    return own_N if given is None else np.asarray(own_N * np.array([given.get(int(y), 1.0) for y in y_N]))


def plain_objective(
    x_ND: NDArray[np.float64], label_N: NDArray[np.int64], share_N: NDArray[np.float64], coef_KD: NDArray[np.float64],
    bias_K: NDArray[np.float64], strength: float,
) -> np.longdouble:  # fmt: skip
    """The objective as it is written down, in extended precision; one row of coefficients is the logit of class 1."""
    x, share, coef, bias = (np.asarray(array, np.longdouble) for array in (x_ND, share_N, coef_KD, bias_K))
    logits_NK = x @ coef.T + bias
    if len(coef_KD) == 1:
        losses_N = np.logaddexp(np.longdouble(0), (1 - 2 * label_N) * logits_NK[:, 0])
    else:
        d_NK = logits_NK - logits_NK[np.arange(len(label_N)), label_N][:, None]
        losses_N = np.logaddexp.reduce(d_NK, axis=1)
        others_NK = np.where(np.arange(d_NK.shape[1]) == label_N[:, None], -np.inf, d_NK)
        small = others_NK.max(axis=1) < 0  # log of nearly 1: keep what it is above 1
        losses_N[small] = np.log1p(np.exp(others_NK[small]).sum(axis=1))
    return np.longdouble(share @ losses_N + np.longdouble(strength) / 2 * np.square(coef).sum())


def _compare(number: int, case: Case, keep: NDArray[np.bool_], found: list[Layer], loose: bool) -> Outcome:
    x_ND = case.x_ND[keep].astype(np.float64)
    _, label_N = np.unique(case.y_N[keep], return_inverse=True)
    weight_N = _weights(case, keep)
    share_N = weight_N / weight_N.sum()
    largest_gap, largest_excess = 0.0, -np.inf
    for c, coef_KD, bias_K, objective, gap in found:
        if not all(np.isfinite(part).all() for part in (coef_KD, bias_K, objective, gap)):
            return Outcome(number, case.kind, "not finite", f"C={c:g}")
        strength = 1.0 / (c * weight_N.sum())
        f = plain_objective(x_ND, label_N, share_N, coef_KD, bias_K, strength)
        if f > objective * (1 + 1e-9) or f < objective - gap - 1e-9 * objective:
            return Outcome(number, case.kind, "objective", f"C={c:g}: said {objective!r}, is {f!r}")
        reference = _reference(case, keep, x_ND, weight_N, c)
        f_ref = plain_objective(x_ND, label_N, share_N, *reference, strength)
        if not f <= f_ref + gap + _BETTER * f_ref:
            return Outcome(number, case.kind, "worse", f"C={c:g}: {f!r} against {f_ref!r}, gap {gap:.1e}")
        if not objective - gap <= f_ref * (1 + _CERTIFIED):
            return Outcome(number, case.kind, "certificate", f"C={c:g}: {objective!r} - {gap!r} is above {f_ref!r}")
        rounding = _ROUNDING * f_ref
        own, other = gap + rounding, max(f_ref - f, np.longdouble(0)) + gap + rounding
        reach = float(np.sqrt(2 * own / strength) + np.sqrt(2 * other / strength))
        if (distance := float(np.sqrt(np.square(coef_KD - reference[0]).sum()))) > reach:
            return Outcome(number, case.kind, "coefficients", f"C={c:g}: {distance:.2e} apart, at most {reach:.2e}")
        largest_gap, largest_excess = max(largest_gap, float(gap / f)), max(largest_excess, float((f - f_ref) / f_ref))
    return Outcome(number, case.kind, "agrees", gap=largest_gap, excess=largest_excess, loose=loose)


def _reference(
    case: Case, keep: NDArray[np.bool_], x_ND: NDArray[np.float64], weight_N: NDArray[np.float64], c: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scikit-learn's coefficients, centred, by the solver that is the more exact at this size."""
    solver = "newton-cholesky" if x_ND.shape[1] * len(np.unique(case.y_N[keep])) <= 300 else "lbfgs"
    model = LogisticRegression(
        C=c, tol=1e-10, max_iter=2000, solver=solver, fit_intercept=case.settings["fit_intercept"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x_ND, case.y_N[keep], sample_weight=weight_N)
    coef_KD, bias_K = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(coef_KD) > 1:
        coef_KD = coef_KD - coef_KD.mean(axis=0)
    return coef_KD, np.broadcast_to(bias_K, len(coef_KD))


def run(problems: int, seed: int, processes: int) -> Iterator[Outcome]:
    """Check so many problems, in their order."""
    check = partial(check_case, seed=seed)
    if processes == 1:
        yield from map(check, range(problems))
        return
    with multiprocessing.get_context("spawn").Pool(processes, _one_thread) as pool:
        yield from pool.imap(check, range(problems), _CHUNK)


def _one_thread() -> None:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the problems (default: 0)")
    parser.add_argument("--processes", type=int, default=2, help="how many at once (default: 2)")
    return parser


def main() -> int:
    """Check the problems, and print what became of them."""
    options = _parser().parse_args()
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    gaps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    excess = -np.inf
    for outcome in run(options.problems, options.seed, options.processes):
        name = "WRONG" if outcome.bad else outcome.name
        counts[outcome.kind, name] += 1
        counts[outcome.kind, "said loose"] += outcome.loose
        if outcome.bad:
            print(f"{options.seed} {outcome.number}: {outcome.kind}, {outcome.name}, {outcome.what}", flush=True)
        elif outcome.name == "agrees":
            gaps[outcome.kind].append(outcome.gap)
            excess = max(excess, outcome.excess)
    names = ("agrees", "refused", "WRONG", "said loose")
    print(f"{'':12}" + "".join(f"{name:>12}" for name in names) + f"{'median gap':>12}{'99 %':>10}{'largest':>10}")
    for kind in KINDS:
        own = gaps[kind] or [0.0]
        figures = f"{np.median(own):12.0e}{np.quantile(own, 0.99):10.0e}{max(own):10.0e}"
        print(f"{kind:12}" + "".join(f"{counts[kind, name]:12,}" for name in names) + figures)
    totals = [sum(counts[kind, name] for kind in KINDS) for name in names]
    print(f"{'all':12}" + "".join(f"{n:12,}" for n in totals))
    print(f"largest relative excess over scikit-learn: {excess:.1e}")
    return 1 if totals[2] else 0


if __name__ == "__main__":
    raise SystemExit(main())
