"""Kill fine-tunings with SIGKILL at random moments, go on, and compare the result with that of an undisturbed run.

    python -m tle.benchmarks.finetune_crash --kills 20

Every process is a real `tle finetune` that reads real files, with dropout, random crops, trained BatchNorm, a moving average
or mixup. Some kills hit the start (imports, the first validation), some the training after a checkpoint, some the writing of
a checkpoint and some that of the classifier. When a run gets through, its classifier has to be that of a run that nobody
disturbed but for the times in it, and the checkpoint has to hold the same weights, optimizer and best weights, bit by bit.
"""

import argparse
import collections
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tle
from tle.benchmarks.crash import write_pictures
from tle.bundle import read_bundle
from tle.finetuning.checkpoints import checkpoint_path

N_PICTURES = 72
SIDE = 24
NETWORK = "tle.benchmarks.finetune_crash:tiny_network"
# Of one run of `tle finetune` each: together they use every part of the state.
FLAGS = (
    ("--ema", "0.9", "--bn", "train", "--metric", "nll", "--keep", "finetuned"),
    ("--optimizer", "sgd", "--accumulate", "2", "--mixup", "0.2", "--unfreeze-schedule", "--keep", "last"),
    ("--balanced-sampling", "--rand-augment", "2", "9", "--label-smoothing", "0.1"),
)
_COMMON = ("--epochs", "5", "--batch-size", "4", "--workers", "1", "--checkpoint-minutes", "0.0005")
_KILLS_A_RUN = 4
_PHASES = ("start", "training", "training", "writing", "finishing")
# What no two runs agree in: times, and the rates made of them.
_TIMES = frozenset({"seconds", "images_per_s", "limit_images_per_s"})


