"""Heads without iterations: ridge with leave-one-out against scikit-learn, nearest neighbours against it and faiss.

    python -m tle.benchmarks.closed_form
    python -m tle.benchmarks.closed_form --rounds 5 --save

    ridge   raw features to a fitted layer whose alpha was chosen by exact leave-one-out among 50, set-up included, against
            `RidgeClassifierCV`; both without a scaler, so that they solve the same problem
    knn     the 20 nearest of a bank by cosine, set-up of each one's index included, against `NearestNeighbors(metric=
            "cosine", algorithm="brute")` and faiss's `IndexFlatIP`; all on unit rows

Features are those of `tle.benchmarks.head_problems`. A bank larger than the problem is filled up with means of two real
rows of it. Rounds alternate, medians count; a ratio is the median of the rounds' own. What each one found is compared in
the same run.

# n rows, N bank rows, Q queries, D feature dim, K neighbours
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.benchmarks import head_problems, report
from tle.enums import Target
from tle.heads.params import Params
from tle.heads.samples import Samples, Task

ALPHAS = tuple(np.logspace(-2, 7, 50).tolist())
NEIGHBOURS = 20
# Set by hand on some machines to help a BLAS of old; nobody's users have them.
_NOT_WANTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

Row = tuple[str, str, str, str]
HEADER = ("what", "cores", "seconds: median [least, most]", "times tle's")


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Every BLAS, OpenMP, torch and faiss with so many threads."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def alternate(
    contestants: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each contestant in each round, A B A B, and what each gave last."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, work in contestants.items():
            started = time.perf_counter()
            results[name] = work()
            seconds[name].append(time.perf_counter() - started)
    return seconds, results


def rows_of(what: str, cores: int, seconds: Mapping[str, list[float]]) -> list[Row]:
    """Rows of a table; ratios are to the first contestant, round by round."""
    first = next(iter(seconds.values()))
    return [
        (
            f"{what}: {name}",
            str(cores),
            report.spread(taken, 3),
            "" if taken is first else f"{statistics.median(a / b for a, b in zip(taken, first, strict=True)):.2f}",
        )
        for name, taken in seconds.items()
    ]


def race_ridge(
    x_ND: NDArray[np.floating[Any]], y_N: NDArray[np.int64], *, cores: int, rounds: int
) -> tuple[list[Row], dict[str, Any]]:
    """Ridge with leave-one-out over 50 alphas.

    Args:
        x_ND: (n, D) float32 or float16 features.
        y_N: (n,) classes.
        cores: threads of all.
        rounds: paired rounds.

    Returns:
        Rows of the table; and a record: alphas, share of training rows on which both decide alike, largest relative
        difference of the least leave-one-out error.
    """
    from sklearn.linear_model import RidgeClassifierCV

    from tle.heads import ridge

    n_classes = int(y_N.max()) + 1
    train = Samples(x_ND, np.arange(len(x_ND)), y_N)
    task = Task(train, Samples(x_ND, np.arange(0), y_N[:0]), Target.CLASS, tuple(map(str, range(n_classes))), 0)
    params = Params("ridge", {"alpha": list(ALPHAS), "scaler": "none"})

    def tle() -> Any:
        return ridge.refit(task, params, train, ridge.default_settings(params), (), len(train))

    def scikit_learn() -> Any:
        return RidgeClassifierCV(alphas=ALPHAS).fit(x_ND.astype(np.float64), y_N)

    with on_threads(cores):
        seconds, found = alternate({"tle": tle, "RidgeClassifierCV": scikit_learn}, rounds)
        theirs, ours = found["RidgeClassifierCV"], found["tle"]
        alike = (
            ours.model.scores(x_ND.astype(np.float32)).argmax(axis=1) == theirs.predict(x_ND.astype(np.float64))
        ).mean()
    # Theirs are targets of -1 and 1: errors are doubled, squares quadrupled.
    least = min(point["mse"] for point in ours.details["loo"])
    record = {
        "alpha": ours.details["alpha"],
        "alpha of RidgeClassifierCV": float(theirs.alpha_),
        "same decision": float(alike),
        "relative difference of the least error": abs(4 * least / -theirs.best_score_ - 1),
        "seconds": seconds,
    }
    what = f"ridge, {len(x_ND):,} x {x_ND.shape[1]:,}, {n_classes} classes, {len(ALPHAS)} alphas"
    return rows_of(what, cores, seconds), record


def race_knn(
    bank_ND: NDArray[np.float32], query_QD: NDArray[np.float32], *, cores: int, rounds: int
) -> tuple[list[Row], dict[str, Any]]:
    """The nearest neighbours of each query; faiss takes part where it is installed.

    Args:
        bank_ND: (N, D) rows of unit length.
        query_QD: (Q, D) likewise.
        cores: threads of all.
        rounds: paired rounds.

    Returns:
        Rows of the table; and a record: queries a second, and for each one the share of queries with the very neighbours
        that float64 gives, and the most similarity that it misses of theirs.
    """
    from sklearn.neighbors import NearestNeighbors

    from tle.kernels.topk import topk_similarity

    def tle() -> Any:
        return topk_similarity(query_QD, bank_ND, NEIGHBOURS)[1]

    def scikit_learn() -> Any:
        index = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute", metric="cosine").fit(bank_ND)
        return index.kneighbors(query_QD, return_distance=False)

    contestants = {"tle": tle, "NearestNeighbors": scikit_learn}
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        def flat() -> Any:
            faiss.omp_set_num_threads(cores)
            index = faiss.IndexFlatIP(bank_ND.shape[1])
            index.add(bank_ND)
            return index.search(query_QD, NEIGHBOURS)[1]

        contestants["faiss flat"] = flat
    with on_threads(cores):
        for work in contestants.values():
            work()  # the first call of each loads its library
        seconds, found = alternate(contestants, rounds)
        agreement = {name: _agreement(bank_ND, query_QD, indices) for name, indices in found.items()}
    record = {
        "queries a second": {name: len(query_QD) / statistics.median(taken) for name, taken in seconds.items()},
        "agreement with float64": agreement,
        "seconds": seconds,
    }
    what = f"knn, {len(query_QD):,} queries, {len(bank_ND):,} x {bank_ND.shape[1]:,}, k = {NEIGHBOURS}"
    return rows_of(what, cores, seconds), record


def _agreement(
    bank_ND: NDArray[np.float32], query_QD: NDArray[np.float32], found_QK: NDArray[np.int64]
) -> dict[str, float]:
    """Share of the first 500 queries whose neighbours are those of float64, and the most similarity that is missed."""
    bank_ND, query_QD, found_QK = bank_ND.astype(np.float64), query_QD[:500].astype(np.float64), found_QK[:500]
    sims_QN = query_QD @ bank_ND.T
    exact_QK = np.argsort(-sims_QN, axis=1, kind="stable")[:, : found_QK.shape[1]]
    same_Q = (np.sort(exact_QK, axis=1) == np.sort(found_QK, axis=1)).all(axis=1)
    least_Q = np.take_along_axis(sims_QN, exact_QK, axis=1).min(axis=1)
    missed_Q = least_Q - np.take_along_axis(sims_QN, found_QK, axis=1).min(axis=1)
    return {"same neighbours": float(same_Q.mean()), "similarity missed": float(missed_Q.max())}


def make_bank(x_ND: NDArray[np.float32], rows: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit rows: the real ones, and, where more are asked for, means of two of them."""
    from tle.heads.knn import normalise

    rng = np.random.default_rng(seed)
    more = max(0, rows - len(x_ND))
    mixed_ND = (x_ND[rng.integers(0, len(x_ND), more)] + x_ND[rng.integers(0, len(x_ND), more)]) / 2
    return normalise(np.concatenate([x_ND[:rows], mixed_ND]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--race", choices=("ridge", "knn"), help="only this one (default: both)")
    parser.add_argument(
        "--problem", default="fashion", help="features of tle.benchmarks.head_problems (default: fashion)"
    )
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the ridge (default: 20,000)")
    parser.add_argument("--bank", type=int, nargs="+", default=[20_000, 50_000], help="rows of the banks")
    parser.add_argument("--queries", type=int, default=5_000, help="queries (default: 5,000)")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="paired rounds (default: 3)")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/DATE_HARDWARE_closed_form.json and .md"
    )
    return parser


