"""Who fits logistic regression in the races of heads; one contestant, one job, one process.

    python -m tle.benchmarks.head_contestants '{"contestant": "scikit-learn lbfgs", "cache": "fashion.h5", "val": "val",
        "cs": [0.01], "threads": 1}'

Prints a line of JSON for every value of C as soon as it is fitted, then one that says it is done. The clock runs from
the float32 features in memory to the coefficients: imports, reading, a first fit of a toy problem and the judging are
left out. The objective is judged here, in float64, the same for all and with nothing of the solver's.

# N rows, D feature dim, K classes
"""

import importlib
import json
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.benchmarks.head_problems import read

TLE, ESTIMATOR, REFERENCE = "tle", "tle LogisticPath", "tle reference"
COLD, WARM = "scikit-learn cold", "scikit-learn warm_start"
LBFGS, TORCH, INTELEX = "scikit-learn lbfgs", "torch LBFGS", "scikit-learn-intelex lbfgs"
NEWTON_CG, NEWTON_CHOLESKY = "scikit-learn newton-cg", "scikit-learn newton-cholesky"
# Of the reference: far below what is claimed, and as long as it takes.
REFERENCE_TOL, REFERENCE_PASSES = 1e-6, 30_000
# A dense Hessian above this is not tried.
_HESSIAN_BYTES = 4 * 2**30
_BLOCK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """What one contestant is to fit.

    Attributes:
        contestant: one of `CONTESTANTS`.
        cache: file with the features.
        val: its split that validates; "train" is fitted.
        cs: values of C, ascending.
        threads: of BLAS, OpenMP and torch.
        tol: tolerance, as the contestant understands it.
        max_iter: iterations (passes for tle) a value may take.
        limit_s: seconds of fitting after which the process is ended.
        device: cpu, or cuda for tle's solver and torch.
    """

    contestant: str
    cache: str
    val: str
    cs: Sequence[float]
    threads: int = 1
    tol: float = 1e-4
    max_iter: int = 1000
    limit_s: int = 600
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """One value of C, fitted: float (K, D) and (K,), and what the contestant says of it."""

    c: float
    weight_KD: NDArray[Any]
    bias_K: NDArray[Any]
    iterations: float
    gap: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One line of a child: a value of C, judged.

    Attributes:
        c: C.
        seconds: since the value before it; those that come together share theirs.
        cpu_s: of all threads in that time: much less than `seconds` x threads tells of a crowded machine.
        objective: float64, mean loss + |W|^2 / (2 C N).
        accuracy: on the rows that validate.
        iterations: of the solver, or passes.
        gap: what the contestant claims to be above the optimum at most, if it does.
        warnings: what it warned of, such as not having converged.
    """

    c: float
    seconds: float
    cpu_s: float
    objective: float
    accuracy: float
    iterations: float
    gap: float | None = None
    warnings: list[str] = field(default_factory=list)


class CannotFitError(Exception):
    """A contestant that is not here, or for which the problem is too large."""


Fit = Callable[[NDArray[np.float32], NDArray[np.int64], FitJob], Iterator[Fitted]]


def objective(
    x_ND: NDArray[Any], y_N: NDArray[np.int64], weight_KD: NDArray[Any], bias_K: NDArray[Any], c: float
) -> float:
    """What everybody minimises, in float64: mean cross-entropy + |W|^2 / (2 C N), as scikit-learn's C means it.

    Losses far below 1 keep their digits: log(sum_k exp(z_k - z_y)) is summed up by `logaddexp`.
    """
    weight, total = weight_KD.astype(np.float64), 0.0
    for start in range(0, len(x_ND), _BLOCK):
        z_BK = x_ND[start : start + _BLOCK].astype(np.float64) @ weight.T + bias_K
        z_BK -= np.take_along_axis(z_BK, y_N[start : start + _BLOCK, None], axis=1)
        total += float(np.logaddexp.reduce(z_BK, axis=1).sum())
    return total / len(x_ND) + float(np.square(weight).sum()) / (2 * c * len(x_ND))


def _tle(x_ND: NDArray[np.float32], y_N: NDArray[np.int64], job: FitJob) -> Iterator[Fitted]:
    return _solve(x_ND, y_N, job, tol=job.tol)


def _tle_reference(x_ND: NDArray[np.float32], y_N: NDArray[np.int64], job: FitJob) -> Iterator[Fitted]:
    return _solve(x_ND, y_N, job, double=True, tol=REFERENCE_TOL, max_passes=REFERENCE_PASSES)


def _solve(
    x_ND: NDArray[np.float32], y_N: NDArray[np.int64], job: FitJob, *, double: bool = False, **settings: Any
) -> Iterator[Fitted]:
    """As the head does it: with as many threads as its products are worth."""
    from tle.heads.exact.problem import make_problem

    problem = make_problem(x_ND, y_N, int(y_N.max()) + 1, double=double, device=job.device)
    for c, found in problem.solve(job.cs, **settings):
        weight_KD, bias_K = problem.coefficients(found)
        yield Fitted(c=c, weight_KD=weight_KD, bias_K=bias_K, iterations=found.passes, gap=found.gap)


def _tle_estimator(x_ND: NDArray[np.float32], y_N: NDArray[np.int64], job: FitJob) -> Iterator[Fitted]:
    """One value of C, through the estimator: what it adds to the solver is to be seen."""
    path = importlib.import_module("tle.heads.logistic_path")
    for c in job.cs:
        model = path.LogisticPath(C=c, tol=job.tol).fit(x_ND, y_N)
        gap = float(np.ravel(model.gaps_)[0])
        passes = float(np.ravel(model.n_iter_).max())
        yield Fitted(c=c, weight_KD=model.coef_, bias_K=model.intercept_, iterations=passes, gap=gap)


def _scikit_learn(solver: str, module: str = "sklearn.linear_model") -> Fit:
    def fit(x_ND: NDArray[np.float32], y_N: NDArray[np.int64], job: FitJob) -> Iterator[Fitted]:
        unknowns = (int(y_N.max()) + 1) * (x_ND.shape[1] + 1)
        if solver == "newton-cholesky" and unknowns**2 * x_ND.itemsize > _HESSIAN_BYTES:
            size = unknowns**2 * x_ND.itemsize / 2**30
            raise CannotFitError(f"its Hessian of {unknowns:,} unknowns would take {size:,.0f} GiB")
        regression = importlib.import_module(module).LogisticRegression
        for c in job.cs:
            model = regression(C=c, solver=solver, tol=job.tol, max_iter=job.max_iter).fit(x_ND, y_N)
            yield _of_scikit_learn(model, c)

    return fit


def _warm_start(x_ND: NDArray[np.float32], y_N: NDArray[np.int64], job: FitJob) -> Iterator[Fitted]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(tol=job.tol, max_iter=job.max_iter, warm_start=True)
    for c in job.cs:
        yield _of_scikit_learn(model.set_params(C=c).fit(x_ND, y_N), c)


def _of_scikit_learn(model: Any, c: float) -> Fitted:
    passes = float(np.max(model.n_iter_))
    return Fitted(c=c, weight_KD=model.coef_.copy(), bias_K=model.intercept_.copy(), iterations=passes)


def _torch(x_ND: NDArray[np.float32], y_N: NDArray[np.int64], job: FitJob) -> Iterator[Fitted]:
    """As evaluators write it: one full batch, strong Wolfe line search, its own tolerances."""
    import torch

    x, y = torch.from_numpy(x_ND).to(job.device), torch.from_numpy(y_N).to(job.device)
    for c in job.cs:
        layer = torch.nn.Linear(x.shape[1], int(y_N.max()) + 1, device=job.device)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=job.max_iter, line_search_fn="strong_wolfe")
        strength = 1 / (c * len(y_N))

        def closure(layer: Any = layer, optimiser: Any = optimiser, strength: float = strength) -> Any:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(layer(x), y) + strength / 2 * layer.weight.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        passes = float(optimiser.state[next(iter(layer.parameters()))]["func_evals"])
        weight, bias = (parameter.detach().cpu().numpy() for parameter in (layer.weight, layer.bias))
        yield Fitted(c=c, weight_KD=weight, bias_K=bias, iterations=passes)


CONTESTANTS: dict[str, Fit] = {
    TLE: _tle,
    ESTIMATOR: _tle_estimator,
    REFERENCE: _tle_reference,
    LBFGS: _scikit_learn("lbfgs"),
    NEWTON_CG: _scikit_learn("newton-cg"),
    NEWTON_CHOLESKY: _scikit_learn("newton-cholesky"),
    INTELEX: _scikit_learn("lbfgs", "sklearnex.linear_model"),
    TORCH: _torch,
    COLD: _scikit_learn("lbfgs"),
    WARM: _warm_start,
}


def values(job: FitJob, ready: Callable[[], object] = lambda: None) -> Iterator[Value]:
    """Fit and judge; in this process, with its threads as they are.

    Args:
        job: who and what.
        ready: called when all is loaded and the fitting begins.

    Yields:
        A value of C each, in the order in which the contestant has them.

    Raises:
        CannotFitError: the contestant cannot run here.
    """
    problem = read(job.contestant, Path(job.cache), val=job.val)
    fit = CONTESTANTS[job.contestant]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            list(fit(*_toy(job.device), FitJob(**(asdict(job) | {"cs": [1.0]}))))
        except ImportError as error:
            raise CannotFitError(f"not installed ({error})") from error
    ready()
    steps = fit(problem.x_ND, problem.y_N, job)
    waiting: list[Fitted] = []
    said: list[str] = []
    seconds = cpu_s = 0.0
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            started, started_cpu = time.perf_counter(), time.process_time()
            found = next(steps, None)
            taken, taken_cpu = time.perf_counter() - started, time.process_time() - started_cpu
        if waiting and (found is None or taken > 1e-4):  # those that came with it took no time of their own
            for one in waiting:
                yield _judge(problem, one, (seconds / len(waiting), cpu_s / len(waiting)), said)
            waiting, seconds, cpu_s = [], 0.0, 0.0
        if found is None:
            return
        said = sorted({str(warning.message).splitlines()[0] for warning in caught})
        waiting.append(found)
        seconds += taken
        cpu_s += taken_cpu


def _judge(problem: Any, found: Fitted, taken: tuple[float, float], said: list[str]) -> Value:
    z_VK = problem.x_val.astype(np.float64) @ found.weight_KD.T + found.bias_K
    return Value(
        c=found.c,
        seconds=taken[0],
        cpu_s=taken[1],
        objective=objective(problem.x_ND, problem.y_N, found.weight_KD, found.bias_K, found.c),
        accuracy=float((z_VK.argmax(axis=1) == problem.y_val).mean()),
        iterations=found.iterations,
        gap=found.gap,
        warnings=said,
    )


def _toy(device: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random rows; for another device more than those with which tle stays where it is."""
    rng = np.random.default_rng(0)
    n, dim = (96, 8) if device == "cpu" else (4800, 1024)
    return rng.standard_normal((n, dim), np.float32), np.arange(n) % 3


def main() -> int:
    """Do the job of the command line, with its threads and its limit."""
    job = FitJob(**json.loads(sys.argv[1]))
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if job.contestant in (TORCH, TLE, ESTIMATOR, REFERENCE):  # torch's pool is its own
        import torch

        torch.set_num_threads(job.threads)
    with threadpool_limits(job.threads):
        try:
            for value in values(job, lambda: signal.alarm(job.limit_s)):
                print(json.dumps(asdict(value)), flush=True)
        except CannotFitError as error:
            print(json.dumps({"cannot": str(error)}), flush=True)
            return 0
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"done": True, "peak_mib": peak_kib / 2**10}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
