"""Who runs in the speed comparison, and one run of one of them: a fresh process, its clock, its memory, its features.

The parent stays small on purpose: on Linux a child's peak memory is never below what its parent had when it started it.

# N images, D feature dim
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tle
from tle.errors import TleError

PEERS = ("torchvision", "timm", "lightly-train", "img2vec-pytorch")
# These choose their workers, or have none.
WITHOUT_WORKERS = ("lightly-train", "img2vec-pytorch")
# These squash pictures to the crop: their features cannot be tle's.
OWN_PREPROCESSING = ("lightly-train", "img2vec-pytorch")
# Set by hand on some machines to help a BLAS of old; nobody's users have them.
_NOT_INHERITED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_MEAN = ("0.485", "0.456", "0.406")
_STD = ("0.229", "0.224", "0.225")


class ContestantError(TleError, RuntimeError):
    """A contestant that ended with an error."""


class ContestantMissingError(ContestantError):
    """A peer that is not installed, or cannot run this network."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to features.

    Attributes:
        peer: one of `PEERS`; "" is tle.
        workers: loading processes of a peer.
        arguments: further arguments of `tle extract`.
    """

    peer: str = ""
    workers: int = 0
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How tables call it."""
        if not self.peer:
            return " ".join(("tle", *self.arguments))
        return self.peer if self.peer in WITHOUT_WORKERS else f"{self.peer}, {self.workers} workers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every contestant gets.

    Attributes:
        folder: pictures as `class/img.jpg`.
        model: a torchvision network.
        weights: its state dict.
        resize: shorter side in pixels.
        crop: side of the centre crop in pixels.
        warm_up: peers run one batch before their clock starts; off where the whole process counts.
        memory: the folder in which tle remembers what it measured; None gives each run an empty one.
    """

    folder: Path
    model: str
    weights: Path
    resize: int = 256
    crop: int = 224
    warm_up: bool = True
    memory: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        images_per_s: rate, start-up (and tle's tuning) excluded.
        wall_s: the whole process.
        cpu_s: processor time of the process and the children it waited for.
        peak_mib: largest resident memory of the process, or of its largest child.
        said: what tle printed as JSON beside its rate: runtime, notes, time spent on tuning.
    """

    images_per_s: float
    wall_s: float
    cpu_s: float
    peak_mib: float
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def tuning_s(self) -> float | None:
        """Seconds that tle spent on choosing a plan, where it tells."""
        seconds = self.said.get("tuning_s")
        return None if seconds is None else float(seconds)


def run(contestant: Contestant, job: Job, output: Path, *, peers_path: Path | None = None) -> Run:
    """Let one contestant extract the features of all pictures in a process of its own.

    Args:
        contestant: who.
        job: what.
        output: where its features go; must not exist. `read_features` reads it.
        peers_path: a folder of further packages for peers (`pip install --target`).

    Raises:
        ContestantMissingError: the peer is not installed, or does not know the network.
        ContestantError: the process ended with an error, or tle lost pictures.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    if contestant.peer and peers_path is not None:
        known = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([*known, str(peers_path)])
    environment["TLE_CACHE"] = str(job.memory or output.with_name("tle-memory"))
    child = run_child(_command(contestant, job, output), environment)
    if child.status:
        last = child.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ContestantError(f"{contestant.name} ended with status {child.status}: {last[0]}")
    found = json.loads(child.stdout if not contestant.peer else child.stdout.strip().splitlines()[-1])
    if "unavailable" in found:
        raise ContestantMissingError(found["unavailable"])
    if found.get("n_failed"):
        raise ContestantError(f"{contestant.name} has no features for {found['n_failed']} pictures of {job.folder}")
    said = {} if contestant.peer else {key: value for key, value in found.items() if key not in ("path", "dim")}
    return Run(found["images_per_s"], child.wall_s, child.cpu_s, child.peak_mib, said)


def tune(contestant: Contestant, job: Job) -> dict[str, Any]:
    """Let tle find out, once, what is fastest for a job, as its user does with `tle bench`.

    Args:
        contestant: tle, with its arguments.
        job: what; its `memory` holds the result.

    Returns:
        What `tle bench --json` said: stages, limit, efficiency, trials; and `wall_s`, what it took.

    Raises:
        ContestantError: it ended with an error.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    environment["TLE_CACHE"] = str(job.memory)
    words = [sys.executable, "-m", "tle.cli.main", "bench", str(job.folder), "--backbone", f"torchvision/{job.model}"]
    sizes = ["--resize", str(job.resize), "--crop", str(job.crop), "--weights", str(job.weights)]
    child = run_child([*words, *sizes, "--json", "--n-images", "256", *contestant.arguments], environment)
    if child.status:
        last = child.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ContestantError(f"tuning {contestant.name} ended with status {child.status}: {last[0]}")
    found: dict[str, Any] = json.loads(child.stdout)
    return found | {"wall_s": child.wall_s}