def tiny_network() -> nn.Module:
    """Convolutions, BatchNorm, dropout and a last layer that a head replaces; for pictures of `SIDE` pixels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def finetune_quietly(arguments: tuple[str, ...], log: Path) -> None:
    """`tle finetune`, as a process of its own runs it.

    Args:
        arguments: its words.
        log: where what it says goes.
    """
    from tle.cli.main import main

    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        torch.set_num_threads(1)  # sums in another order are other sums
        sys.exit(main(["finetune", *arguments]))


def content(classifier: Path) -> dict[str, bytes]:
    """What two runs of the same training have to agree in, byte for byte.

    Args:
        classifier: what a finished run wrote; its checkpoint lies beside it.
    """
    bundle = read_bundle(classifier)
    checkpoint = torch.load(checkpoint_path(classifier), map_location="cpu", weights_only=True)
    groups: dict[str, Mapping[str, Any]] = {
        "backbone": bundle.state or {},
        "head": bundle.head.arrays(),
        "array": bundle.arrays,
        "checkpoint": _leaves(checkpoint["state"]),
    }
    found = {f"{group}/{name}": _bytes(value) for group, values in groups.items() for name, value in values.items()}
    documents = {"head": bundle.head.document(), "data": bundle.data, "metrics": bundle.metrics}
    documents |= {"training": bundle.training or {}, "base": bundle.base or {}}
    return found | {name: repr(_without_times(document)).encode() for name, document in documents.items()}


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The values of nested dicts and lists under their paths, times left out."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            path: leaf
            for key, inner in items
            if key not in _TIMES and key != "train_s"
            for path, leaf in _leaves(inner, f"{name}/{key}").items()
        }
    return {name: value}


def _bytes(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    return (
        value.tobytes() + f"{value.dtype}{value.shape}".encode()
        if isinstance(value, np.ndarray)
        else repr(value).encode()
    )


def _without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_times(inner) for key, inner in sorted(value.items()) if key not in _TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list | tuple) else value


class Campaign:
    """Runs, kills, and what came of them; all files are in `folder`."""

    def __init__(self, folder: Path, *, n_pictures: int = N_PICTURES, seed: int = 0) -> None:
        """Fit the head that all start from.

        Args:
            folder: an empty one.
            n_pictures: in three classes.
            seed: of the moments.
        """
        self._rng = np.random.default_rng(seed)
        self._folder, self._images, self._init = folder, folder / "images", folder / "start.head"
        self._processes: ForkServerContext = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["torch", "torchvision", "tle.finetuning.run", "tle.cli.finetune"])
        self.kills: collections.Counter[str] = collections.Counter()
        self.resumed = 0
        self.completed = 0
        write_pictures(self._images, range(n_pictures), size=SIDE + 8)
        tle.extract(
            self._images,
            self._init.with_suffix(".h5"),
            backbone=NETWORK,
            overrides=tle.PreprocessOverrides(resize=SIDE, crop=SIDE),
            execution=tle.Execution(runtime="torch", precision="float32", batch_size=16, workers=1, device="cpu"),
        )
        tle.fit_head(self._init.with_suffix(".h5"), self._init, val_fraction=0.25)
        self._references: dict[tuple[str, ...], tuple[dict[str, bytes], float]] = {}

    def run(self, n_kills: int) -> None:
        """Kill `n_kills` processes.

        Args:
            n_kills: how many.

        Raises:
            AssertionError: a run that does not go on, or a result that is not the expected one.
        """
        number = 0
        while sum(self.kills.values()) < n_kills:
            flags = FLAGS[number % len(FLAGS)]
            self._until_complete(self._folder / f"{number}.tle", flags, n_kills)
            number += 1

    def _reference(self, flags: tuple[str, ...]) -> tuple[dict[str, bytes], float]:
        """What an undisturbed run makes, and the seconds it takes."""
        if flags not in self._references:
            output, started = self._folder / f"undisturbed-{len(self._references)}.tle", time.monotonic()
            self._finish(self._start(output, flags), output)
            self._references[flags] = content(output), time.monotonic() - started
        return self._references[flags]

    def _until_complete(self, output: Path, flags: tuple[str, ...], n_kills: int) -> None:
        expected, run_s = self._reference(flags)
        for _ in range(_KILLS_A_RUN):
            if output.exists() or sum(self.kills.values()) >= n_kills:
                break
            process, phase = self._start(output, flags), str(self._rng.choice(_PHASES))
            self._wait_for(phase, process, output, run_s)
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:  # it had just ended by itself
                self._finish(process, output)
            self.kills[phase] += process.exitcode == -signal.SIGKILL
            self.resumed += _resumed(output)
        if not output.exists():
            self._finish(self._start(output, flags), output)
            self.resumed += _resumed(output)
        found = content(output)
        differing = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        if differing:
            raise AssertionError(
                f"{len(differing)} of {len(expected)} parts are not what an undisturbed run makes, after {dict(self.kills)} "
                f"and with {' '.join(flags)}: {', '.join(differing[:5])}"
            )
        self.completed += 1

    def _start(self, output: Path, flags: tuple[str, ...]) -> ForkServerProcess:
        words = (str(self._images), "--init", str(self._init), "-o", str(output), *_COMMON, *flags)
        process = self._processes.Process(target=finetune_quietly, args=(words, output.with_suffix(".log")))
        process.start()
        return process

    def _finish(self, process: ForkServerProcess, output: Path) -> None:
        process.join()
        if process.exitcode != 0:
            said = output.with_suffix(".log").read_text()
            raise AssertionError(f"a run that nobody killed ended with {process.exitcode}: {said}")

    def _wait_for(self, phase: str, process: ForkServerProcess, output: Path, run_s: float) -> None:
        """Until a random moment of a phase, or the end of the process."""
        checkpoint = checkpoint_path(output)
        before = _change_time(checkpoint)
        if phase == "start":
            process.join(float(self._rng.uniform(0, run_s / 2)))
        elif phase == "training":
            _wait(process, lambda: _change_time(checkpoint) != before)
            process.join(float(self._rng.uniform(0, run_s / 3)))
        elif phase == "writing":
            _wait(process, lambda: _change_time(checkpoint) != before)
            process.join(float(self._rng.uniform(0, run_s / 3)))
            _wait(process, lambda: _unfinished(checkpoint, process).exists())
            process.join(float(self._rng.uniform(0, 0.002)))
        else:
            _wait(process, lambda: _unfinished(output, process).exists() or output.exists())
            process.join(float(self._rng.uniform(0, 0.002)))


def _wait(process: ForkServerProcess, condition: Callable[[], bool]) -> None:
    while process.is_alive() and not condition():
        time.sleep(0.0002)


def _resumed(output: Path) -> bool:
    log = output.with_suffix(".log")
    return log.exists() and "going on from" in log.read_text()


def _change_time(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _unfinished(path: Path, process: ForkServerProcess) -> Path:
    """What a process calls a file as long as it is not complete."""
    return path.with_name(f".{path.name}.{process.pid}.part")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="processes to kill (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    return parser


def main() -> int:
    """Parse the command line, run the campaign, print what came of it."""
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="tle-finetune-crash-") as folder:
        campaign = Campaign(Path(folder), seed=arguments.seed)
        campaign.run(arguments.kills)
    phases = ", ".join(f"{n} {phase}" for phase, n in sorted(campaign.kills.items()))
    print(
        f"{sum(campaign.kills.values())} kills ({phases}), {campaign.resumed} processes went on from a checkpoint, "
        f"{campaign.completed} runs completed, weights and classifiers bit-identical"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
