"""Races of heads: contestants in processes of their own, on cores of their own, and what long ones left behind.

What takes a quarter of an hour is not run again for every report: values of the baselines' paths and of the reference
are kept in `head-races/` of the data folder, for one file of features and one version of each package.

# N rows
"""

import hashlib
import json
import os
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tle.benchmarks import report
from tle.benchmarks.contestants import Child, ContestantError, run_child
from tle.benchmarks.head_contestants import COLD, REFERENCE, FitJob, Value
from tle.benchmarks.registries import data_folder
from tle.files import publish

PACKAGES = ("scikit-learn", "numpy", "scipy", "torch", "scikit-learn-intelex")
_SOLVERS = ("scikit-learn", "numpy", "scipy")  # what kept values come from
# Set by hand on some machines to help a BLAS of old; nobody's users have them. They must be gone before NumPy comes.
NOT_INHERITED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_PART = 5  # values of a reference that are run, and kept, together
# A contestant whose first run took longer than this is not run again.
LONG_S = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of one contestant.

    Attributes:
        values: what it fitted, by ascending C.
        peak_mib: largest resident memory; 0 where it did not come to its end.
        reason: why not all values are there; None if they are.
    """

    values: list[Value]
    peak_mib: float = 0.0
    reason: str | None = None

    @property
    def seconds(self) -> float:
        """Of all values together."""
        return sum(value.seconds for value in self.values)

    @property
    def cpu_s(self) -> float:
        """Of all threads and values together."""
        return sum(value.cpu_s for value in self.values)


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Inside, this process and those that it starts have only so many cores, where the system can do that.

    Raises:
        ContestantError: there are fewer.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    if len(before) < count:
        raise ContestantError(f"expected {count} usable cores, found {len(before)}: ask for fewer threads")
    os.sched_setaffinity(0, set(sorted(before)[-count:]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_module(module: str, argument: str, threads: int) -> Child:
    """Run a module of the benchmarks on so many cores, without what only this machine has."""
    environment = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    with on_cores(threads):
        return run_child([sys.executable, "-m", f"tle.benchmarks.{module}", argument], environment)


def run(job: FitJob) -> Outcome:
    """Let one contestant do one job.

    Raises:
        ContestantError: it ended with an error.
    """
    child = run_module("head_contestants", json.dumps(asdict(job)), job.threads)
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    values = sorted((Value(**line) for line in lines if "c" in line), key=lambda value: value.c)
    last = lines[-1] if lines else {}
    if "cannot" in last:
        return Outcome(values=values, reason=last["cannot"])
    if child.status == -signal.SIGALRM:
        return Outcome(values=values, reason=f"not done after {job.limit_s} s")
    if child.status:
        said = child.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ContestantError(f"{job.contestant} ended with status {child.status}: {said[0]}")
    return Outcome(values=values, peak_mib=last["peak_mib"])


def take_turns(
    jobs: dict[str, FitJob], rounds: int, first: dict[str, list[Outcome]] | None = None
) -> dict[str, list[Outcome]]:
    """Everybody runs once a round, in the same order; who cannot, or took long, is left out of further rounds.

    Args:
        jobs: name -> job.
        rounds: runs of everybody.
        first: runs that were made already and count.
    """
    outcomes = {name: list((first or {}).get(name, [])) for name in jobs}
    for number in range(rounds):
        for name, job in jobs.items():
            done = outcomes[name]
            if len(done) > number or (done and (done[0].reason is not None or done[0].seconds > LONG_S)):
                continue
            done.append(run(job))
            say(f"{name}: {done[-1].reason or f'{done[-1].seconds:.2f} s'}")
    return outcomes


def ratio(outcomes: dict[str, list[Outcome]], name: str, reference: str) -> float:
    """Median over rounds of a contestant's seconds to another's in the same round; over the rounds that both ran."""
    pairs = zip(outcomes[name], outcomes[reference], strict=False)
    return statistics.median(one.seconds / other.seconds for one, other in pairs)


def median_s(done: Sequence[Outcome]) -> float:
    """Median seconds of some runs."""
    return statistics.median(one.seconds for one in done)


def store_path(problem: str, contestant: str, threads: int) -> Path:
    """Where the values of a long contestant are kept."""
    words = contestant.replace(" ", "-")
    return data_folder() / "head-races" / f"{problem}_{words}_{threads}-threads.json"


def stored(problem: str, job: FitJob, *, most: int | None = None) -> Outcome:
    """The values of a long job: those kept, and those that are missing run now and kept.

    Args:
        problem: name of the problem, for the file.
        job: who and what.
        most: values to run now at most; None for all.

    Returns:
        The outcome, with a reason where values are missing.
    """
    path, key = store_path(problem, job.contestant, job.threads), _key(job)
    kept: dict[float, Value] = {}
    if path.is_file() and (found := json.loads(path.read_text(encoding="utf-8")))["key"] == key:
        kept = {value["c"]: Value(**value) for value in found["values"]}
    missing = [c for c in job.cs if c not in kept][:most]
    reason = None
    # Cold fits know nothing of each other, and a reference is kept in parts; a warm path is one.
    size = {COLD: 1, REFERENCE: _PART}.get(job.contestant, len(missing)) or 1
    for part in [missing[first : first + size] for first in range(0, len(missing), size)]:
        done = run(replace(job, cs=part))
        reason = done.reason or reason
        if done.reason and job.contestant != REFERENCE:
            continue
        kept |= {value.c: value for value in done.values}
        record = {"key": key, "machine": report.machine(), "values": [asdict(kept[c]) for c in sorted(kept)]}
        path.parent.mkdir(parents=True, exist_ok=True)
        with publish(path) as file:
            file.write((json.dumps(record, indent=1) + "\n").encode())
        say(f"{problem}: {job.contestant}: {len(kept)} values, {sum(v.seconds for v in kept.values()):.0f} s so far")
    values = [kept[c] for c in job.cs if c in kept]
    if len(values) < len(job.cs):
        reason = reason or f"{len(job.cs) - len(values)} of {len(job.cs)} values are missing"
    return Outcome(values=values, reason=reason)


def _key(job: FitJob) -> dict[str, Any]:
    """What kept values depend on; a reference is right or wrong by its certificate, whoever made it."""
    with Path(job.cache).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if job.contestant == REFERENCE:
        return {"features": digest}
    return {"features": digest, "tol": job.tol, "max_iter": job.max_iter, "packages": versions(_SOLVERS)}


def gpu() -> str | None:
    """Name of the GPU, asked for by a process of its own, so that this one keeps none of it; None where there is none."""
    script = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return run_child([sys.executable, "-c", script], dict(os.environ)).stdout.strip() or None


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of the packages that take part, where installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def say(line: str) -> None:
    """A line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)
