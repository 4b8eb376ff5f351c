"""Kill extractions with SIGKILL at random moments, go on, and compare the result with that of an undisturbed run.

    python -m tle.benchmarks.crash --kills 200

Every process is a real one that reads real JPEGs. Some kills hit the start (imports, laying out), some the middle, some
the end (the list of failures, the rename) and some the taking over of rows when pictures were added, changed and removed.
After each kill the unfinished file has to open in h5py; when a run gets through, features, labels, ids, status, digests
and failures have to be those of a run that nobody disturbed, byte for byte.
"""

import argparse
import collections
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from tle.cache import open_cache
from tle.cache.claim import new_path
from tle.enums import Status
from tle.errors import CacheError
from tle.files import part_path

N_PICTURES = 160
_BATCH = 4
_SYNC_S = 0.02  # so that a run of a second has many syncs to be killed between
_KILLS_A_RUN = 5
_PHASES = ("start", "middle", "middle", "finalising")
_COMPARED = ("features", "labels", "ids", "status", "digests", "classes", "splits")


def write_pictures(folder: Path, rows: range, size: int = 96) -> None:
    """JPEGs of noise over a colour in three class folders; every 17th is broken."""
    for row in rows:
        path = folder / f"class{row % 3}" / f"{row:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(row)
        pixels = rng.integers(0, 160, 3) + rng.integers(0, 96, (size, size, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
        if row % 17 == 5:
            path.write_bytes(path.read_bytes()[:300])


def change_pictures(folder: Path, n: int) -> None:
    """Add a quarter as many, change some and remove some."""
    write_pictures(folder, range(n, n + n // 4))
    for row in range(0, n, 23):
        shutil.copyfile(folder / "class1" / "00001.jpg", folder / f"class{row % 3}" / f"{row:05}.jpg")
    for row in range(7, n, 31):
        (folder / f"class{row % 3}" / f"{row:05}.jpg").unlink()


def extract_quietly(images: Path, output: Path) -> None:
    """One extraction, as a process of its own runs it."""
    import tle
    from tle.cache import writer

    writer.SYNC_INTERVAL_S = _SYNC_S
    tle.extract(
        images,
        output,
        backbone="torchvision/resnet18",
        weights="none",
        overrides=tle.PreprocessOverrides(resize=72, crop=64),
        execution=tle.Execution(
            runtime="torch", precision="float32", batch_size=_BATCH, workers=2, exact_decode=True, device="cpu"
        ),
    )


def content(path: Path) -> dict[str, bytes]:
    """What two caches of the same pictures have to agree in, byte for byte."""
    cache = open_cache(path)
    return {name: cache.raw(name).tobytes() for name in _COMPARED} | {"failures": repr(cache.failures).encode()}


class Campaign:
    """Runs, kills, and what came of them; all files are in `folder`."""

    def __init__(self, folder: Path, *, n_pictures: int = N_PICTURES, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._images, self._output = folder / "images", folder / "c.h5"
        self._processes: ForkServerContext = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["torch", "torchvision", "tle.extraction", "tle.tuning.choice"])
        self._n = n_pictures
        self.kills: collections.Counter[str] = collections.Counter()
        self.opened = 0
        self.completed = 0
        write_pictures(self._images, range(n_pictures))
        self._pristine = folder / "pristine"
        shutil.copytree(self._images, self._pristine)
        started = time.monotonic()
        self._finish(self._start())
        self._run_s = time.monotonic() - started
        self._expected = content(self._output)
        change_pictures(self._images, n_pictures)
        self._finish(self._start())
        self._expected_changed = content(self._output)

    def run(self, n_kills: int) -> None:
        """Kill `n_kills` processes.

        Raises:
            AssertionError: a file that does not open, or a result that is not the expected one.
        """
        while sum(self.kills.values()) < n_kills:
            shutil.rmtree(self._images)
            shutil.copytree(self._pristine, self._images)
            self._output.unlink()
            self._until_complete("", n_kills, self._expected)
            change_pictures(self._images, self._n)
            self._until_complete("update: ", n_kills, self._expected_changed)

    def _until_complete(self, what: str, n_kills: int, expected: dict[str, bytes]) -> None:
        for _ in range(_KILLS_A_RUN):
            if sum(self.kills.values()) >= n_kills:
                break
            process, phase = self._start(), str(self._rng.choice(_PHASES))
            self._wait_for(phase, process)
            if not process.is_alive():
                break
            process.kill()
            process.join()
            self.kills[what + phase] += process.exitcode == -signal.SIGKILL  # else it had just ended by itself
            self._look()
        self._finish(self._start())
        found = content(self._output)
        for name, value in expected.items():
            if found[name] != value:
                raise AssertionError(f"{name} is not what an undisturbed run makes, after {dict(self.kills)}")
        left = [path for path in (part_path(self._output), new_path(part_path(self._output))) if path.exists()]
        if left:
            raise AssertionError(f"{left} was left")
        self.completed += 1

    def _start(self) -> ForkServerProcess:
        process = self._processes.Process(target=extract_quietly, args=(self._images, self._output))
        process.start()
        return process

    def _finish(self, process: ForkServerProcess) -> None:
        process.join()
        if process.exitcode != 0:
            raise AssertionError(f"an undisturbed run ended with {process.exitcode}")

    def _wait_for(self, phase: str, process: ForkServerProcess) -> None:
        """Until a random moment of a phase, or the end of the process."""
        part = part_path(self._output)
        if phase == "start":
            process.join(float(self._rng.uniform(0, self._run_s / 2)))
        elif phase == "middle":
            while process.is_alive() and not (part.exists() or new_path(part).exists()):
                time.sleep(0.0005)
            process.join(float(self._rng.uniform(0, self._run_s / 3)))
        else:
            while process.is_alive() and not _all_rows_there(part):
                time.sleep(0.0002)
            process.join(float(self._rng.uniform(0, 0.004)))

    def _look(self) -> None:
        """Whatever was killed: what is there can be read."""
        part = part_path(self._output)
        if part.exists():
            with h5py.File(part, "r", locking=False) as h5:
                for name in h5:
                    h5[name][:1]
            self.opened += 1
        if self._output.exists():
            open_cache(self._output)


def _all_rows_there(part: Path) -> bool:
    try:
        return bool((open_cache(part).status != Status.PENDING).all())
    except (CacheError, OSError):  # not there yet, or not any more
        return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="processes to kill (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    return parser


def main() -> int:
    """Parse the command line, run the campaign, print what came of it."""
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="tle-crash-") as folder:
        campaign = Campaign(Path(folder), seed=arguments.seed)
        campaign.run(arguments.kills)
    print(
        f"{sum(campaign.kills.values())} kills ({', '.join(f'{n} {what}' for what, n in sorted(campaign.kills.items()))}), "
        f"{campaign.opened} unfinished files opened in h5py, {campaign.completed} runs completed, all byte-identical"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
