"""Bounds: never above the optimum, whatever is certified, and close to it near the optimum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tle.heads.exact.certificate import certify
from tle.heads.exact.design import Design
from tle.heads.exact.objective import Targets
from tle.heads.exact.path import solve_path


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("strength", [10.0, 0.1, 1e-3])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_bound_is_below_the_optimum_and_the_value_is_the_objective(
    make_rows, as_design, as_targets, best_value, value_of, classes, strength, intercept
):
    x_ND, labels_N, share_N = make_rows(60, 4, classes)
    optimum = best_value(x_ND, labels_N, share_N, classes, strength, intercept=intercept)
    rng = np.random.default_rng(1)
    for size in (0.0, 1e-3, 0.1, 3.0):
        weight = size * rng.normal(size=(1, classes, 4))
        bias = size * rng.normal(size=(1, classes)) * intercept
        found = certify(as_design(x_ND), as_targets(labels_N, share_N), weight, bias, np.array([strength]),
                        intercept=intercept)  # fmt: skip
        assert found.lower_L[0] <= optimum * (1 + 1e-12)
        want = value_of(x_ND, labels_N, share_N, weight[0], found.bias_LK[0], strength)
        assert found.value_L[0] == pytest.approx(want, rel=1e-12)
        assert found.value_L[0] <= value_of(x_ND, labels_N, share_N, weight[0], bias[0], strength) * (1 + 1e-12)


def test_the_gap_closes_at_the_optimum(make_rows, as_design, as_targets, best_value):
    x_ND, labels_N, share_N = make_rows(80, 5, 4)
    (found,) = solve_path(as_design(x_ND), as_targets(labels_N, share_N), [0.01], tol=1e-12)
    assert found.relative_gap < 1e-11
    assert found.objective == pytest.approx(best_value(x_ND, labels_N, share_N, 4, 0.01), rel=1e-10)


def test_problems_are_certified_on_their_own(make_rows, as_design, as_targets):
    x_ND, labels_N, share_N = make_rows(40, 3, 3)
    rng = np.random.default_rng(0)
    weight, bias, strengths = rng.normal(size=(3, 3, 3)), rng.normal(size=(3, 3)), np.array([1.0, 0.1, 0.01])
    together = certify(as_design(x_ND), as_targets(labels_N, share_N), weight, bias, strengths, intercept=True)
    for index in range(3):
        alone = certify(as_design(x_ND), as_targets(labels_N, share_N), weight[index : index + 1],
                        bias[index : index + 1], strengths[index : index + 1], intercept=True)  # fmt: skip
        assert together.value_L[index] == pytest.approx(alone.value_L[0], rel=1e-9)
        assert together.lower_L[index] == pytest.approx(alone.lower_L[0], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kept", [2**26, 0])
@pytest.mark.parametrize(
    "settings",
    [{"_FEW_CLASSES": 2}, {"_COUPLED_ROWS": 100, "_COUPLED_ROWS_A_CLASS": 1}, {"MOST_COUPLED": 2}],
    ids=["by Cholesky", "from some rows", "one by one"],
)
def test_intercepts_of_many_classes_are_centred_as_those_of_few(
    make_rows, as_design, as_targets, best_value, value_of, monkeypatch, settings, kept
):
    x_ND, labels_N, share_N = make_rows(400, 5, 6)
    design, targets = as_design(x_ND), as_targets(labels_N, share_N)
    optimum = best_value(x_ND, labels_N, share_N, 6, 0.1)
    (near,) = solve_path(design, targets, [0.1], tol=1e-9)
    off_K = np.random.default_rng(0).normal(size=6)
    for name, value in (settings | {"_KEPT_LOGITS": kept}).items():
        monkeypatch.setattr(f"tle.heads.exact.certificate.{name}", value)
    for size in (0.01, 0.5):
        bias_K = near.bias_K + size * off_K
        found = certify(design, targets, near.weight_KD[None], bias_K[None], np.array([0.1]), intercept=True)
        begun = value_of(x_ND, labels_N, share_N, near.weight_KD, bias_K, 0.1)
        assert found.lower_L[0] <= optimum * (1 + 1e-12)
        assert optimum * (1 - 1e-12) <= found.value_L[0] < begun
        assert found.value_L[0] - optimum < 0.05 * (begun - optimum)


@pytest.mark.parametrize("classes", [3, 40])
def test_intercepts_of_many_rows_in_float32_are_centred(monkeypatch, classes):
    """Probabilities of float32 do not sum to 1, and some rows stand for all: together intercepts must stay all the same."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, classes, 20_000)
    x_ND = (rng.normal(size=(classes, 8))[labels_N] + rng.normal(size=(20_000, 8))).astype(np.float32)
    design = Design(x_ND, None, None, None, np.dtype(np.float32))
    targets = Targets(labels_N, np.full(20_000, 1 / 20_000), classes)
    (near,) = solve_path(design, targets, [1e-3], tol=1e-3)
    given = (near.weight_KD[None], near.bias_K[None], np.array([1e-3]))
    want = certify(design, targets, *given, intercept=True)
    monkeypatch.setattr("tle.heads.exact.certificate._KEPT_LOGITS", 0)
    monkeypatch.setattr("tle.heads.exact.certificate._COUPLED_ROWS", 2000)
    found = certify(design, targets, *given, intercept=True)
    assert found.value_L[0] == pytest.approx(want.value_L[0], rel=1e-7)
    assert found.lower_L[0] == pytest.approx(want.lower_L[0], rel=1e-4)


