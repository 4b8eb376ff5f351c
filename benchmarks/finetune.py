"""Does fine-tuning win over the frozen head that it starts from? On real pictures, with default options, on test.

    OMP_NUM_THREADS=1 taskset -c 0 python -m tle.benchmarks.finetune                 # art4apps, tiles, fashion
    python -m tle.benchmarks.finetune fashion --seeds 3 --side 96 --save

For every seed: a head on cached features (the seed decides which part of train is val); `tle.finetune` from it with
default options; the same training's best epoch whatever the verdict; and plain fine-tuning for as long, from a new head and
with one rate for all layers. Each is a file, and its accuracy is that of the file on the test pictures, float32. Backbone:
the packaged EfficientNet-Lite0. Gains are over the frozen head of the same seed, with the 95 % interval of a t distribution
over seeds, and of a paired bootstrap over test pictures.

# S seeds, N test pictures, R resamples
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

import tle
from tle.benchmarks import datasets, report
from tle.benchmarks.finetune_pictures import PICTURES, fewer
from tle.bootstrap import RESAMPLES, percentile_interval
from tle.bundle import read_classifier
from tle.finetuning.checkpoints import checkpoint_path
from tle.labelling import match_labels
from tle.metrics import LEVEL
from tle.scored import score_images

HEAD, TUNED, BEST_EPOCH, PLAIN = "frozen head", "tle finetune", "its best epoch", "plain fine-tuning"
ARMS = (HEAD, TUNED, BEST_EPOCH, PLAIN)
BACKBONE = "timm/tf_efficientnet_lite0"
QUICK_PICTURES = 4  # of every class and split


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Pictures, and the backbone that they are for.

    Attributes:
        images: manifest with a train and a test split.
        backbone: as `tle.load_backbone` takes it.
        weights: likewise.
        side: height and width that pictures are resized to, pixels.
    """

    images: Path
    backbone: str
    weights: str
    side: int


