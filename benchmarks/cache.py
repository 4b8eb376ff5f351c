"""The cache against plain files and against HDF5 as it is usually written, on the same bytes in the same run.

    python -m tle.benchmarks.cache
    python -m tle.benchmarks.cache --rows 100000 --rounds 7 --save

    write      `CacheWriter` against `write` into a plain file, both synced once a second and at the end
    scan       all rows summed, through `open_cache`, against `numpy.memmap` on a plain file and h5py's `read_direct`
    random     batches of 1,024 rows against h5py on chunks of (1, D) and on gzip, as peers write them
    open       a sparse cache of 1,000,000 x 1,280
    update     100 new pictures on top of those that are cached, against 100 alone and a copy of the file

Ratios are of rates, tle over the other: above 1 tle is faster. Rounds alternate, medians count. Files are in the page
cache for scan and random; `update` starts from 64 x 64 pixels, so that the cost of the machinery shows.

# N rows, D feature dim, B rows of a batch
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import tle
from tle.benchmarks import report
from tle.benchmarks.contestants import prepare
from tle.cache.layout import Content, lay_out
from tle.cache.writer import SYNC_INTERVAL_S, CacheWriter
from tle.enums import Target
from tle.files import write_at

DIM = 1280
_BATCH = 256
_RANDOM_ROWS = 1024
_RANDOM_BATCHES = 20
_NEW = 100

Measure = Callable[[], float]


def content_of(n: int, dim: int) -> Content:
    """N unlabelled pictures with ids as long as paths are."""
    return Content(
        ids=[f"class{row % 100:03}/picture_{row:08}.jpg" for row in range(n)],
        labels=np.full(n, -1),
        classes=(),
        splits=np.zeros(n, np.uint8),
        target=Target.NONE,
        dim=dim,
        dtype="float32",
        spec={"backbone": {"name": "none"}, "preprocess": {}, "decoder": "none", "precision": "float32"},
        run={},
    )


def write_cache(path: Path, x_ND: NDArray[np.float32]) -> float:
    """Seconds of writing all rows through the writer, file laid out and published included."""
    n, digests = len(x_ND), np.arange(len(x_ND), dtype=np.uint64)
    content = content_of(n, x_ND.shape[1])
    started = time.perf_counter()
    with CacheWriter.create(path, content) as writer:
        for start in range(0, n, _BATCH):
            rows = np.arange(start, min(start + _BATCH, n))
            writer.write(rows, x_ND[start : start + _BATCH], digests[start : start + _BATCH])
            writer.checkpoint()
        writer.finish(replace=True)
    return time.perf_counter() - started


def write_plain(path: Path, x_ND: NDArray[np.float32]) -> float:
    """Seconds of writing the same bytes one after the other, synced as often."""
    started = synced = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(x_ND), _BATCH):
            file.write(x_ND[start : start + _BATCH].data)
            if time.perf_counter() - synced >= SYNC_INTERVAL_S:
                os.fdatasync(file.fileno())
                synced = time.perf_counter()
        os.fsync(file.fileno())
    return time.perf_counter() - started


def race(contestants: dict[str, Measure], rounds: int, what: str) -> list[tuple[str, str, str]]:
    """Rows of a table: seconds of each contestant, and how many times the first one's they are, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, measure in contestants.items():
            taken = measure()
            if number:  # the first round warms up
                seconds[name].append(taken)
    first = next(iter(contestants))
    return [
        (
            f"{what}: {name}",
            report.spread(taken, 4),
            ""
            if name == first
            else f"{statistics.median(a / b for a, b in zip(taken, seconds[first], strict=True)):.2f}",
        )
        for name, taken in seconds.items()
    ]


def timed(work: Callable[[], Any]) -> Measure:
    """`work`, as something that gives its seconds."""

    def measure() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measure