def test_a_step_of_the_intercepts_that_goes_too_far_is_taken_back(
    make_rows, as_design, as_targets, value_of, monkeypatch
):
    x_ND, labels_N, share_N = make_rows(60, 4, 3)
    bias_K = np.array([0.3, -0.2, -0.1])
    given = (np.zeros((1, 3, 4)), bias_K[None], np.array([0.1]))
    monkeypatch.setattr("tle.heads.exact.certificate._Coupling.solve", lambda self, delta_K: -20 * delta_K)
    found = certify(as_design(x_ND), as_targets(labels_N, share_N), *given, intercept=True)
    np.testing.assert_array_equal(found.bias_LK[0], bias_K)
    assert found.value_L[0] == pytest.approx(value_of(x_ND, labels_N, share_N, np.zeros((3, 4)), bias_K, 0.1))


def test_logits_that_are_not_kept_change_nothing_of_note(make_rows, as_design, as_targets, monkeypatch):
    x_ND, labels_N, share_N = make_rows(50, 3, 3)
    (near,) = solve_path(as_design(x_ND), as_targets(labels_N, share_N), [0.1], tol=1e-3)
    given = (near.weight_KD[None], near.bias_K[None], np.array([0.1]))
    kept = certify(as_design(x_ND), as_targets(labels_N, share_N), *given, intercept=True)
    monkeypatch.setattr("tle.heads.exact.certificate._KEPT_LOGITS", 0)
    made = certify(as_design(x_ND), as_targets(labels_N, share_N), *given, intercept=True)
    assert made.value_L[0] == pytest.approx(kept.value_L[0], rel=1e-9)
    assert made.lower_L[0] <= kept.value_L[0]


@settings(max_examples=100, deadline=None)
@given(
    x_ND=arrays(np.float64, (9, 3), elements=st.floats(-50, 50)),
    labels_N=arrays(np.int64, 9, elements=st.integers(0, 2)),
    weight_N=arrays(np.float64, 9, elements=st.floats(1e-3, 10)),
    scale=st.floats(0, 3),
    log_strength=st.floats(-8, 3),
    intercept=st.booleans(),
)
def test_no_bound_is_above_a_value_that_can_be_had(x_ND, labels_N, weight_N, scale, log_strength, intercept):
    """Any two points: the bound from one is at most the value at the other."""
    targets = Targets(labels_N, weight_N / weight_N.sum(), 3)
    rng = np.random.default_rng(0)
    weight = np.stack([np.zeros((3, 3)), scale * rng.normal(size=(3, 3)), scale * rng.normal(size=(3, 3)) / 50])
    bias = scale * rng.normal(size=(3, 3)) * intercept
    from tle.heads.exact.design import Design

    design = Design(x_ND, None, None, None, x_ND.dtype)
    found = certify(design, targets, weight, bias, np.full(3, 10.0**log_strength), intercept=intercept)
    assert np.isfinite(found.value_L).all()
    assert np.isfinite(found.lower_L).all()
    assert found.lower_L.max() <= found.value_L.min() * (1 + 1e-12)
