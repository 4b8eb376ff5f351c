"""Every odd, rare, broken and hostile file of Pillow's own tests through `tle.images.load`, beside plain Pillow.

    python -m tle.benchmarks.odd_images [FOLDER] [--limit-s 20]

Nothing may crash or hang, and whatever plain Pillow opens and converts (`Image.open(f).convert("RGB")`, at its default
limit of pixels) must become pixels here as well. Files run in a worker process; one that dies or does not answer in
time is replaced, and the file counted. Then all of them go through one extraction. The exit status is 1 if anything
crashed, hung or was lost.
"""

import argparse
import csv
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

import tle
from tle import images
from tle.benchmarks import datasets
from tle.errors import ImageError
from tle.preprocess import Preprocess

_PREPROCESS = Preprocess(
    resize=256, crop=(224, 224), interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        name: path below the folder.
        row: whether `tle.images.load` made pixels of it.
        reason: why not; "" for a row.
        pillow: whether plain Pillow opens and converts it.
        mode: mode in which Pillow opens it, with the format; "" where it does not.
        difference: mean absolute difference of the two conversions in levels of 0 to 255; NaN where there are not two.
        seconds: time that `load` took.
    """

    name: str
    row: bool
    reason: str
    pillow: bool = False
    mode: str = ""
    difference: float = float("nan")
    seconds: float = 0.0

    @property
    def lost(self) -> bool:
        """Plain Pillow can, tle cannot."""
        return self.pillow and not self.row


def run(folder: Path, *, limit_s: float = 20.0) -> Iterator[Outcome]:
    """Put every file below `folder` through tle and through Pillow.

    Args:
        folder: the files.
        limit_s: seconds after which a file counts as hanging.

    Yields:
        One outcome a file, in the order of their names; crashes and hangs have such a reason.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    context = multiprocessing.get_context("spawn")
    worker, pipe = None, None
    for name in names:
        if worker is None or pipe is None:
            pipe, other = context.Pipe()
            worker = context.Process(target=_work, args=(other, folder), daemon=True)
            worker.start()
            other.close()
            pipe.recv()  # ready: starting up does not count as the file's time
        pipe.send(name)
        try:
            if pipe.poll(limit_s):
                yield pipe.recv()
                continue
            reason = f"HANG: no answer within {limit_s:g} s"
        except EOFError:
            worker.join()
            reason = f"CRASH: the process ended with status {worker.exitcode}"
        worker.kill()
        worker, pipe = None, None
        yield Outcome(name, False, reason)
    if worker is not None and pipe is not None:
        pipe.send(None)
        worker.join()


def _work(pipe: Connection, folder: Path) -> None:
    warnings.simplefilter("error")  # no warning of Pillow may get out of `load`
    pipe.send("ready")
    while (name := pipe.recv()) is not None:
        pipe.send(_outcome(folder, name))


def _outcome(folder: Path, name: str) -> Outcome:
    data = (folder / name).read_bytes()
    start = time.perf_counter()
    try:
        images.load(data, _PREPROCESS)
        reason = ""
    except ImageError as error:
        reason = str(error)
    seconds = time.perf_counter() - start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # by file object: given a path, Pillow 11.3 maps raw files into memory and one of these crashes it
            with (folder / name).open("rb") as file, Image.open(file) as image:
                mode = f"{image.format} {image.mode}"
                theirs = image.convert("RGB")
        except Exception:  # noqa: BLE001 - the question is only whether Pillow can
            return Outcome(name, not reason, reason, seconds=seconds)
    difference = float("nan")
    if not reason and (ours := images.decode(data)).size == theirs.size:
        difference = float(np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)).mean())
    return Outcome(name, not reason, reason, True, mode, difference, seconds)


def extract_all(folder: Path, outcomes: list[Outcome]) -> list[str]:
    """Extract all files in one run, and compare its rows and failures with what each file did alone.

    Args:
        folder: the files.
        outcomes: what `run` found.

    Returns:
        A line for every file that is a row here and a failure there, or the other way round.
    """
    with tempfile.TemporaryDirectory() as scratch:
        manifest = Path(scratch) / "all.csv"
        with manifest.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["path"], *([str(folder / outcome.name)] for outcome in outcomes)])
        small = tle.PreprocessOverrides(resize=64, crop=64)
        path = Path(scratch) / "all.h5"
        tle.extract(manifest, path, backbone="torchvision/mobilenet_v3_small", weights="none", overrides=small)
        cache = tle.open_cache(path)
        reasons = dict(cache.failures)
        print(f"\none extraction of all: {len(cache)} pictures, {int(cache.valid.sum())} rows, {len(reasons)} failures")
        return [
            f"{outcome.name}: {outcome.reason or 'a row'} alone, {reasons.get(index, 'a row')} in the extraction"
            for index, outcome in enumerate(outcomes)
            if outcome.row == (index in reasons)
        ]


def _print(title: str, lines: Iterable[str]) -> int:
    lines = list(lines)
    print(f"\n{title}: {len(lines)}")
    for line in lines:
        print(f"  {line}")
    return len(lines)


def main() -> int:
    """Run the comparison and print what failed, what differs and what was lost."""
    parser = argparse.ArgumentParser(prog="python -m tle.benchmarks.odd_images")
    parser.add_argument("folder", nargs="?", type=Path, help="files to read; default: Pillow's own test pictures")
    parser.add_argument("--limit-s", type=float, default=20.0, help="seconds until a file counts as hanging")
    arguments = parser.parse_args()
    folder = (arguments.folder or datasets.pillow_images()).absolute()
    outcomes = list(run(folder, limit_s=arguments.limit_s))
    rows = [outcome for outcome in outcomes if outcome.row]
    failures = [outcome for outcome in outcomes if not outcome.row]
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    print(
        f"{len(outcomes)} files: {len(rows)} rows, {len(failures)} failures; slowest {slowest.seconds:.2f} s, {slowest.name}"
    )
    print(f"plain Pillow opens and converts {sum(outcome.pillow for outcome in outcomes)}")
    _print("failures", (f"{outcome.name}: {outcome.reason}" for outcome in failures))
    differing = sorted((outcome for outcome in rows if outcome.difference > 0), key=lambda outcome: -outcome.difference)
    _print(
        "rows whose pixels differ from convert('RGB') (mean level)",
        (f"{outcome.difference:6.1f}  {outcome.mode:12} {outcome.name}" for outcome in differing),
    )
    turned = [outcome for outcome in rows if outcome.pillow and np.isnan(outcome.difference)]
    _print("rows that were turned upright", (f"{outcome.mode:12} {outcome.name}" for outcome in turned))
    _print("rows that plain Pillow refuses", (outcome.name for outcome in rows if not outcome.pillow))
    bad = _print(
        "crashed or hung",
        (f"{outcome.name}: {outcome.reason}" for outcome in failures if outcome.reason.startswith(("CRASH", "HANG"))),
    )
    bad += _print(
        "LOST: Pillow can, tle cannot", (f"{outcome.name}: {outcome.reason}" for outcome in failures if outcome.lost)
    )
    bad += _print("otherwise in one extraction of all", extract_all(folder, outcomes))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