def race(
    problem: Problem, folder: Path, *, seeds: Sequence[int], options: tle.FinetuneOptions, progress: bool = False
) -> dict[str, Any]:
    """All seeds on one problem.

    Args:
        problem: pictures and backbone.
        folder: where files go.
        seeds: of the val split and of all that is random in training.
        options: of fine-tuning; the seed is replaced.
        progress: show it on standard error.

    Returns:
        `rows`, one a seed: accuracy on test by arm, kept, best epoch, rates; and `gains` by arm, see `gain`.
    """
    cache, overrides = folder / "cache.h5", tle.PreprocessOverrides(resize=problem.side, crop=problem.side)
    execution = _execution(options)
    tle.extract(
        problem.images,
        cache,
        backbone=problem.backbone,
        weights=problem.weights,
        overrides=overrides,
        execution=execution,
        progress=progress,
    )
    rows: list[dict[str, Any]] = []
    right: dict[str, list[NDArray[np.bool_]]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        own = replace(options, seed=seed)
        head = folder / f"{seed}.head"
        tle.fit_head(cache, head, seed=seed)
        started = time.monotonic()
        tuned = tle.finetune(
            problem.images, folder / f"{seed}.tle", init=head, cache=cache, options=own, progress=progress
        )
        tuned_s = time.monotonic() - started
        best = _best_epoch(problem, folder, seed, tuned, own)
        plain = tle.finetune(
            problem.images,
            folder / f"{seed}-plain.tle",
            init="none",
            backbone=problem.backbone,
            weights=problem.weights,
            overrides=overrides,
            options=replace(own, layer_decay=1.0, keep="finetuned"),
            progress=progress,
        )
        files = {HEAD: head, TUNED: tuned.path, BEST_EPOCH: best.path, PLAIN: plain.path}
        for arm, path in files.items():
            right[arm].append(_right(path, problem.images, execution))
        rows.append(
            {
                "seed": seed,
                "n_train": tuned.n_train,
                "n_val": tuned.n_val,
                "test": {arm: float(right[arm][-1].mean()) for arm in ARMS},
                "kept": tuned.kept,
                "verdict": tuned.training["verdict"],
                "best_epoch": tuned.training["best_epoch"],
                "history": tuned.training["history"],
                "plain_history": plain.training["history"],
                "throughput": tuned.training["throughput"],
                "seconds": tuned_s,
            }
        )
        if progress:
            print(describe_row(rows[-1]), file=sys.stderr, flush=True)
    right_SN = {arm: np.stack(values) for arm, values in right.items()}
    return {
        "n_test": right_SN[HEAD].shape[1],
        "options": options.to_dict(),
        "rows": rows,
        "gains": {arm: gain(right_SN[HEAD], right_SN[arm]) for arm in ARMS if arm != HEAD},
    }


def gain(head_SN: NDArray[np.bool_], other_SN: NDArray[np.bool_], *, seed: int = 0) -> dict[str, Any]:
    """How much more often one is right than the other.

    Args:
        head_SN: (S, N) whether the frozen head is right, by seed and test picture.
        other_SN: (S, N) whether the other is.
        seed: of the bootstrap.

    Returns:
        `mean` over seeds, `by_seed`, `at_least_equal` (seeds in which the other is no worse), `over_seeds` (95 % interval,
        t distribution; None with one seed) and `over_pictures` (95 %, paired bootstrap of the mean over seeds).
    """
    difference_SN = other_SN.astype(np.float64) - head_SN
    by_seed_S = difference_SN.mean(axis=1)
    mean, n_seeds = float(by_seed_S.mean()), len(by_seed_S)
    over_seeds = None
    if n_seeds > 1:
        half = float(stats.t.ppf((1 + LEVEL) / 2, n_seeds - 1) * by_seed_S.std(ddof=1) / np.sqrt(n_seeds))
        over_seeds = [mean - half, mean + half]
    difference_N, rng = difference_SN.mean(axis=0), np.random.default_rng(seed)
    n = len(difference_N)
    means_R = np.array([difference_N[rng.integers(0, n, n)].mean() for _ in range(RESAMPLES)])
    return {
        "mean": mean,
        "by_seed": by_seed_S.tolist(),
        "at_least_equal": int((by_seed_S >= 0).sum()),
        "over_seeds": over_seeds,
        "over_pictures": percentile_interval(means_R),
    }


def _execution(options: tle.FinetuneOptions) -> "tle.Execution":
    """One way to compute for all, so that accuracies differ by the classifier alone."""
    return tle.Execution(
        runtime="torch", precision="float32", batch_size=32, workers=options.workers, device=options.device
    )


def _best_epoch(
    problem: Problem, folder: Path, seed: int, tuned: tle.FinetuneResult, options: tle.FinetuneOptions
) -> tle.FinetuneResult:
    """The same training's best epoch, also where the head was kept: out of its checkpoint, which is complete."""
    output = folder / f"{seed}-best.tle"
    shutil.copyfile(tuned.checkpoint, checkpoint_path(output))
    return tle.finetune(
        problem.images,
        output,
        init=folder / f"{seed}.head",
        cache=folder / "cache.h5",
        options=replace(options, keep="finetuned"),
    )


def _right(path: Path | None, images: Path, execution: "tle.Execution") -> NDArray[np.bool_]:
    """(N,) whether a finished file is right about each test picture."""
    if path is None:
        raise RuntimeError("no file was written: run this in one process")
    bundle = read_classifier(path)
    scored = score_images(bundle, path, images, "test", None, weights=None, execution=execution, progress=False)
    if len(scored.rows) != scored.inside:
        raise RuntimeError(f"{scored.inside - len(scored.rows)} test pictures of {images} cannot be used")
    labels_N, columns_A, _ = match_labels(bundle.head, scored.labelled, scored.rows)
    scores_NC = scored.scores if columns_A is None else scored.scores[:, columns_A]
    return np.asarray(scores_NC.argmax(axis=1) == labels_N)


def describe_row(row: dict[str, Any]) -> str:
    """A seed in a line."""
    test = ", ".join(f"{arm} {100 * value:.2f}" for arm, value in row["test"].items())
    return f"seed {row['seed']}: {test} % on test; kept {row['kept']}"


def describe(name: str, side: int, found: dict[str, Any]) -> str:
    """The tables of a problem, Markdown."""
    header = ("seed", *ARMS, "kept", "best epoch", "val: head -> tuned", "images/s", "of the step alone", "s")
    lines = []
    for row in found["rows"]:
        speed = row["throughput"]
        lines.append(
            (
                str(row["seed"]),
                *(f"{100 * row['test'][arm]:.2f}" for arm in ARMS),
                row["kept"],
                str(row["best_epoch"]),
                f"{100 * row['verdict']['head']:.2f} -> {100 * row['verdict']['finetuned']:.2f}",
                f"{speed['images_per_s']:.1f}",
                f"{speed['images_per_s'] / speed['limit_images_per_s']:.0%}",
                f"{row['seconds']:.0f}",
            )
        )
    gains = [
        (
            arm,
            f"{100 * gain['mean']:+.2f}",
            f"{gain['at_least_equal']} of {len(found['rows'])}",
            _interval(gain["over_seeds"]),
            _interval(gain["over_pictures"]),
        )
        for arm, gain in found["gains"].items()
    ]
    first = found["rows"][0]
    title = (
        f"{name}: {first['n_train']:,} train, {first['n_val']:,} val, {found['n_test']:,} test pictures of {side} pixels, "
        f"{found['options']['epochs']} epochs; accuracy on test in %"
    )
    gain_header = ("gain over the frozen head", "points", "no worse in", "95 % over seeds", "95 % over pictures")
    return "\n\n".join([title, report.table(header, lines), report.table(gain_header, gains)])


def _interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"[{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default: 3)")
    parser.add_argument("--side", type=int, default=96, help="pixels of height and width (default: 96)")
    parser.add_argument("--quick", action="store_true", help="a few pictures and one epoch: does it run?")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/DATE_HARDWARE_finetune.json, .md")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison, print its tables, save them on request; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in PICTURES]:
        parser.error(f"unknown pictures {unknown[0]}; there are {', '.join(PICTURES)}")
    words = sys.argv[1:] if arguments is None else list(arguments)
    record: dict[str, Any] = {
        "command": " ".join(["python -m tle.benchmarks.finetune", *words]),
        "machine": report.machine() | {"threads": torch.get_num_threads()},
        "versions": report.versions(),
        "found": {},
    }
    path = report.default_path("finetune", record["machine"], Path("benchmarks/results")) if options.save else None
    tables = []
    for name in options.names or PICTURES:
        with tempfile.TemporaryDirectory(prefix="tle-finetune-") as scratch:
            images = PICTURES[name]()
            if options.quick:
                images = fewer(images, Path(scratch) / "fewer.csv", QUICK_PICTURES)
            problem = Problem(
                images=images, backbone=BACKBONE, weights=str(datasets.lite0_checkpoint()), side=options.side
            )
            training = tle.FinetuneOptions(epochs=1, warmup="0") if options.quick else tle.FinetuneOptions()
            found = race(problem, Path(scratch), seeds=range(options.seeds), options=training, progress=True)
        record["found"][name] = found | {"side": options.side}
        tables.append(describe(name, options.side, found))
        print(f"\n{tables[-1]}", flush=True)
        if path is not None:  # after each: hours are not lost to the last one
            report.save(path, record, "\n\n".join(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
