"""Does the cost of an image, or the memory, grow with the number of images? tle alone, on small pictures."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tle.benchmarks import report
from tle.benchmarks.contestants import Contestant, Job, output_name, prepare, run
from tle.benchmarks.races import say

# The smallest network there is, on pictures that cost next to nothing: what is left is the price of the machinery.
MODEL, SIZE = "mobilenet_v3_small", 64


def measure(counts: Sequence[int], contestants: Sequence[Contestant], rounds: int) -> dict[str, Any]:
    """Cost per image and peak memory of tle for several numbers of small pictures."""
    weights = prepare("networks", MODEL)
    jobs = {
        n: Job(
            folder=prepare("photos", "small", str(n)),
            model=MODEL,
            weights=weights,
            resize=SIZE,
            crop=SIZE,
        )
        for n in counts
    }
    found: list[dict[str, Any]] = []
    for _ in range(rounds):
        for n, job in jobs.items():
            for contestant in contestants:
                with tempfile.TemporaryDirectory() as scratch:
                    done = run(contestant, job, Path(scratch) / output_name(contestant))
                found.append({"contestant": contestant.name, "n": n} | asdict(done) | {"tuning_s": done.tuning_s})
                say(f"{contestant.name}: {n} pictures, {done.images_per_s:.0f} images/s, {done.peak_mib:.0f} MiB")
    return {"title": f"{MODEL} at {SIZE}x{SIZE}", "unit": "images/s", "flat": found}


def describe(record: dict[str, Any]) -> str:
    """A table with a row for every contestant and number of pictures."""
    rows = []
    for name, n in dict.fromkeys((entry["contestant"], entry["n"]) for entry in record["flat"]):
        own = [entry for entry in record["flat"] if (entry["contestant"], entry["n"]) == (name, n)]
        rows.append(
            (
                name,
                f"{n}",
                report.spread([1e3 / entry["images_per_s"] for entry in own], 3),
                report.spread([1e3 * entry["cpu_s"] / n for entry in own], 3),
                report.spread([entry["wall_s"] for entry in own]),
                report.spread([entry["peak_mib"] for entry in own], 0),
            )
        )
    header = ("contestant", "pictures", "ms an image", "CPU ms an image, start included", "wall s", "peak MiB")
    return f"{record['title']}\n\n{report.table(header, rows)}"