def main() -> int:
    """Run the races, print their table, save it on request."""
    options = _parser().parse_args()
    if set_by_hand := [name for name in _NOT_WANTED if name in os.environ]:
        print(f"unset {' and '.join(set_by_hand)}: users do not have them", file=sys.stderr)
        return 2
    hardware = report.machine()
    problem = head_problems.load(options.problem)
    rows: list[Row] = []
    records: list[dict[str, Any]] = []
    for cores in options.cores:
        if options.race != "knn":
            done, record = race_ridge(
                problem.x_ND[: options.rows], problem.y_N[: options.rows], cores=cores, rounds=options.rounds
            )
            rows += done
            records.append({"race": "ridge", "cores": cores, **record})
        for size in options.bank if options.race != "ridge" else ():
            bank_ND, query_QD = make_bank(problem.x_ND, size), make_bank(problem.x_val, options.queries, seed=1)
            done, record = race_knn(bank_ND, query_QD, cores=cores, rounds=options.rounds)
            rows += done
            records.append({"race": "knn", "bank": size, "cores": cores, **record})
    text = report.table(HEADER, rows)
    facts = [
        f"- {', '.join(f'{name}: {value}' for name, value in each.items() if name != 'seconds')}" for each in records
    ]
    text = "\n".join([text, "", *facts])
    print(text)
    if options.save:
        found = report.versions() | _more_versions()
        record = {
            "command": " ".join(["python -m tle.benchmarks.closed_form", *sys.argv[1:]]),
            "machine": hardware,
            "versions": found,
            "rows": rows,
            "records": records,
        }
        path = report.default_path("closed_form", hardware, Path("benchmarks/results"))
        report.save(path, record, text)
        print(path)
    return 0


def _more_versions() -> dict[str, str]:
    """Of the opponents."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("scikit-learn", "scipy", "faiss-cpu"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
