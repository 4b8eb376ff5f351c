"""How many images a second does `tle extract` do? Against its peers: same pictures, same weights, same cores.

    python -m tle.benchmarks.extract --models resnet50 --data crops --save
    python -m tle.benchmarks.extract --tle-args "" --tle-args "--precision float32"      # two configurations of tle
    python -m tle.benchmarks.extract --wall 200 --models resnet50                        # whole processes, cold start
    python -m tle.benchmarks.extract --flat 1000 10000 100000                            # cost and memory against N

Every run is a fresh process. Contestants take turns (A B A B ...), and ratios are medians of the ratios inside a turn, so
that a machine that slows down slows all of them alike. Start-up, construction, one warm-up batch of the peers and tle's
tuning are outside of every clock but that of `--wall`. Nothing else should run on the machine.

Peers that are not installed are named and left out. To have them without touching the environment:
`pip install --no-deps --target FOLDER lightly-train img2vec-pytorch ...` and `--peers-path FOLDER`.
"""

import argparse
import hashlib
import math
import resource
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tle.benchmarks import flatness, report
from tle.benchmarks.contestants import (
    PEERS,
    WITHOUT_WORKERS,
    Contestant,
    ContestantError,
    Job,
    link_pictures,
    prepare,
    run,
)
from tle.benchmarks.races import compare, describe, say
from tle.benchmarks.registries import data_folder

MODELS = ("resnet18", "resnet50", "mobilenet_v3_large", "vit_b_16", "mobilenet_v2")
DATA = ("crops", "large_baseline", "large_progressive")
# Pictures of the trial run that says how many make a run of `--seconds`, and the number they are rounded up to.
N_TRIAL = 64


@contextmanager
def pictures(name: str, n: int) -> Iterator[tuple[Path, int]]:
    """A folder of `n` links to pictures of a set of `tle.benchmarks.photos`, gone on leaving.

    Yields:
        The folder, and how many of its pictures are different.
    """
    folder = prepare("photos", name)
    with tempfile.TemporaryDirectory(prefix=".race-", dir=data_folder()) as target:
        different = link_pictures(folder, n, Path(target))
        yield Path(target), different


def count_for(seconds: float, job: Job, data: str) -> int:
    """How many pictures make the plain torchvision script run for `seconds`: a multiple of `N_TRIAL`."""
    with pictures(data, N_TRIAL) as (folder, _), tempfile.TemporaryDirectory() as scratch:
        trial = run(Contestant("torchvision"), replace(job, folder=folder), Path(scratch) / "features.npy")
    return max(1, math.ceil(seconds * trial.images_per_s / N_TRIAL)) * N_TRIAL


def _contestants(peers: Sequence[str], workers: Sequence[int], tle_arguments: Sequence[str]) -> list[Contestant]:
    found = []
    for peer in peers:
        found += [Contestant(peer, number) for number in (workers[:1] if peer in WITHOUT_WORKERS else workers)]
    return found + [Contestant(arguments=tuple(shlex.split(words))) for words in tle_arguments]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tle.benchmarks.extract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME", help=f"of {', '.join(MODELS)}")
    add("--data", choices=DATA, default="crops", help="pictures; default: crops")
    add("--peers", nargs="*", choices=PEERS, default=list(PEERS), metavar="NAME", help=f"of {', '.join(PEERS)}")
    add("--workers", nargs="+", type=int, default=[0, 2], help="loading processes of torchvision's and timm's loaders")
    add("--tle-args", action="append", metavar="WORDS", help='a configuration of tle; "" is the default; repeatable')
    add("--runs", type=int, help="runs of everybody; default: 5, of --flat 1")
    add("--limit", type=int, help="pictures a run; default: what torchvision does in --seconds")
    add("--seconds", type=float, default=30.0, help="length of a run of the plain script; default: 30")
    add("--resize", type=int, default=256, help="shorter side in pixels; default: 256")
    add("--crop", type=int, default=224, help="side of the centre crop in pixels; default: 224")
    add("--wall", type=int, metavar="N", help="measure whole processes on N pictures instead; peer: torchvision")
    add("--flat", type=int, nargs="+", metavar="N", help="measure tle alone on N small pictures each instead")
    add("--peers-path", type=Path, help="a folder of further packages for the peers")
    add("--save", action="store_true", help="write benchmarks/results/DATE_HARDWARE_extract...json and .md")
    add("--results-file", type=Path, help="write this JSON file, and .md beside it, instead")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison, print its tables, save them on request; returns the exit status."""
    options = _parser().parse_args(arguments)
    words = sys.argv[1:] if arguments is None else list(arguments)
    record: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "tle.benchmarks.extract", *words]),
        "machine": report.machine() | {"parent_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10},
        "versions": report.versions(),
        "comparisons": [],
    }
    topic = "extract_flat" if options.flat else "extract_wall" if options.wall else f"extract_{options.data}"
    path = options.results_file
    if path is None and options.save:
        path = report.default_path(topic, record["machine"], Path("benchmarks/results"))
    texts = []
    try:
        for found, text in _comparisons(options):
            print(f"\n{text}", flush=True)
            record["comparisons"].append(found)
            texts.append(text)
            if path is not None:  # after each: hours of measuring are not lost to the last one
                report.save(path, record, "\n\n".join(texts))
    except ContestantError as error:
        say(f"extract: {error}")
        return 1
    if path is not None:
        print(f"\nwritten: {path} and {path.with_suffix('.md').name}")
    return 0


def _comparisons(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], str]]:
    tle_arguments = options.tle_args if options.tle_args is not None else [""]
    if options.flat:
        found = flatness.measure(options.flat, _contestants([], [], tle_arguments), options.runs or 1)
        yield found, flatness.describe(found)
        return
    rounds = options.runs or 5
    peers = ["torchvision"] if options.wall else options.peers
    contestants = _contestants(peers, options.workers, tle_arguments)
    for model in options.models:
        weights = prepare("networks", model)
        job = Job(folder=Path(), model=model, weights=weights, resize=options.resize, crop=options.crop)
        n = options.wall or options.limit or count_for(options.seconds, job, options.data)
        with pictures(options.data, n) as (folder, different):
            job = replace(job, folder=folder, warm_up=not options.wall)
            found = compare(job, contestants, rounds, peers_path=options.peers_path, wall_n=options.wall)
        found["title"] = (
            f"{model}, {n} pictures ({different} different) of {options.data}, {rounds} rounds, {weights.name}"
        )
        found |= {"model": model, "data": options.data, "n": n, "different": different, "rounds": rounds}
        with weights.open("rb") as file:
            found["weights"] = {"name": weights.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        yield found, describe(found)


if __name__ == "__main__":
    raise SystemExit(main())
