"""Logistic regression on more rows than one would hold as float32: memory, passes, and what the file costs.

    python -m tle.benchmarks.head_stream '{"what": "solve", "rows": 1000000, "threads": 2, "max_passes": 200}'

The features are synthetic, for size only: 1,000,000 x 768 of float16, 1,000 classes. A pass over them is two products,
4 n D K operations; efficiency is its rate to that of the best sgemm of this machine on as many threads.

# N rows, D feature dim, K classes
"""

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.benchmarks import report
from tle.benchmarks.contestants import ContestantError
from tle.benchmarks.head_races import run_module, say
from tle.benchmarks.registries import data_folder
from tle.cache.layout import Content
from tle.cache.reader import Cache, open_cache
from tle.cache.writer import CacheWriter
from tle.enums import Split, Target

DIM, CLASSES = 768, 1000
STRENGTH = 0.001  # lambda; validation chose 0.003 on 20,000 pictures in 10 classes
TOL = 1e-4
_SIGNAL = 0.12  # of the class means to the noise: classes overlap
_STEP = 8192
_SQUARE = 4096  # side of the product that measures the peak
_WATCH_S = 0.05


def build(path: Path, rows: int, dim: int = DIM, classes: int = CLASSES) -> None:
    """Write a cache of Gaussian classes whose features fall off in scale, as those of networks do."""
    rng = np.random.default_rng(0)
    means_KD = _SIGNAL * rng.standard_normal((classes, dim), np.float32)
    scale_D = (1.0 + np.arange(dim, dtype=np.float32)) ** np.float32(-0.25)
    labels_N = rng.integers(0, classes, rows)
    content = Content(
        ids=[f"{row:08}" for row in range(rows)],
        labels=labels_N,
        classes=[f"{number:05}" for number in range(classes)],
        splits=np.full(rows, Split.TRAIN, np.uint8),
        target=Target.CLASS,
        dim=dim,
        dtype="float16",
        spec={"backbone": {"name": "none"}, "preprocess": {}, "decoder": "none", "precision": "float32"},
        run={},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with CacheWriter.create(path, content) as writer:
        for start in range(0, rows, _STEP):
            at = np.arange(start, min(start + _STEP, rows))
            x_BD = means_KD[labels_N[at]] + rng.standard_normal((len(at), dim), np.float32)
            writer.write(at, x_BD * scale_D, np.ones(len(at), np.uint64))
        writer.finish(replace=True)


def cache_path(rows: int) -> Path:
    """Where the cache with so many rows is."""
    return data_folder() / "head-races" / f"stream-{rows}.h5"


def forget(path: Path) -> None:
    """Take a file out of the page cache; nobody may have it mapped."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sgemm_peak() -> float:
    """Operations per second of the best of a few square float32 products."""
    a, b = (np.random.default_rng(seed).standard_normal((_SQUARE, _SQUARE), np.float32) for seed in (0, 1))
    out = np.empty_like(a)
    return 2.0 * _SQUARE**3 / min(_timed(lambda: np.matmul(a, b, out=out)) for _ in range(5))


def measure_passes(path: Path, rounds: int) -> dict[str, Any]:
    """Seconds of a pass over the same rows in memory, in a file of the page cache, and in a file on the disk."""
    peak = sgemm_peak()
    seconds: dict[str, list[float]] = {"memory": [], "page cache": [], "disk": []}
    held = np.array(open_cache(path).features)  # float16
    for _ in range(rounds):
        seconds["memory"].append(_one_pass(open_cache(path), held))
        forget(path)
        seconds["disk"].append(_one_pass(cache := open_cache(path), cache.features))
        seconds["page cache"].append(_one_pass(cache, cache.features))
        del cache  # else the next round's `forget` would forget nothing
    flop = 4.0 * len(held) * held.shape[1] * CLASSES
    pairs = {
        name: statistics.median(a / b for a, b in zip(own, seconds["memory"], strict=True))
        for name, own in seconds.items()
    }
    return {
        "peak_gflops": peak / 1e9,
        "seconds": seconds,
        "times_memory": pairs,
        "efficiency": {name: flop / statistics.median(own) / peak for name, own in seconds.items()},
    }


def _one_pass(cache: Cache, features: NDArray[Any]) -> float:
    """Seconds of one evaluation at small random weights."""
    from tle.heads.exact.objective import evaluate

    design, targets = _problem(cache, features)
    weight = 0.01 * np.random.default_rng(0).standard_normal((1, targets.outputs, design.dim), np.float32)
    unsure_N = np.empty(len(design))
    return _timed(lambda: evaluate(design, targets, weight, np.zeros((1, targets.outputs)), unsure_N))


def measure_solve(path: Path, max_passes: int) -> dict[str, Any]:
    """One strength from nothing, with the rows in their file, and what of memory was anonymous."""
    from tle.heads.exact.path import solve_path

    cache, peak = open_cache(path), sgemm_peak()
    with watched_memory() as memory:
        started = time.perf_counter()
        design, targets = _problem(cache, cache.features)
        (found,) = solve_path(design, targets, [STRENGTH], tol=TOL, max_passes=max_passes)
        seconds = time.perf_counter() - started
    flop = found.passes * 4.0 * len(design) * design.dim * targets.outputs
    return {
        "peak_gflops": peak / 1e9,
        "seconds": seconds,
        "passes": found.passes,
        "objective": found.objective,
        "relative_gap": found.relative_gap,
        "is_certified": found.is_certified,
        "efficiency": flop / seconds / peak,
        "anonymous_mib": memory["RssAnon"],
        "mapped_mib": memory["RssFile"],
    }


def _problem(cache: Cache, features: NDArray[Any]) -> tuple[Any, Any]:
    """The design over rows as they are stored, and its targets."""
    from tle.heads.exact.design import Design
    from tle.heads.exact.objective import Targets

    n = len(features)
    design = Design(features, None, None, None, np.dtype(np.float32))
    return design, Targets(np.array(cache.labels, np.int64), np.full(n, 1 / n), CLASSES)


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def watched_memory() -> Iterator[dict[str, float]]:
    """Fills in the most MiB of `RssAnon` and `RssFile` that /proc showed; zeros where there is none."""
    most = {"RssAnon": 0.0, "RssFile": 0.0}
    ended, status = threading.Event(), Path("/proc/self/status")

    def watch() -> None:
        while status.is_file():
            for line in status.read_text(encoding="utf-8").splitlines():
                name, _, rest = line.partition(":")
                if name in most:
                    most[name] = max(most[name], int(rest.split()[0]) / 2**10)
            if ended.wait(_WATCH_S):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        ended.set()
        watcher.join()


def child(what: str, rows: int, threads: int, **settings: int) -> dict[str, Any]:
    """Measure in a process of its own.

    Raises:
        ContestantError: it ended with an error.
    """
    job = {"what": what, "rows": rows, "threads": threads, **settings}
    done = run_module("head_stream", json.dumps(job), threads)
    if done.status:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ContestantError(f"{what} of {rows:,} rows ended with status {done.status}: {said[0]}")
    return dict(json.loads(done.stdout.splitlines()[-1])) | {"peak_mib": done.peak_mib}


def race(rows: int, threads: int, rounds: int, max_passes: int) -> dict[str, Any]:
    """Passes and a solve, on so many rows.

    Raises:
        ContestantError: a child ended with an error.
    """
    if not cache_path(rows).is_file():
        child("build", rows, threads)
    say(f"stream: {rows:,} rows, {threads} threads: passes")
    passes = child("passes", rows, threads, rounds=rounds)
    say(f"stream: {rows:,} rows, {threads} threads: solve")
    solve = child("solve", rows, threads, max_passes=max_passes)
    return {"rows": rows, "threads": threads, "max_passes": max_passes, "passes": passes, "solve": solve}


def describe(found: dict[str, Any]) -> str:
    """The tables of `race`."""
    passes, solve = found["passes"], found["solve"]
    rows = [
        (name, report.spread(own, 2), f"{passes['times_memory'][name]:.3f}", f"{passes['efficiency'][name]:.0%}")
        for name, own in passes["seconds"].items()
    ]
    end = f"certified to {solve['relative_gap']:.1e}" + ("" if solve["is_certified"] else ", NOT what was asked for")
    return "\n\n".join(
        [
            f"{found['rows']:,} x {DIM} float16, {CLASSES:,} classes, {found['threads']} threads, sgemm peak "
            f"{passes['peak_gflops']:.0f} GFLOP/s",
            report.table(("a pass over rows in", "seconds: median [least, most]", "times memory", "of peak"), rows),
            f"one strength (lambda {STRENGTH}, tolerance {TOL:g}, at most {found['max_passes']} passes), rows in their "
            f"file: {solve['seconds']:.1f} s, {solve['passes']} passes, {end}, {solve['efficiency']:.0%} of peak; peak "
            f"resident {solve['peak_mib']:.0f} MiB (anonymous {solve['anonymous_mib']:.0f}, of files "
            f"{solve['mapped_mib']:.0f})",
        ]
    )


def main() -> int:
    """Do the job of the command line; prints JSON."""
    job = json.loads(sys.argv[1])
    path = cache_path(job["rows"])
    if job["what"] == "build":
        build(path, job["rows"])
        print(json.dumps({"path": str(path)}))
        return 0
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch.set_num_threads(job["threads"])
    with threadpool_limits(job["threads"]):
        found = (
            measure_passes(path, job["rounds"]) if job["what"] == "passes" else measure_solve(path, job["max_passes"])
        )
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
