"""Solutions of whole paths: every claim is true, against a long run by another road and against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tle.heads.exact.design import Design
from tle.heads.exact.objective import Targets
from tle.heads.exact.path import solve_labels, solve_path

STRENGTHS = [10.0, 1.0, 0.1, 0.03, 0.01, 1e-3, 1e-4]


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("n", "dim", "classes"), [(90, 6, 3), (60, 60, 4), (25, 120, 3), (200, 5, 40)])
def test_every_claim_is_true(make_rows, as_design, as_targets, best_value, value_of, n, dim, classes, intercept):
    x_ND, labels_N, share_N = make_rows(n, dim, classes)
    found = list(solve_path(as_design(x_ND), as_targets(labels_N, share_N), STRENGTHS, tol=1e-6, intercept=intercept))
    assert [s.strength for s in found] == STRENGTHS
    for s in found:
        f = value_of(x_ND, labels_N, share_N, s.weight_KD, s.bias_K, s.strength)
        assert s.objective == pytest.approx(f, rel=1e-10)
        optimum = best_value(x_ND, labels_N, share_N, classes, s.strength, intercept=intercept)
        assert f - optimum <= s.gap + 1e-12 * f
        assert s.objective - s.gap <= optimum * (1 + 1e-9)
        assert s.is_certified == (s.relative_gap <= 1e-6)
        assert s.is_certified
        assert intercept or not s.bias_K.any()


def test_float32_claims_are_true_too(make_rows, as_design, as_targets, value_of):
    x_ND, labels_N, share_N = make_rows(400, 12, 5)
    single = as_design(x_ND.astype(np.float32))
    exact = as_design(x_ND.astype(np.float32).astype(np.float64))
    targets = as_targets(labels_N, share_N)
    for tol in (1e-4, 1e-8):
        for rough, best in zip(
            solve_path(single, targets, STRENGTHS, tol=tol),
            solve_path(exact, targets, STRENGTHS, tol=1e-12),
            strict=True,
        ):
            assert rough.objective - best.objective <= rough.gap + 1e-12
            assert rough.objective - rough.gap <= best.objective
            assert rough.is_certified


def test_many_rows_of_which_few_decide(as_targets, value_of):
    """Large enough for steps on the decisive rows alone."""
    rng = np.random.default_rng(0)
    labels_N = np.arange(4000) % 4
    x_ND = (rng.normal(size=(4000, 10)) + 4 * rng.normal(size=(4, 10))[labels_N]).astype(np.float32)
    targets = as_targets(labels_N, np.full(4000, 1 / 4000))
    strengths = [1 / (c * 4000) for c in (1e-3, 0.1, 10.0, 1e3)]
    rough = list(solve_path(Design(x_ND, None, None, None, x_ND.dtype), targets, strengths, tol=1e-4))
    double = Design(x_ND.astype(np.float64), None, None, None, np.dtype(np.float64))
    best = list(solve_path(double, targets, strengths, tol=1e-10))
    for a, b in zip(rough, best, strict=True):
        assert a.objective - b.objective <= a.gap + 1e-12 * b.objective
        assert a.objective - a.gap <= b.objective * (1 + 1e-12)
        assert a.objective <= b.objective * (1 + 2e-3)


@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_rows_of_a_file_give_what_rows_in_memory_give(make_rows, as_targets, tmp_path, stored):
    x_ND, labels_N, share_N = make_rows(300, 8, 3)
    np.save(tmp_path / "f.npy", np.repeat(x_ND, 2, axis=0).astype(stored))
    mapped = np.load(tmp_path / "f.npy", mmap_mode="r")
    mean_D, scale_D = x_ND.mean(axis=0), x_ND.std(axis=0)
    streamed = Design(mapped, np.arange(0, 600, 2), mean_D, 1 / scale_D, np.dtype(np.float32))
    targets = as_targets(labels_N, share_N)
    for one, other in zip(
        solve_path(streamed, targets, [0.1, 0.01]), solve_path(streamed.load(), targets, [0.1, 0.01]), strict=True
    ):
        np.testing.assert_allclose(one.weight_KD, other.weight_KD, rtol=1e-3, atol=1e-5)


def test_weights_count_as_repeats_do(make_rows, as_design):
    x_ND, labels_N, _ = make_rows(50, 4, 3)
    times = np.random.default_rng(0).integers(1, 4, 50)
    (weighed,) = solve_path(as_design(x_ND), Targets(labels_N, times / times.sum(), 3), [0.01], tol=1e-13)
    again, labels = np.repeat(x_ND, times, axis=0), np.repeat(labels_N, times)
    (repeated,) = solve_path(
        as_design(again), Targets(labels, np.full(len(again), 1 / len(again)), 3), [0.01], tol=1e-13
    )
    np.testing.assert_allclose(weighed.weight_KD, repeated.weight_KD, atol=1e-6)


def test_passes_are_limited_and_what_is_missing_is_certified(make_rows, as_design, as_targets, best_value):
    x_ND, labels_N, share_N = make_rows(100, 10, 3, spread=0.3)
    (found,) = solve_path(as_design(x_ND), as_targets(labels_N, share_N), [1e-4], tol=1e-9, max_passes=4)
    assert found.passes <= 6  # a step is not cut short
    assert not found.is_certified
    optimum = best_value(x_ND, labels_N, share_N, 3, 1e-4)
    assert found.objective - found.gap <= optimum <= found.objective


@pytest.mark.parametrize("intercept", [True, False])
def test_labels_are_binary_problems(make_rows, as_design, intercept):
    x_ND, labels_N, share_N = make_rows(120, 6, 4)
    indicators = np.stack([labels_N == 0, labels_N < 2, labels_N % 2 == 1], axis=1).astype(np.float32)
    found = solve_labels(as_design(x_ND), Targets(indicators, share_N, 1), 0.01, tol=1e-11, intercept=intercept)
    warm = solve_labels(
        as_design(x_ND), Targets(indicators, share_N, 1), 0.003, tol=1e-11, intercept=intercept, start=found
    )
    for strength, solved in ((0.01, found), (0.003, warm)):
        for label, s in enumerate(solved):
            model = LogisticRegression(
                C=1 / (strength * 120), tol=1e-12, solver="newton-cholesky", fit_intercept=intercept
            )
            model.fit(x_ND, indicators[:, label])
            np.testing.assert_allclose(s.weight_KD, model.coef_, atol=2e-6)
            np.testing.assert_allclose(s.bias_K, model.intercept_ if intercept else [0.0], atol=2e-6)
            assert s.is_certified
