"""Several contestants on one job, taking turns, and what comes of it.

# N images, D feature dim
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.benchmarks import report
from tle.benchmarks.contestants import (
    OWN_PREPROCESSING,
    Contestant,
    ContestantError,
    Job,
    Run,
    output_name,
    read_features,
    run,
    tune,
)


class Race:
    """Contestants on one job, round after round.

    Attributes:
        runs: contestant name -> its runs, one a round.
        features: contestant name -> float64 (N, D) of the first round.
        missing: contestant name -> why it does not take part.
    """

    def __init__(self, contestants: Sequence[Contestant], peers_path: Path | None) -> None:
        """Start with nothing run."""
        self.contestants = list(contestants)
        self.peers_path = peers_path
        self.runs: dict[str, list[Run]] = {}
        self.features: dict[str, NDArray[np.float64]] = {}
        self.missing: dict[str, str] = {}

    def round(self, job: Job) -> None:
        """Let everybody run once, in the same order each time; a peer that fails the first time is out."""
        for contestant in list(self.contestants):
            name = contestant.name
            with tempfile.TemporaryDirectory() as scratch:
                output = Path(scratch) / output_name(contestant)
                try:
                    done = run(contestant, job, output, peers_path=self.peers_path)
                except ContestantError as error:
                    if not contestant.peer or name in self.runs:
                        raise
                    self.missing[name] = str(error)
                    self.contestants.remove(contestant)
                    say(str(error))
                    continue
                if name not in self.runs:
                    self.features[name] = read_features(contestant, output)
            self.runs.setdefault(name, []).append(done)
            say(f"{job.model}: {name}: {done.images_per_s:.1f} images/s, {done.wall_s:.1f} s in all")

    def fastest_peer(self, figures: dict[str, list[float]]) -> str | None:
        """The peer with the highest median figure, all its variants counted."""
        peers = [contestant.name for contestant in self.contestants if contestant.peer]
        return max(peers, key=lambda name: statistics.median(figures[name]), default=None)

    def cosines(self) -> list[dict[str, Any]]:
        """Features of tle against those of every peer, over all pictures.

        Raises:
            ContestantError: they are not of one shape.
        """
        names = [(contestant.name, contestant.peer) for contestant in self.contestants]
        shapes = {name: features_ND.shape for name, features_ND in self.features.items()}
        if len(set(shapes.values())) > 1:
            raise ContestantError(f"expected features of one shape from all contestants, got {shapes}")
        return [
            {"tle": ours, "peer": theirs, "judged": other not in OWN_PREPROCESSING}
            | report.cosines(self.features[ours], self.features[theirs])
            for ours, own in names
            if not own
            for theirs, other in names
            if other
        ]


def compare(
    job: Job,
    contestants: Sequence[Contestant],
    rounds: int,
    *,
    peers_path: Path | None = None,
    wall_n: int | None = None,
) -> dict[str, Any]:
    """Images per second of all contestants on one job, and how alike their features are.

    Args:
        job: what everybody gets.
        contestants: who takes turns, in this order.
        rounds: runs of everybody.
        peers_path: a folder of further packages for peers.
        wall_n: the number of pictures, to count the whole process from the command to its end; None takes the
            contestants' own clocks, which leave start-up out.

    Returns:
        A JSON-able record: figures, medians, ratios to the fastest peer, all runs, cosines, who is missing.
    """
    race = Race(contestants, peers_path)
    tuned: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="tle-memory-") as memory:
        if wall_n is None:  # else tuning counts, and each run starts without any memory
            job = replace(job, memory=Path(memory))
            for contestant in race.contestants:
                if not contestant.peer:
                    tuned[contestant.name] = tune(contestant, job)
                    say(f"{job.model}: {contestant.name}: tuned in {tuned[contestant.name]['wall_s']:.1f} s")
        for _ in range(rounds):
            race.round(job)
    figures = {
        name: [wall_n / done.wall_s if wall_n else done.images_per_s for done in runs]
        for name, runs in race.runs.items()
    }
    reference = race.fastest_peer(figures)
    return {
        "unit": "images/s of the whole process" if wall_n else "images/s",
        "figures": figures,
        "medians": {name: statistics.median(own) for name, own in figures.items()},
        "fastest_peer": reference,
        "ratios": report.ratios(figures, reference) if reference else {},
        "cosines": race.cosines(),
        "runs": {
            name: [asdict(done) | {"tuning_s": done.tuning_s} for done in runs] for name, runs in race.runs.items()
        },
        "tuned": tuned,
        "missing": race.missing,
    }


def describe(record: dict[str, Any]) -> str:
    """The tables of one comparison: figures, cosines, who is missing."""
    rows = []
    for name, figures in record["figures"].items():
        runs, cosines = record["runs"][name], [entry for entry in record["cosines"] if entry["judged"]]
        own = [entry["min"] for entry in cosines if name in (entry["tle"], entry["peer"])]
        tuned = [done["tuning_s"] for done in runs if done["tuning_s"] is not None]
        rows.append(
            (
                name,
                report.spread(figures, 2),
                f"{record['ratios'][name]:.2f}" if record["ratios"] else "-",
                f"{min(own):.7f}" if own else "-",
                report.spread([done["wall_s"] for done in runs]),
                report.spread(tuned) if tuned else "-",
                f"{max(done['peak_mib'] for done in runs):.0f}",
            )
        )
    unit = f"{record['unit']}, median [min, max]"
    header = ("contestant", unit, "to fastest peer", "min cosine", "wall s", "tuning s", "peak MiB")
    parts = [record["title"], report.table(header, rows)]
    if record["cosines"]:
        header = ("tle", "peer", "min cosine", "mean", "centred min", "centred mean", "judged")
        values = ("min", "mean", "centred_min", "centred_mean")
        parts.append(
            report.table(
                header,
                [
                    (
                        entry["tle"],
                        entry["peer"],
                        *(f"{entry[key]:.7f}" for key in values),
                        "yes" if entry["judged"] else "no: other preprocessing",
                    )
                    for entry in record["cosines"]
                ],
            )
        )
    for name, found in record["tuned"].items():
        reached = (
            f"{found['images_per_s']:.1f} images/s end to end, {found['efficiency']:.1%} of the limit of its stages"
        )
        parts.append(
            f"{name}: {found['runtime']}, batches of {found['batch_size']}; found in {found['wall_s']:.1f} s by `tle bench`, "
            f"which measured {reached}"
        )
    parts += [f"left out: {reason}" for reason in record["missing"].values()]
    return "\n\n".join(parts)


def say(line: str) -> None:
    """A line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)
