"""From C to lambda and back: one row for two classes, weights, types, and what is refused."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tle.errors import HeadError, UsageError
from tle.heads.exact.certificate import certify
from tle.heads.exact.problem import make_label_problem, make_problem, solve_all_labels


@pytest.mark.parametrize("small", [True, False])
def test_two_classes_are_one_row_with_the_objective_of_the_binary_problem(make_rows, monkeypatch, small):
    if not small:
        monkeypatch.setattr("tle.heads.exact.newton.MOST_UNKNOWNS", 0)
    x_ND, labels_N, _ = make_rows(70, 4, 2)
    weight_N = np.random.default_rng(0).uniform(0.1, 3, 70)
    problem = make_problem(x_ND, labels_N, 2, weight_N=weight_N)
    for c, solution in problem.solve([0.3, 20.0], tol=1e-12):
        coef_1D, bias_1 = problem.coefficients(solution)
        want = LogisticRegression(C=c, tol=1e-12, solver="newton-cholesky").fit(x_ND, labels_N, weight_N)
        np.testing.assert_allclose(coef_1D, want.coef_, atol=1e-6)
        np.testing.assert_allclose(bias_1, want.intercept_, atol=1e-6)
        share_N = weight_N / weight_N.sum()
        losses = np.logaddexp(0, (1 - 2 * labels_N) * (x_ND @ coef_1D[0] + bias_1[0]))
        f = share_N @ losses + np.square(coef_1D).sum() / (2 * c * weight_N.sum())
        assert solution.objective == pytest.approx(f, rel=1e-12)


def test_every_c_comes_once_from_strong_to_weak(make_rows):
    problem = make_problem(*make_rows(40, 3, 3)[:2], 3)
    assert [c for c, _ in problem.solve([1.0, 0.01, 1.0, 5.0], tol=1e-4)] == [0.01, 1.0, 5.0]


def test_labels_go_from_strong_to_weak_too(make_rows):
    x_ND, labels_N, _ = make_rows(60, 4, 3)
    indicators = np.eye(3)[labels_N]
    solved = dict(solve_all_labels(make_label_problem(x_ND, indicators), [1.0, 0.01], tol=1e-10))
    assert list(solved) == [0.01, 1.0]
    want = LogisticRegression(C=1.0, tol=1e-12, solver="newton-cholesky").fit(x_ND, indicators[:, 1])
    np.testing.assert_allclose(solved[1.0][1].weight_KD, want.coef_, atol=1e-5)


def test_small_problems_are_in_float64_and_large_ones_in_the_type_of_the_features(monkeypatch):
    features = np.zeros((10, 4), np.float16)
    labels_N = np.arange(10) % 2
    assert make_problem(features, labels_N, 2).design.dtype == np.float64
    monkeypatch.setattr("tle.heads.exact.problem.SMALL_VALUES", 39)
    assert make_problem(features, labels_N, 2).design.dtype == np.float32
    assert make_problem(features, labels_N, 2, double=True).design.dtype == np.float64
    assert make_problem(features, labels_N, 2).design.is_resident
    monkeypatch.setattr("tle.heads.exact.problem.RESIDENT_BYTES", 10)
    assert not make_problem(features, labels_N, 2).design.is_resident


def test_what_is_not_finite_is_refused(monkeypatch):
    """Squares of such features are beyond float32, in which large problems are solved."""
    monkeypatch.setattr("tle.heads.exact.problem.SMALL_VALUES", 0)
    x_ND = (np.random.default_rng(0).normal(size=(60, 4)) * 1e30).astype(np.float32)
    with np.errstate(all="ignore"), pytest.raises(HeadError, match="weights that are not finite.* scale them"):
        list(make_problem(x_ND, np.arange(60) % 3, 3).solve([1.0], tol=1e-4))


@pytest.mark.parametrize("c", [1e-320, 1e308])
def test_a_c_beyond_measure_is_refused(make_rows, c):
    with pytest.raises(UsageError, match="times the sum of sample weights, 40, is beyond what can be computed with"):
        list(make_problem(*make_rows(40, 3, 3)[:2], 3).solve([c], tol=1e-4))


@pytest.mark.parametrize("c", [1e-250, 1e100])
def test_a_c_beyond_reason_is_solved_or_not_certified(make_rows, c):
    ((_, solution),) = make_problem(*make_rows(40, 3, 3)[:2], 3).solve([c], tol=1e-4)
    assert np.isfinite(solution.weight_KD).all()
    assert 0 <= solution.gap <= solution.objective * (1 + 1e-9)


def test_the_gap_allows_for_the_rounding_of_features_far_from_zero(make_rows):
    x_ND, labels_N, _ = make_rows(40, 3, 3)
    gaps = [next(make_problem(x_ND + far, labels_N, 3).solve([1.0], tol=1e-4))[1].relative_gap for far in (0.0, 1e6)]
    assert gaps[0] < 1e-12
    assert 1e-11 < gaps[1] < 1e-7


@pytest.mark.parametrize(
    ("n", "dim", "small", "finished"), [(10, 20, True, False), (10, 20, False, False), (18, 20, False, True)]
)
def test_what_was_solved_in_another_basis_is_certified_on_the_rows(monkeypatch, n, dim, small, finished):
    """Columns of 1e8 beside columns of 1e-8: in a basis of the rows the small ones are lost to rounding."""
    certified = []

    def note(design, targets, weight, bias, strengths, *, intercept):
        certified.append((design, certify(design, targets, weight, bias, strengths, intercept=intercept)))
        return certified[-1][1]

    if not small:
        monkeypatch.setattr("tle.heads.exact.problem.is_small", lambda *size: False)
    if not finished:
        monkeypatch.setattr("tle.heads.exact.problem.can_finish", lambda *size: False)
    monkeypatch.setattr("tle.heads.exact.problem.certify", note)
    x_ND = np.random.default_rng(0).normal(size=(n, dim)) * np.append(1e8, np.full(dim - 1, 1e-8))
    problem = make_problem(x_ND, np.arange(n) % 2, 2)
    ((_, found),) = problem.solve([1e15], tol=1e-30)
    ((design, proven),) = certified
    assert design is problem.design
    assert found.objective == proven.value_L[0]
    assert found.gap == max(0.0, proven.value_L[0] - proven.lower_L[0]) + problem.rounding(found)
    np.testing.assert_array_equal(found.bias_K, proven.bias_LK[0])


def test_weights_that_are_nothing_beside_others_are_said():
    weight_N = np.where(np.arange(30) % 3 == 0, 1e-300, 1e30)
    with pytest.raises(UsageError, match=r"sample weights from 1e-300 to 1e\+30 are more than numbers can tell apart"):
        make_problem(np.ones((30, 2)), np.arange(30) % 3, 3, weight_N=weight_N)


def test_memory_that_runs_out_on_the_way_is_said(monkeypatch):
    import torch

    def full(*args, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr("tle.heads.exact.problem.solve_path", full)
    monkeypatch.setattr("tle.heads.exact.problem.is_small", lambda *size: False)
    problem = make_problem(np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2, 2)
    with pytest.raises(HeadError, match="more memory than the device has free: take device=cpu"):
        list(problem.solve([1.0], tol=1e-4))
