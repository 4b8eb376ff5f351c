"""The exact logistic regression of tle against those of others, on real features, set-up included.

    python -m tle.benchmarks.heads                                     # everything; hours
    python -m tle.benchmarks.heads lambda --problems tiles --threads 1
    python -m tle.benchmarks.heads path stream --threads 1 2 --save

    lambda     one C: the one that validates best, a decade either side, and on fashion C = 1; tle at its default tolerance
               and at the loosest that ends at or below the objective of scikit-learn's lbfgs
    path       45 values of C from 1e-6 to 1e5 against scikit-learn, each from zero and from the one before it
    stream     a million rows of float16 that stay in their file

With `--cuda` tle and torch's L-BFGS run on a GPU too, features sent there included; the long run is made there.

Features are those of `tle.benchmarks.head_problems`. Every run is a process of its own on as many cores as it has
threads; contestants take turns and medians count. Objectives are float64 and compared with a long run of tle in float64
whose own certificate says how good it is. How many times tle's seconds somebody took is taken round by round.

scikit-learn-intelex takes part where `import sklearnex` works (its libraries may need LD_LIBRARY_PATH). Values that
take long are kept in `head-races/` of the data folder, and run again once their file is deleted.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tle.benchmarks import head_races, head_stream, report
from tle.benchmarks.contestants import prepare
from tle.benchmarks.head_contestants import (
    COLD,
    ESTIMATOR,
    INTELEX,
    LBFGS,
    NEWTON_CG,
    NEWTON_CHOLESKY,
    REFERENCE,
    TLE,
    TORCH,
    WARM,
    FitJob,
    Value,
)
from tle.benchmarks.head_problems import PROBLEMS
from tle.benchmarks.head_races import Outcome, median_s, ratio, run, say, stored, take_turns, versions
from tle.benchmarks.registries import data_folder
from tle.heads.logistic import GRID

RACES = ("lambda", "path", "stream")
DECADE = 4  # steps of the grid
# Where to look besides: as good as separable.
ALSO = {"fashion": (1.0,)}
SAME = "tle, as low as lbfgs"
ON_CUDA = {TLE: "tle on cuda", TORCH: "torch LBFGS on cuda"}
TOLERANCES = (1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 1e-7, 1e-8)
# As users who want the optimum set them.
PEERS: dict[str, dict[str, Any]] = {
    LBFGS: {"tol": 1e-6, "max_iter": 100_000, "limit_s": 3600},
    NEWTON_CG: {"tol": 1e-6},
    NEWTON_CHOLESKY: {"tol": 1e-6},
    INTELEX: {"tol": 1e-6, "max_iter": 100_000},
    TORCH: {},
}
# scikit-learn's own default, whatever tle is asked for.
PATH_TOL = 1e-4
REFERENCE_LIMIT_S = 4 * 3600
# Of a float64 objective over some ten thousand rows, summed up in another order.
_ROUNDING = 1e-13


def job_of(problem: str, contestant: str, cs: Sequence[float], threads: int, **settings: Any) -> FitJob:
    """What a contestant is to do on a problem whose features are there."""
    prepare("head_problems", problem)  # in a child, so that this process stays small
    cache = data_folder() / "head-problems" / f"{problem}.h5"
    return FitJob(
        contestant=contestant, cache=str(cache), val=PROBLEMS[problem].val, cs=list(cs), threads=threads, **settings
    )


def best(values: Sequence[Value]) -> Value:
    """The value that validates best; of equals the one with the smallest C."""
    return max(values, key=lambda value: (value.accuracy, -value.c))


def references(problem: str, job: FitJob, device: str) -> dict[float, Value]:
    """C -> the long float64 run; kept, so that it is run once."""
    long = replace(job, contestant=REFERENCE, threads=1, limit_s=REFERENCE_LIMIT_S, device=device)
    return {value.c: value for value in stored(problem, long).values}


def judge(value: Value, reference: Value) -> dict[str, Any]:
    """How far a value is above the reference, at most above the optimum, and whether what it claims is true."""
    excess = value.objective - reference.objective
    at_most = excess + (reference.gap or 0.0)
    return {
        "excess": excess / reference.objective,
        "at_most": at_most / reference.objective,
        "claimed": None if value.gap is None else value.gap / value.objective,
        # False proves the claim wrong: the optimum is at or below the reference.
        "holds": None if value.gap is None else excess <= value.gap + _ROUNDING * value.objective,
    }


def race_lambda(problem: str, job: FitJob, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One C at a time, all contestants."""
    cs = options.cs
    if not cs:
        middle = GRID.index(best(run(replace(job, contestant=TLE, cs=GRID)).values).c)
        steps = (middle - DECADE, middle, middle + DECADE)
        cs = [*(GRID[step] for step in steps if 0 <= step < len(GRID)), *ALSO.get(problem, ())]
    found: list[dict[str, Any]] = []
    out: dict[str, str] = {}
    known = references(problem, replace(job, cs=cs), options.device)
    for c in cs:
        say(f"{problem}, {job.threads} threads, C = {c:.3g}")
        one = replace(job, cs=[c])
        jobs = {
            name: replace(one, contestant=name, **({"limit_s": options.limit} | settings))
            for name, settings in PEERS.items()
            if name in options.peers and name not in out
        }
        tle = {TLE: replace(one, contestant=TLE), ESTIMATOR: replace(one, contestant=ESTIMATOR)}
        if options.device == "cuda":
            tle[ON_CUDA[TLE]] = replace(one, contestant=TLE, device="cuda")
            jobs |= {ON_CUDA[name]: replace(entry, device="cuda") for name, entry in jobs.items() if name in ON_CUDA}
        first: dict[str, list[Outcome]] = {}
        if LBFGS in jobs:
            first[LBFGS] = [run(jobs[LBFGS])]
            if (same := as_low(tle[TLE], first[LBFGS][0])) and same.tol < job.tol:
                tle[SAME] = same
        outcomes = take_turns(tle | jobs, options.runs, first)
        out |= {name: done[0].reason for name, done in outcomes.items() if done[0].reason and name in PEERS}
        found.append(
            {
                "problem": problem,
                "threads": job.threads,
                "c": c,
                "reference": asdict(known[c]) if c in known else None,
                "tolerances": {name: entry.tol for name, entry in (tle | jobs).items()},
                "outcomes": {name: [asdict(one) for one in done] for name, done in outcomes.items()},
                "rows": [lambda_row(name, outcomes, known.get(c)) for name in outcomes],
                "out": dict(out),
            }
        )
        print(describe_lambda(found[-1]), flush=True)
    return found


