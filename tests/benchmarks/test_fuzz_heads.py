"""The fuzzer of heads: reproducible, and able to find what is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from tle.benchmarks import fuzz_heads
from tle.heads.exact.path import Solution
from tle.heads.exact.problem import Problem


def test_problems_are_the_same_for_a_number_and_a_seed():
    one, again, other = (fuzz_heads.make_case(7, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.x_ND, again.x_ND)
    assert (one.kind, one.c_L, one.settings) == (again.kind, again.c_L, again.settings)
    assert one.x_ND.shape != other.x_ND.shape or (one.x_ND != other.x_ND).any()


def test_every_kind_is_made_and_none_goes_wrong(one_thread):
    outcomes = list(fuzz_heads.run(150, 12, 1))
    assert {outcome.kind for outcome in outcomes} >= set(fuzz_heads.KINDS) - {"tall", "large", "many"}
    assert [outcome for outcome in outcomes if outcome.bad] == []
    assert {outcome.name for outcome in outcomes} == {"agrees", "refused"}


@pytest.fixture
def one_thread():
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda s: replace(s, weight_KD=1.1 * s.weight_KD + 0.1 * np.sign(s.weight_KD)), "objective"),
        (lambda s: replace(s, objective=0.99 * s.objective, gap=0.0), "objective"),
        (lambda s: replace(s, weight_KD=s.weight_KD * np.nan), "exception"),
        (lambda s: replace(s, weight_KD=0 * s.weight_KD, bias_K=0 * s.bias_K, objective=np.log(3), gap=0.0), "worse"),
        (lambda s: replace(s, bias_K=np.add(s.bias_K, [1, 0, -1])), "objective"),
    ],
)
def test_a_wrong_solution_is_found(monkeypatch, one_thread, change, name):
    """Solutions are spoilt on their way out of the solver; nothing else is replaced."""
    solve = Problem.solve

    def spoilt(self, *arguments, **options):
        for c, solution in solve(self, *arguments, **options):
            assert isinstance(solution, Solution)
            yield c, change(solution)

    monkeypatch.setattr(Problem, "solve", spoilt)
    rng = np.random.default_rng(0)
    case = fuzz_heads.Case("plain", rng.normal(size=(30, 3)), np.arange(30) % 3, None, [1.0], {"fit_intercept": True})
    assert fuzz_heads.judge(case).name == name


def test_the_command_counts(capsys, monkeypatch, one_thread):
    monkeypatch.setattr("sys.argv", ["fuzz_heads", "--problems", "12", "--processes", "1"])
    assert fuzz_heads.main() == 0
    lines = capsys.readouterr().out.splitlines()
    total = next(line for line in lines if line.startswith("all")).split()
    assert int(total[1]) + int(total[2]) == 12
    assert total[3] == "0"
