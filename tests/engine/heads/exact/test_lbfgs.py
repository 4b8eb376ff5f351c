"""Steps: the objective never rises, problems do not disturb one another, and an exhausted one is left where it is."""

import numpy as np
import pytest

from tle.heads.exact.bound import bound
from tle.heads.exact.lbfgs import State, descend
from tle.heads.exact.objective import evaluate


def _start(design, targets, strengths):
    lambdas = np.array(strengths)
    weight, bias = np.zeros((len(lambdas), targets.outputs, design.dim)), np.zeros((len(lambdas), targets.outputs))

    def run(problems, weight, bias):
        return evaluate(design, targets.of(problems), weight, bias)

    return State(weight, bias, lambdas, run(np.arange(len(lambdas)), weight, bias), []), run


@pytest.fixture
def problem(make_rows, as_design, as_targets):
    x_ND, labels_N, share_N = make_rows(80, 5, 3)
    return as_design(x_ND), as_targets(labels_N, share_N), bound(x_ND, share_N, 3, intercept=True)


def test_the_objective_falls_to_the_optimum(problem, best_value):
    design, targets, curvature = problem
    state, run = _start(design, targets, [0.02])
    values = [state.values()[0]]
    for _ in range(60):
        decrease = descend(state, run, curvature, np.array([0]))
        values.append(state.values()[0])
        assert values[-2] - values[-1] == pytest.approx(decrease[0], abs=1e-12)
    assert (np.diff(values) <= 1e-15).all()
    want = best_value(design.features, targets.labels, targets.weight_N, 3, 0.02)
    assert values[-1] == pytest.approx(want, rel=1e-10)


def test_problems_that_share_passes_go_the_way_they_go_alone(problem):
    design, targets, curvature = problem
    together, run = _start(design, targets, [1.0, 0.1, 0.01])
    for _ in range(6):
        descend(together, run, curvature, np.arange(3))
    for index, strength in enumerate([1.0, 0.1, 0.01]):
        alone, run_one = _start(design, targets, [strength])
        for _ in range(6):
            descend(alone, run_one, curvature, np.array([0]))
        assert alone.values()[0] == pytest.approx(together.values()[index], rel=1e-8)


def test_only_the_active_problems_move(problem):
    design, targets, curvature = problem
    state, run = _start(design, targets, [1.0, 0.1])
    descend(state, run, curvature, np.array([1]))
    assert not state.weight_LKD[0].any()
    assert state.weight_LKD[1].any()


def test_a_copy_is_left_alone(problem):
    design, targets, curvature = problem
    state, run = _start(design, targets, [0.1])
    kept = state.copy()
    before = kept.values().copy()
    descend(state, run, curvature, np.array([0]))
    assert kept.values() == before
    assert not kept.weight_LKD.any()


def test_at_the_optimum_nothing_gets_worse(problem):
    design, targets, curvature = problem
    state, run = _start(design, targets, [0.1])
    for _ in range(80):
        descend(state, run, curvature, np.array([0]))
    value = state.values()[0]
    for _ in range(5):
        assert descend(state, run, curvature, np.array([0]))[0] >= -1e-15
    assert state.values()[0] == pytest.approx(value, rel=1e-14)
    assert np.isfinite(state.weight_LKD).all()