def as_low(job: FitJob, target: Outcome) -> FitJob | None:
    """The job at the loosest tolerance that ends at or below an objective; None if none does."""
    if target.reason:
        return None
    for tol in TOLERANCES:
        if run(trial := replace(job, tol=tol)).values[0].objective <= target.values[0].objective:
            return trial
    say(f"tle does not end as low as {target.values[0].objective:.12g}")
    return None


def lambda_row(name: str, outcomes: dict[str, list[Outcome]], reference: Value | None) -> tuple[str, ...]:
    """A line of the table of one C."""
    done = outcomes[name]
    if done[0].reason:
        return (name, done[0].reason, "", "0", "", "", "", "", "", "")
    value = done[0].values[0]
    judged = judge(value, reference) if reference else {}
    return (
        name,
        report.spread([one.seconds for one in done], 2),
        f"{_least_cpu(done):.2f}",
        str(len(done)),
        f"{value.iterations:.0f}",
        f"{value.objective:.9f}",
        f"{judged['excess']:.1e}" if judged else "",
        f"{judged['claimed']:.1e}" if judged and judged["claimed"] is not None else "",
        {True: "yes", False: "NO", None: ""}[judged.get("holds")],
        *(
            "" if other not in outcomes or outcomes[other][0].reason else f"{ratio(outcomes, name, other):.2f}"
            for other in (TLE, SAME)
        ),
    )


