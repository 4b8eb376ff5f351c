"""The races of heads on problems of a hundred rows: that everybody minimises the same thing and that claims are checked."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tle.benchmarks import contestants, head_contestants, head_races, heads
from tle.benchmarks.contestants import ContestantError
from tle.benchmarks.head_contestants import (
    COLD,
    CONTESTANTS,
    ESTIMATOR,
    INTELEX,
    LBFGS,
    NEWTON_CG,
    NEWTON_CHOLESKY,
    REFERENCE,
    REFERENCE_TOL,
    TLE,
    TORCH,
    WARM,
    CannotFitError,
    FitJob,
    Value,
    objective,
    values,
)
from tle.benchmarks.head_races import Outcome
from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.enums import Split, Target

N_TRAIN, N_VAL, DIM, CLASSES = 120, 30, 5, 3


def write_cache(path: Path, seed: int = 0) -> Path:
    """Three classes that overlap, and a split to validate on."""
    rng = np.random.default_rng(seed)
    n = N_TRAIN + N_VAL
    labels = np.arange(n) % CLASSES
    x_ND = (rng.standard_normal((CLASSES, DIM))[labels] + 1.5 * rng.standard_normal((n, DIM))).astype(np.float32)
    content = Content(
        ids=[f"{row:03}" for row in range(n)],
        labels=labels,
        classes=list("abc"),
        splits=np.repeat(np.array([Split.TRAIN, Split.VAL], np.uint8), [N_TRAIN, N_VAL]),
        target=Target.CLASS,
        dim=DIM,
        dtype="float32",
        spec={"backbone": {"name": "none"}, "preprocess": {}, "decoder": "none", "precision": "float32"},
        run={},
    )
    with CacheWriter.create(path, content) as writer:
        writer.write(np.arange(n), x_ND, np.ones(n, np.uint64))
        writer.finish(replace=True)
    return path


@pytest.fixture
def job(tmp_path: Path) -> FitJob:
    cache = write_cache(tmp_path / "toy.h5")
    return FitJob(contestant=TLE, cache=str(cache), val="val", cs=[0.01, 1.0], tol=1e-6, max_iter=10_000)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[FitJob]:
    """Everybody really runs, but in this process; the jobs in their order."""
    done: list[FitJob] = []

    def run(job: FitJob) -> Outcome:
        done.append(job)
        try:
            return Outcome(values=sorted(values(replace(job, device="cpu")), key=lambda value: value.c))
        except CannotFitError as error:
            return Outcome(values=[], reason=str(error))

    monkeypatch.setattr(head_races, "run", run)
    monkeypatch.setattr(heads, "run", run)
    return done


def test_the_objective_is_that_of_scikit_learn_and_keeps_small_losses() -> None:
    rng = np.random.default_rng(1)
    x_ND, y_N = rng.standard_normal((50, 4)).astype(np.float32), rng.integers(0, 3, 50)
    weight_KD, bias_K, c = rng.standard_normal((3, 4)), rng.standard_normal(3), 0.7
    z_NK = x_ND.astype(float) @ weight_KD.T + bias_K
    p_NK = np.exp(z_NK) / np.exp(z_NK).sum(axis=1, keepdims=True)
    plain = -np.log(p_NK[np.arange(50), y_N]).mean() + (weight_KD**2).sum() / (2 * c * 50)
    assert objective(x_ND, y_N, weight_KD, bias_K, c) == pytest.approx(plain, rel=1e-14)
    far = np.array([[50.0], [0.0], [0.0]])  # a row of 1 is sure to 2 exp(-50), which 1 - p would not see
    one = objective(np.ones((1, 1), np.float32), np.array([0]), far, np.zeros(3), np.inf)
    assert one == pytest.approx(2 * np.exp(-50.0), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in CONTESTANTS if name != INTELEX])
def test_everybody_ends_at_the_same_objective(job: FitJob, name: str) -> None:
    reference = {value.c: value for value in values(replace(job, contestant=REFERENCE))}
    found = sorted(values(replace(job, contestant=name)), key=lambda value: value.c)
    assert [value.c for value in found] == [0.01, 1.0]
    for value in found:
        known = reference[value.c]
        assert known.gap is not None
        assert known.gap <= REFERENCE_TOL * known.objective
        # Nobody is below what the reference proves of the optimum, and nobody stops far above it.
        assert value.objective >= known.objective - known.gap - 1e-14
        assert value.objective / known.objective - 1 <= 2e-5
        assert value.seconds > 0
        assert 0 <= value.accuracy <= 1
        assert (value.gap is not None) == name.startswith("tle")
        assert value.warnings == []
        judged = heads.judge(value, known)
        assert judged["holds"] in (True, None)


def test_warm_start_goes_on_from_the_value_before(job: FitJob) -> None:
    cs = [1.0, 1.0]
    again = [value.iterations for value in values(replace(job, contestant=WARM, cs=cs))]
    cold = [value.iterations for value in values(replace(job, contestant=COLD, cs=cs))]
    assert again[1] <= 1 < again[0] == cold[0] == cold[1]


def test_what_a_contestant_warns_of_is_kept(job: FitJob) -> None:
    (value,) = values(replace(job, contestant=LBFGS, cs=[1.0], max_iter=1))
    assert "failed to converge" in value.warnings[0]


def test_a_hessian_that_does_not_fit_is_said(job: FitJob, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 27**2 * 4  # the toy problem of the warm-up has 3 x (8 + 1) unknowns, the job 3 x (5 + 1)
    monkeypatch.setattr(head_contestants, "_HESSIAN_BYTES", most)
    assert list(values(replace(job, contestant=NEWTON_CHOLESKY)))
    monkeypatch.setattr(head_contestants, "_HESSIAN_BYTES", most - 1)
    with pytest.raises(CannotFitError, match="its Hessian of 27 unknowns would take"):
        list(values(replace(job, contestant=NEWTON_CHOLESKY)))


def test_a_run_is_a_process_with_so_many_threads_and_a_limit(job: FitJob) -> None:
    before = os.sched_getaffinity(0)
    done = head_races.run(replace(job, contestant=LBFGS))
    assert [value.c for value in done.values] == [0.01, 1.0]
    assert (done.reason, done.seconds) == (None, sum(value.seconds for value in done.values))
    assert done.peak_mib > 50
    assert os.sched_getaffinity(0) == before
    cut = head_races.run(replace(job, contestant=NEWTON_CG, cs=[1.0] * 15_000, limit_s=4))
    assert cut.reason == "not done after 4 s"
    assert 0 < len(cut.values) < 15_000
    with pytest.raises(ContestantError, match=r"^tle ended with status 1: .*none\.h5"):
        head_races.run(replace(job, cache=str(Path(job.cache).with_name("none.h5"))))


def test_more_threads_than_cores_are_refused() -> None:
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(ContestantError, match=f"expected {cores + 1} usable cores, found {cores}"):
        head_races.run_module("head_contestants", "", cores + 1)


def test_children_do_not_inherit_what_only_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    cores: list[int] = []

    def look(command: list[str], environment: dict[str, str]) -> contestants.Child:
        seen.append(environment)
        cores.append(len(os.sched_getaffinity(0)))
        return contestants.Child(0, "", "", 1.0, 1.0, 1.0)

    monkeypatch.setattr(head_races, "run_child", look)
    for name in head_races.NOT_INHERITED:
        monkeypatch.setenv(name, "Haswell")
    head_races.run_module("head_contestants", "", 1)
    assert not set(head_races.NOT_INHERITED) & set(seen[0])
    assert cores == [1]


def outcome(seconds: float, reason: str | None = None, c: float = 1.0, **figures: Any) -> Outcome:
    fixed: dict[str, Any] = {"cpu_s": seconds, "objective": 1.0, "accuracy": 0.5, "iterations": 3} | figures
    return Outcome(values=[] if reason else [Value(c=c, seconds=seconds, **fixed)], reason=reason)


def test_contestants_take_turns_and_long_ones_run_once(job: FitJob, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"a": [1.0, 2.0, 1.0], "b": [4.0, 10.0, 5.0], "long": [head_races.LONG_S + 1], "ill": [0.0]}
    turns: list[str] = []

    def run(job: FitJob) -> Outcome:
        name = job.contestant
        turns.append(name)
        return outcome(taken[name][turns.count(name) - 1], "no memory" if name == "ill" else None)

    monkeypatch.setattr(head_races, "run", run)
    jobs = {name: replace(job, contestant=name) for name in taken}
    outcomes = head_races.take_turns(jobs, 3)
    assert turns == ["a", "b", "long", "ill", "a", "b", "a", "b"]
    assert head_races.ratio(outcomes, "b", "a") == 5.0
    assert head_races.ratio(outcomes, "long", "a") == head_races.LONG_S + 1  # of the round that both ran
    turns.clear()
    head_races.take_turns({name: jobs[name] for name in "ab"}, 2, {"b": [outcome(4.0)]})
    assert turns == ["a", "a", "b"]


def test_long_runs_are_kept_and_gone_on_with(
    job: FitJob, inline: list[FitJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLE_DATA", str(tmp_path))
    cold = replace(job, contestant=COLD, cs=[0.01, 0.1, 1.0])
    first = head_races.stored("toy", cold, most=2)
    assert [value.c for value in first.values] == [0.01, 0.1]
    assert first.reason == "1 of 3 values are missing"
    whole = head_races.stored("toy", cold)
    assert [one.cs for one in inline] == [[0.01], [0.1], [1.0]]
    assert whole.values[:2] == first.values
    assert whole.reason is None
    assert head_races.stored("toy", cold) == whole
    assert len(inline) == 3
    head_races.stored("toy", replace(cold, tol=1e-3))
    assert len(inline) == 6, "another tolerance is another baseline"
    reference = replace(job, contestant=REFERENCE)
    known = head_races.stored("toy", reference)
    assert head_races.stored("toy", replace(reference, tol=1e-3)) == known
    assert len(inline) == 7, "a reference is one, whatever the race's tolerance"
    write_cache(Path(job.cache), seed=1)
    assert head_races.stored("toy", reference).values[0].objective != known.values[0].objective


def test_a_path_that_did_not_end_is_not_kept_but_a_reference_is(
    job: FitJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLE_DATA", str(tmp_path))

    def run(job: FitJob) -> Outcome:
        return Outcome(values=outcome(1.0, c=0.01).values, reason="not done after 9 s")

    monkeypatch.setattr(head_races, "run", run)
    assert head_races.stored("toy", replace(job, contestant=WARM)) == Outcome(values=[], reason="not done after 9 s")
    assert len(head_races.stored("toy", replace(job, contestant=REFERENCE)).values) == 1
    assert not head_races.store_path("toy", WARM, 1).exists()
    assert head_races.store_path("toy", REFERENCE, 1).exists()


def test_a_wrong_claim_is_found() -> None:
    reference = outcome(1.0, objective=2.0, gap=1e-6).values[0]
    judged = heads.judge(outcome(1.0, objective=2.0 + 1e-3, gap=1e-4).values[0], reference)
    assert judged["holds"] is False
    assert judged["excess"] == pytest.approx(5e-4)
    assert judged["at_most"] == pytest.approx(5e-4 + 5e-7)
    assert judged["claimed"] == pytest.approx(1e-4 / 2.001)
    assert heads.judge(outcome(1.0, objective=2.0 + 1e-3, gap=1e-3).values[0], reference)["holds"] is True
    assert heads.judge(outcome(1.0, objective=2.0).values[0], reference)["holds"] is None


def test_of_equally_good_values_the_most_regularised_is_chosen() -> None:
    scores = {0.1: 0.8, 1.0: 0.9, 10.0: 0.9}
    assert heads.best([outcome(1.0, c=c, accuracy=score).values[0] for c, score in scores.items()]).c == 1.0


def test_the_loosest_tolerance_that_ends_as_low_is_found(job: FitJob, inline: list[FitJob]) -> None:
    one = replace(job, cs=[1.0])
    target = Outcome(values=list(values(replace(one, contestant=LBFGS))))
    same = heads.as_low(one, target)
    assert same is not None
    assert [trial.tol for trial in inline] == [tol for tol in heads.TOLERANCES if tol >= same.tol]
    assert next(values(same)).objective <= target.values[0].objective
    unreachable = outcome(1.0, objective=0.0)
    assert heads.as_low(one, unreachable) is None
    assert heads.as_low(one, outcome(1.0, "not done after 9 s")) is None


@pytest.fixture
def toy_races(job: FitJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FitJob:
    monkeypatch.setenv("TLE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(heads, "GRID", (0.01, 0.1, 1.0))
    monkeypatch.setattr(heads, "DECADE", 1)
    monkeypatch.setattr(heads, "job_of", lambda *_, **__: job)
    monkeypatch.chdir(tmp_path)
    return job


@pytest.mark.usefixtures("toy_races")
def test_the_lambda_race(inline: list[FitJob], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["lambda", "--problems", "tiles", "--threads", "1", "--runs", "2", "--save"]
    assert heads.main([*command, "--peers", LBFGS, TORCH, "--cs", "0.1"]) == 0
    assert {one.contestant for one in inline} == {REFERENCE, TLE, ESTIMATOR, LBFGS, TORCH}
    (path,) = (tmp_path / "benchmarks" / "results").glob("*_heads_lambda.json")
    (found,) = json.loads(path.read_text())["found"]
    assert (found["problem"], found["c"]) == ("tiles", 0.1)
    assert [len(done) for done in found["outcomes"].values()] == [2] * len(found["outcomes"])
    printed = capsys.readouterr().out
    for line in ("tiles, 1 threads, C = 0.1", "| scikit-learn lbfgs ", "reference: ", "certified to "):
        assert line in printed
        assert line in path.with_suffix(".md").read_text()
    assert "NO" not in printed
    inline.clear()
    assert heads.main(["lambda", "--problems", "tiles", "--threads", "1", "--runs", "1", "--peers", NEWTON_CG]) == 0
    chosen = inline[0].cs, {tuple(one.cs) for one in inline[1:] if one.contestant == TLE}
    assert chosen[0] == (0.01, 0.1, 1.0)
    assert 2 <= len(chosen[1]) <= 3  # the chosen one and a decade either side, where the grid has that


@pytest.mark.usefixtures("toy_races")
def test_who_cannot_run_is_said_and_not_asked_again(
    inline: list[FitJob], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(head_contestants, "_HESSIAN_BYTES", 0)
    command = ["lambda", "--problems", "tiles", "--threads", "1", "--runs", "2", "--cs", "0.1", "1"]
    assert heads.main([*command, "--peers", NEWTON_CHOLESKY]) == 0
    assert [one.contestant for one in inline].count(NEWTON_CHOLESKY) == 1
    printed = capsys.readouterr().out
    assert "| its Hessian of 27 unknowns would take 0 GiB" in printed
    assert f"not run: {NEWTON_CHOLESKY}, its Hessian of 27 unknowns would take 0 GiB at a smaller C" in printed


@pytest.mark.usefixtures("toy_races")
def test_the_path_race(inline: list[FitJob], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["path", "--problems", "tiles", "--threads", "1", "--runs", "2"]
    assert heads.main([*command, "--most", "1"]) == 0
    assert "2 of 3 values are missing" in capsys.readouterr().out
    inline.clear()
    assert heads.main(command) == 0
    assert [one.contestant for one in inline] == [TLE, TLE, WARM, COLD, COLD]  # the reference is there
    lines = capsys.readouterr().out.splitlines()
    by_name = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert "| 3 of 3 " in by_name[TLE]
    assert [name for name in by_name if name in (TLE, WARM, COLD)] == [TLE, WARM, COLD]
    assert {"0.01", "0.1", "1"} <= set(by_name)


@pytest.mark.usefixtures("toy_races")
def test_on_a_gpu_those_that_can_run_there_too(
    inline: list[FitJob], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(head_races, "gpu", lambda: "a GPU")
    command = ["--problems", "tiles", "--threads", "1", "--runs", "1", "--cuda"]
    assert heads.main(["lambda", *command, "--peers", LBFGS, TORCH, "--cs", "0.1"]) == 0
    there = [one.contestant for one in inline if one.device == "cuda"]
    assert set(there) == {REFERENCE, TLE, TORCH}
    assert {one.contestant for one in inline if one.device == "cpu"} >= {TLE, ESTIMATOR, LBFGS, TORCH}
    assert heads.main(["path", *command]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| tle on cuda ") == 2
    assert printed.count("| torch LBFGS on cuda ") == 1


def test_no_gpu_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(head_races, "gpu", lambda: None)
    with pytest.raises(SystemExit):
        heads.main(["lambda", "--cuda"])
    assert "--cuda needs a GPU that torch can use, there is none" in capsys.readouterr().err


def test_an_unknown_race_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        heads.main(["lamda"])
    assert "unknown race lamda; there are lambda, path, stream" in capsys.readouterr().err