def _command(contestant: Contestant, job: Job, output: Path) -> list[str]:
    sizes = ["--resize", str(job.resize), "--crop", str(job.crop), "--weights", str(job.weights)]
    if contestant.peer:
        peer = [sys.executable, "-m", "tle.benchmarks.peers", contestant.peer, str(job.folder), "--model", job.model]
        warm_up = "--warm-up" if job.warm_up else "--no-warm-up"
        return [*peer, *sizes, "--workers", str(contestant.workers), warm_up, "--output", str(output)]
    extract = [sys.executable, "-m", "tle.cli.main", "extract", str(job.folder), "--output", str(output), "--json"]
    pixels = ["--interpolation", "bilinear", "--mean", *_MEAN, "--std", *_STD]
    return [*extract, "--backbone", f"torchvision/{job.model}", *sizes, *pixels, *contestant.arguments]


def output_name(contestant: Contestant) -> str:
    """A file name with the ending that the contestant's features need."""
    return "features.npy" if contestant.peer else "features.h5"


def read_features(contestant: Contestant, output: Path) -> NDArray[np.float64]:
    """Features of a run as float64 (N, D), in the order of the sorted relative paths."""
    if contestant.peer:
        return np.load(output).astype(np.float64)  # type: ignore[no-any-return]
    cache = tle.open_cache(output)
    order = sorted(range(len(cache)), key=cache.ids.__getitem__)
    return np.asarray(cache.features, np.float64)[order]


@dataclass(frozen=True, slots=True)
class Child:
    """A process that has ended; times in seconds, memory as `Run` counts it."""

    status: int
    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float
    peak_mib: float


def run_child(command: list[str], environment: dict[str, str]) -> Child:
    """Run a process to its end and ask the kernel what it took."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # so that it is not waited for again
        stdout.seek(0)
        stderr.seek(0)
        unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
        return Child(
            process.returncode,
            stdout.read(),
            stderr.read(),
            wall_s,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss / unit,
        )


def prepare(module: str, *arguments: str) -> Path:
    """The path that a module of the benchmarks prints: built in a child, so that the parent stays small.

    Raises:
        ContestantError: it failed, for example because the data cannot be had.
    """
    child = run_child([sys.executable, "-m", f"tle.benchmarks.{module}", *arguments], dict(os.environ))
    if child.status:
        last = child.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ContestantError(f"cannot prepare {module} {' '.join(arguments)}: {last[0]}")
    return Path(child.stdout.strip().splitlines()[-1])


def link_pictures(folder: Path, n: int, target: Path) -> int:
    """Fill `target` with hard links to `n` pictures of `folder`, evenly spaced; where it has fewer, each several times.

    Args:
        folder: pictures as `class/img.jpg`.
        n: number of links.
        target: an empty folder on the same file system.

    Returns:
        How many of them are different.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for index in range(n):
        path = paths[index % len(paths) if n > len(paths) else index * len(paths) // n]
        place = target / path.relative_to(folder).parent / f"{path.stem}-{index // len(paths)}{path.suffix}"
        place.parent.mkdir(exist_ok=True)
        os.link(path, place)
    return min(n, len(paths))