def writing(folder: Path, x_ND: NDArray[np.float32], rounds: int) -> list[tuple[str, str, str]]:
    """The write race."""

    def fresh(write: Callable[[Path, NDArray[np.float32]], float], name: str) -> Measure:
        def measure() -> float:
            (folder / name).unlink(missing_ok=True)
            os.sync()
            return write(folder / name, x_ND)

        return measure

    contestants = {"tle": fresh(write_cache, "w.h5"), "plain write": fresh(write_plain, "w.bin")}
    return race(contestants, rounds, f"write {x_ND.nbytes / 1e6:,.0f} MB")


def read_anew(path: Path) -> None:
    """From the disk into the page cache, in one go: how a file was written decides how fast it is mapped from there."""
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(1 << 24):
            pass


def reading(folder: Path, x_ND: NDArray[np.float32], rounds: int) -> list[tuple[str, str, str]]:
    """The scan and the random batches."""
    n, dim = x_ND.shape
    write_cache(folder / "r.h5", x_ND)
    x_ND.tofile(folder / "r.bin")
    with h5py.File(folder / "peers.h5", "w") as h5:
        h5.create_dataset("rows", data=x_ND, chunks=(1, dim))
        h5.create_dataset("gzip", data=x_ND[: n // 4], chunks=True, compression="gzip", compression_opts=4)
    for name in ("r.h5", "r.bin"):
        read_anew(folder / name)
    step = 8192
    buffer = np.empty((step, dim), np.float32)

    def scan(features: Any) -> float:
        return float(sum(features[start : start + step].sum(dtype=np.float32) for start in range(0, n, step)))

    def scan_tle() -> float:
        return float(sum(block.sum(dtype=np.float32) for _, block in tle.open_cache(folder / "r.h5").blocks(step)))

    def scan_direct() -> float:
        total = 0.0
        with h5py.File(folder / "r.h5") as h5:
            for start in range(0, n, step):
                stop = min(start + step, n)
                h5["features"].read_direct(buffer, np.s_[start:stop], np.s_[: stop - start])
                total += float(buffer[: stop - start].sum(dtype=np.float32))
        return total

    rows = race(
        {
            "tle": timed(scan_tle),
            "numpy.memmap": timed(lambda: scan(np.memmap(folder / "r.bin", np.float32, "r", shape=(n, dim)))),
            "h5py read_direct": timed(scan_direct),
        },
        rounds,
        "scan",
    )
    rng = np.random.default_rng(0)
    batches = [np.sort(rng.choice(n // 4, _RANDOM_ROWS, replace=False)) for _ in range(_RANDOM_BATCHES)]

    def gather(features: Any) -> None:
        for batch in batches:
            features[batch]

    def gather_h5(name: str, most: int) -> None:
        with h5py.File(folder / "peers.h5") as h5:
            for batch in batches[:most]:
                h5[name][batch]

    few = 2  # gzip takes seconds a batch
    rows += race(
        {
            "tle": timed(lambda: gather(tle.open_cache(folder / "r.h5").features)),
            "h5py, chunks (1, D)": timed(lambda: gather_h5("rows", _RANDOM_BATCHES)),
        },
        rounds,
        f"{_RANDOM_BATCHES} random batches",
    )
    rows += race(
        {
            "tle": timed(lambda: [tle.open_cache(folder / "r.h5").features[batch] for batch in batches[:few]]),
            "h5py, gzip": timed(lambda: gather_h5("gzip", few)),
        },
        1,
        f"{few} random batches",
    )
    return rows


def opening(folder: Path, rounds: int) -> list[tuple[str, str, str]]:
    """A million rows that nobody wrote."""
    content = content_of(1_000_000, DIM)
    overlay, slots = lay_out(content, arrays := content.arrays())
    path = folder / "sparse.h5"
    with path.open("wb") as file:
        file.truncate(overlay.size)
        overlay.apply(file.fileno(), lambda: None)
        for name, array in arrays.items():
            if array.nbytes:
                write_at(file.fileno(), array.reshape(-1).view(np.uint8).data, slots[name].offset)
    return race({"tle": timed(lambda: tle.open_cache(path))}, rounds, f"open {len(content.ids):,} x {DIM}")


def updating(folder: Path, n: int, rounds: int) -> list[tuple[str, str, str]]:
    """New pictures on top of cached ones."""
    pictures = prepare("photos", "small", str(n + _NEW))
    weights = prepare("networks", "mobilenet_v3_small")
    files = sorted(path for path in pictures.rglob("*.jpg"))
    links, new = folder / "all", folder / "new"
    for number, path in enumerate(files):
        for root in (links,) if number % (n // _NEW) or number // (n // _NEW) >= _NEW else (new,):
            target = root / path.relative_to(pictures)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)

    def extract(images: Path, output: Path) -> float:
        network = "torchvision/mobilenet_v3_small"
        small = tle.PreprocessOverrides(resize=64, crop=64)
        fixed = tle.Execution(runtime="torch", precision="float32", batch_size=8)
        done = tle.extract(images, output, backbone=network, weights=str(weights), overrides=small, execution=fixed)
        return done.elapsed_s

    extract(links, folder / "base.h5")
    for path in new.rglob("*.jpg"):
        target = links / path.relative_to(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)

    def update() -> float:
        (folder / "u.h5").unlink(missing_ok=True)
        os.link(folder / "base.h5", folder / "u.h5")  # it is replaced, not written
        os.sync()
        return extract(links, folder / "u.h5")

    def alone_and_copy() -> float:
        for name in ("a.h5", "copy.h5"):
            (folder / name).unlink(missing_ok=True)
        os.sync()
        seconds = extract(new, folder / "a.h5")
        started = time.perf_counter()
        shutil.copyfile(folder / "base.h5", folder / "copy.h5")
        with (folder / "copy.h5").open("rb") as file:
            os.fsync(file.fileno())
        return seconds + time.perf_counter() - started

    contestants = {"tle": update, f"{_NEW} alone, and a copy of the file": alone_and_copy}
    rows = race(contestants, rounds, f"update of {n:,} by {_NEW}")
    started = time.perf_counter()
    result = tle.extract(
        links,
        folder / "u.h5",
        backbone="torchvision/mobilenet_v3_small",
        weights=str(weights),
        overrides=tle.PreprocessOverrides(resize=64, crop=64),
    )
    if not result.already_done:
        raise AssertionError("an up-to-date cache was not recognised")
    return [*rows, (f"nothing to do for {n + _NEW:,}: tle", f"{time.perf_counter() - started:.4f}", "")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="rows that are written and read (default: 200,000)")
    parser.add_argument("--cached", type=int, default=100_000, help="pictures below the update (default: 100,000)")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds after a first one (default: 5)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/DATE_HARDWARE_cache.json and .md")
    return parser


def main() -> int:
    """Run the races, print their table, save it on request."""
    options = _parser().parse_args()
    hardware = report.machine()
    x_ND = np.random.default_rng(0).standard_normal((options.rows, DIM), np.float32)
    with tempfile.TemporaryDirectory(prefix="tle-cache-", dir=Path.cwd()) as scratch:
        folder = Path(scratch)
        rows = writing(folder, x_ND, options.rounds) + reading(folder, x_ND, options.rounds)
        del x_ND
        rows += opening(folder, options.rounds)
        rows += updating(folder, options.cached, options.rounds)
    text = report.table(("what", "seconds: median [least, most]", "times tle's"), rows)
    print(text)
    if options.save:
        record = {
            "command": " ".join(["python -m tle.benchmarks.cache", *sys.argv[1:]]),
            "machine": hardware,
            "versions": report.versions(),
            "rows": rows,
        }
        path = report.default_path("cache", hardware, Path("benchmarks/results"))
        report.save(path, record, text)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