def describe_lambda(found: dict[str, Any]) -> str:
    """The table of one C."""
    header = (
        "contestant",
        "seconds: median [least, most]",
        "least CPU s",
        "runs",
        "steps",
        "objective",
        "excess",
        "claimed",
        "claim holds",
        "times tle's",
        "times tle's, as low",
    )
    rows = [(*row, "")[: len(header)] for row in found["rows"]]
    known, tolerances = found["reference"], found["tolerances"]
    parts = [
        f"{found['problem']}, {found['threads']} threads, C = {found['c']:.4g}",
        report.table(header, rows),
        "reference: "
        + (f"{known['objective']:.12g}, certified to {known['gap'] / known['objective']:.1e}" if known else "none"),
    ]
    if SAME in tolerances:
        parts[-1] += f"; {SAME}: tolerance {tolerances[SAME]:g}"
    gone = [f"not run: {name}, {why} at a smaller C" for name, why in found["out"].items() if name not in tolerances]
    return "\n\n".join([*parts, *gone])


def race_path(problem: str, job: FitJob, options: argparse.Namespace) -> dict[str, Any]:
    """The 45 values: tle anew, scikit-learn's from what is kept."""
    job = replace(job, cs=GRID)
    ours = {TLE: replace(job, contestant=TLE)}
    if options.device == "cuda":
        ours[ON_CUDA[TLE]] = replace(job, contestant=TLE, device="cuda")
    outcomes = take_turns(ours, options.runs)
    for name in (WARM, COLD):
        settings: dict[str, Any] = {"tol": PATH_TOL, "limit_s": 3600}
        outcomes[name] = [stored(problem, replace(job, contestant=name, **settings), most=options.most)]
    known = references(problem, job, options.device)
    judged = {
        name: {value.c: judge(value, known[value.c]) for value in done[0].values if value.c in known}
        for name, done in outcomes.items()
    }
    found = {
        "problem": problem,
        "threads": job.threads,
        "outcomes": {name: [asdict(one) for one in done] for name, done in outcomes.items()},
        "references": {f"{c:.6g}": asdict(value) for c, value in known.items()},
        "judged": {name: {f"{c:.6g}": one for c, one in own.items()} for name, own in judged.items()},
        "rows": [path_row(name, outcomes, judged[name]) for name in outcomes],
    }
    print(describe_path(found), flush=True)
    return found


def path_row(name: str, outcomes: dict[str, list[Outcome]], judged: dict[float, dict[str, Any]]) -> tuple[str, ...]:
    """A line of the table of a path."""
    done = outcomes[name]
    chosen = best(done[0].values) if done[0].values else None
    claims = [one["holds"] for one in judged.values() if one["holds"] is not None]
    return (
        name,
        report.spread([one.seconds for one in done], 2) if chosen else "",
        f"{_least_cpu(done):.2f}" if chosen else "",
        str(len(done)),
        f"{len(done[0].values)}" + (f" ({done[0].reason})" if done[0].reason else ""),
        f"{max(one['excess'] for one in judged.values()):.1e}" if judged else "",
        f"{sum(one['excess'] <= 1e-4 for one in judged.values())} of {len(judged)}",
        f"{sum(claims)} of {len(claims)}" if claims else "",
        f"{chosen.c:.3g}: {chosen.accuracy:.4f}" if chosen else "",
        "" if done[0].reason else f"{median_s(done) / median_s(outcomes[TLE]):.1f}",
        "" if done[0].reason else f"{_least_cpu(done) / _least_cpu(outcomes[TLE]):.1f}",
    )


def _least_cpu(done: Sequence[Outcome]) -> float:
    """What a crowded machine cannot make longer, so that it shows what a median of seconds has suffered."""
    return min(one.cpu_s for one in done)


