"""Damaged and hostile caches through the reader and every command that takes a cache.

    python -m tle.benchmarks.fuzz_cache [--minutes 10] [--seed 0] [--keep FOLDER]

Small caches of every kind are changed in one of seven ways, among them with the checksums of HDF5's metadata made right
again, so that the change gets past them, and with a description made of anything that JSON can say. Each is then opened
and read, and goes through commands, in a worker process that may take 2 GiB more than it has at the start. Whatever
happens has to be an answer or one line that says why not. The exit status is 1 if anything crashed, hung, ended in
another exception than a `TleError`, or in more than one line; such files are kept.
"""

import argparse
import collections
import contextlib
import io
import json
import multiprocessing
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tle.benchmarks.cache_damage import MUTATIONS, RUN, SPEC, mutate, write_cache, write_samples
from tle.cache import open_cache
from tle.cli.main import main as command
from tle.errors import TleError

LIMIT_S = 5.0
MEMORY_BYTES = 2 << 30
_ODD_JSON: tuple[Any, ...] = (
    *(None, True, 0, -1, 7, 1 << 70, 1e308, float("nan"), float("inf"), "", "\0", "\ud800", "a\nb", "\x1b[2J", "../x"),
    *([], {}, [[]], [None], {"": ""}, {"min_cosine": "x"}, [{"file": "/etc/passwd", "n": 4, "state": ""}]),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        kind: how it was made.
        name: "opened", "refused", "crashed", "hung", "traceback" or "lines".
        what: the error, where it is one of the last four.
    """

    kind: str
    name: str
    what: str = ""

    @property
    def bad(self) -> bool:
        """Whether it may not happen."""
        return self.name not in ("opened", "refused")


def write_described(path: Path, rng: random.Random) -> None:
    """A cache whose description has something in it that tle would not write."""
    described = {"spec": json.loads(json.dumps(SPEC)), "run": json.loads(json.dumps(RUN))}
    for _ in range(rng.choice((1, 1, 2, 3))):
        node = described[rng.choice(("spec", "run"))]
        while isinstance(inner := node.get(rng.choice(list(node)) if node else None), dict) and rng.random() < 0.6:
            node = inner
        node[rng.choice([*node, *RUN, "parts", "new"])] = rng.choice(_ODD_JSON)
    with contextlib.suppress(TleError, TypeError, ValueError, AttributeError, KeyError):
        write_cache(path, 40, **described)


def read_all(path: Path) -> None:
    """Everything that a cache gives to a library user."""
    cache = open_cache(path)
    cache.summary()
    for rows, features in cache.blocks():
        assert len(rows) == len(features)  # noqa: S101 - what is looked for
    _ = cache.ids, cache.failures, cache.labelled.sum(), cache.to_numpy("train"), cache.reasons


def commands(path: Path, head: Path) -> list[list[str]]:
    """Command lines that take the cache at `path`; `head` was fitted on a good one."""
    out, other = str(path.parent / "out"), str(path.parent / "plain.h5")
    return [
        ["inspect", str(path)],
        ["inspect", str(path), "--json"],
        ["inspect", str(path), "--failures"],
        ["verify", str(path), "--json"],
        ["fit-head", str(path), "-o", f"{out}.head", "--head", "ridge", "--overwrite"],
        ["evaluate", str(head), str(path), "--split", "all"],
        ["merge", str(path), other, "-o", f"{out}.h5", "--overwrite"],
        ["merge", str(path), "-o", f"{out}.h5", "--copy", "--overwrite"],
        ["convert", str(path), f"{out}.npz", "--overwrite"],
        ["verify", str(path), "--repair"],  # the last: it may change the file
    ]


def attempt(path: Path, head: Path | None, rng: random.Random) -> tuple[str, str]:
    """Read a file and put it through commands.

    Args:
        path: the file.
        head: for `commands`; None leaves them out.
        rng: which commands, where the file cannot be opened; else all of them.

    Returns:
        What became of it and the error, see `Outcome`.
    """
    try:
        read_all(path)
        name = "opened"
    except TleError as error:
        name = "refused"
        if len(str(error).splitlines()) != 1:
            return "lines", str(error)
    except Exception as error:  # noqa: BLE001 - what is looked for
        return "traceback", f"reading: {type(error).__name__}: {error}"
    lines = [] if head is None else commands(path, head)
    for line in lines if name == "opened" else lines and rng.sample(lines, 1):
        errors = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
                code = command(line)
        except BaseException as error:  # noqa: BLE001 - what is looked for
            return "traceback", f"{' '.join(line[:1] + line[2:])}: {type(error).__name__}: {error}"
        told = [text for text in errors.getvalue().splitlines() if text.startswith("tle:")]
        if code and len(told) != 1:
            return "lines", f"{line[0]}: {errors.getvalue()[:300]}"
    return name, ""


def _work(pipe: Connection, head: Path | None) -> None:
    """Answer with the outcome of every (path, seed) that comes."""
    with Path("/proc/self/statm").open() as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    warm = head is not None and attempt(head.parent / "plain.h5", head, random.Random(0))  # noqa: S311 - loads all
    with Path("/proc/self/statm").open() as file:
        now = max(now, int(file.read().split()[0]) * resource.getpagesize())
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, resource.RLIM_INFINITY))
    pipe.send(warm)
    while (job := pipe.recv()) is not None:
        path, seed = job
        pipe.send(attempt(path, head, random.Random(seed)))  # noqa: S311 - reproducible, no secret


def run(
    folder: Path, *, seconds: float = 60.0, seed: int = 0, cases: int | None = None, with_commands: bool = True
) -> Iterator[tuple[int, Path, Outcome]]:
    """Make files and see what becomes of them.

    Args:
        folder: an empty one, to work in.
        seconds: how long.
        seed: of everything random; case k of a seed is always the same file.
        cases: how many at most.
        with_commands: whether they go through commands as well.

    Yields:
        Number of the case, the file (until the next), and its outcome.
    """
    samples = write_samples(folder)
    head = folder / "plain.head" if with_commands else None
    if head is not None and command(["fit-head", str(folder / "plain.h5"), "-o", str(head), "--head", "ridge"]):
        raise RuntimeError("no head could be fitted on a good cache")
    context = multiprocessing.get_context("spawn")
    worker, pipe = None, None
    path, end, case = folder / "case.h5", time.monotonic() + seconds, 0
    kinds = [*MUTATIONS, "forge", "forge", "forge"] + ["described"] * with_commands
    while time.monotonic() < end and (cases is None or case < cases):
        if worker is None or pipe is None:
            pipe, other = context.Pipe()
            worker = context.Process(target=_work, args=(other, head), daemon=True)
            worker.start()
            other.close()
            pipe.recv()  # ready: starting up does not count as the file's time
        rng = random.Random(f"{seed} {case}")  # noqa: S311 - reproducible, no secret
        kind = rng.choice(kinds)
        if kind == "described":
            path.write_bytes(samples[0].data)  # stays where the description cannot even be written
            write_described(path, rng)
        else:
            path.write_bytes(mutate(rng.choice(samples), kind, rng))
        before = path.read_bytes()
        pipe.send((path, f"{seed} {case}"))
        try:
            name, what = pipe.recv() if pipe.poll(LIMIT_S) else ("hung", f"no answer within {LIMIT_S:g} s")
        except EOFError:
            worker.join()
            name, what = "crashed", f"the process ended with status {worker.exitcode}"
        if name in ("hung", "crashed"):
            worker.kill()
            worker, pipe = None, None
        path.write_bytes(before)
        yield case, path, Outcome(kind, name, what)
        case += 1
    if worker is not None and pipe is not None:
        pipe.send(None)
        worker.join()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the files (default: 0)")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_cache"), help="where offending files go")
    parser.add_argument("--reader-only", action="store_true", help="no commands: ten times as many files")
    return parser


def main() -> int:
    """Run for a while, and print what became of the files."""
    options = _parser().parse_args()
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="tle-fuzz-") as scratch:
        found = run(
            Path(scratch), seconds=60 * options.minutes, seed=options.seed, with_commands=not options.reader_only
        )
        for case, path, outcome in found:
            counts[outcome.kind, outcome.name] += 1
            if outcome.bad:
                options.keep.mkdir(parents=True, exist_ok=True)
                kept = options.keep / f"{outcome.name}-{options.seed}-{case}.h5"
                shutil.copyfile(path, kept)
                print(f"{kept}: {outcome.kind}, {outcome.what}", flush=True)
    names = ("opened", "refused", "crashed", "hung", "traceback", "lines")
    print(f"{'':10}" + "".join(f"{name:>11}" for name in names))
    for kind in [*MUTATIONS, "described"]:
        print(f"{kind:10}" + "".join(f"{counts[kind, name]:11,}" for name in names))
    totals = [sum(n for (_, name), n in counts.items() if name == wanted) for wanted in names]
    print(f"{'all':10}" + "".join(f"{n:11,}" for n in totals))
    return 1 if sum(totals[2:]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