def describe_path(found: dict[str, Any]) -> str:
    """The tables of one path: contestants, and every value."""
    header = (
        "contestant",
        "seconds: median [least, most]",
        "least CPU s",
        "runs",
        "values",
        "largest excess",
        "within 1e-4",
        "claims that hold",
        "chosen C: accuracy",
        "times tle's",
        "CPU",
    )
    names = list(found["judged"])
    rows = []
    for c, reference in found["references"].items():
        own = [found["judged"][name].get(c) for name in names]
        claimed = found["judged"][TLE].get(c, {}).get("claimed")
        rows.append(
            (
                c,
                f"{reference['objective']:.9g}",
                f"{reference['gap'] / reference['objective']:.1e}",
                f"{claimed:.1e}" if claimed is not None else "",
                *(f"{one['excess']:.1e}" if one else "" for one in own),
            )
        )
    own_header = ("C", "reference", "certified to", "tle claims", *(f"excess of {name}" for name in names))
    title = f"{found['problem']}, {found['threads']} threads, {len(GRID)} values"
    return "\n\n".join([title, report.table(header, found["rows"]), report.table(own_header, rows)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("races", nargs="*", metavar="RACE", help=f"of {', '.join(RACES)}; default: all")
    parser.add_argument(
        "--problems", nargs="+", choices=list(PROBLEMS), default=["fashion", "tiles", "hundred"], metavar="NAME",
        help="of tle.benchmarks.head_problems (default: fashion tiles hundred)",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=3, help="rounds (default: 3); who takes long runs once")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of each run (default: 1 2)")
    parser.add_argument("--tol", type=float, default=1e-4, help="of tle (default: 1e-4)")
    parser.add_argument("--cs", type=float, nargs="+", default=[], help="lambda: values of C instead of the chosen one")
    parser.add_argument(
        "--peers", nargs="*", choices=list(PEERS), default=list(PEERS), metavar="NAME", help="lambda: who takes part"
    )
    parser.add_argument("--limit", type=int, default=600, help="lambda: seconds a peer may take (default: 600)")
    parser.add_argument("--most", type=int, help="path: baselines' values to fit now at most; what is kept counts too")
    parser.add_argument("--rows", type=int, default=1_000_000, help="stream: rows (default: 1,000,000)")
    parser.add_argument("--max-passes", type=int, default=200, help="stream: passes the solver may take (default: 200)")
    parser.add_argument(
        "--cuda", dest="device", action="store_const", const="cuda", default="cpu", help="lambda, path: on a GPU too"
    )
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/DATE_HARDWARE_heads_RACE.json, .md"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the races, print their tables, save them on request.

    Args:
        arguments: the words of the command line; None takes the process's own.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [race for race in options.races if race not in RACES]:
        parser.error(f"unknown race {unknown[0]}; there are {', '.join(RACES)}")
    gpu = head_races.gpu() if options.device == "cuda" else None
    if options.device == "cuda" and gpu is None:
        parser.error("--cuda needs a GPU that torch can use, there is none")
    words = sys.argv[1:] if arguments is None else list(arguments)
    for race in options.races or RACES:
        hardware, found, parts = report.machine(), [], []
        if options.device == "cuda":
            hardware["gpu"] = gpu
        for threads in options.threads:
            if race == "stream":
                found.append(head_stream.race(options.rows, threads, options.runs, options.max_passes))
                parts.append(head_stream.describe(found[-1]))
                print(parts[-1], flush=True)
                continue
            for problem in options.problems:
                job = job_of(problem, TLE, [], threads, tol=options.tol)
                if race == "lambda":
                    own = race_lambda(problem, job, options)
                    parts += [describe_lambda(one) for one in own]
                    found += own
                else:
                    found.append(race_path(problem, job, options))
                    parts.append(describe_path(found[-1]))
        if options.save:
            record = {
                "command": " ".join(["python -m tle.benchmarks.heads", *words]),
                "machine": hardware,
                "versions": report.versions() | versions(),
                "found": found,
            }
            suffix = "" if options.device == "cpu" else f"_{options.device}"
            path = report.default_path(f"heads_{race}{suffix}", hardware, Path("benchmarks/results"))
            report.save(path, record, "\n\n".join(parts))
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
