"""Small problems to the last digit, whatever their columns look like."""

import numpy as np
import pytest

from tle.heads.exact.newton import can_finish, finish, is_small, solve_small
from tle.heads.exact.path import solve_path


def _solve(design, targets, strengths, **options):
    return list(
        solve_small(design, targets, strengths, **{"tol": 1e-4, "max_passes": 500, "intercept": True, **options})
    )


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("n", "dim", "classes"), [(40, 3, 2), (40, 3, 5), (8, 30, 3), (2, 1, 2)])
def test_the_gap_is_closed(make_rows, as_design, as_targets, best_value, n, dim, classes, intercept):
    x_ND, labels_N, share_N = make_rows(n, dim, classes)
    strengths = [1.0, 1e-2, 1e-5]
    found = _solve(as_design(x_ND), as_targets(labels_N, share_N), strengths, intercept=intercept)
    assert [s.strength for s in found] == strengths
    for s in found:
        assert s.relative_gap < 1e-11
        if s.strength > 1e-4:
            want = best_value(x_ND, labels_N, share_N, classes, s.strength, intercept=intercept)
            assert s.objective == pytest.approx(want, rel=1e-10)


def test_columns_of_any_scale(make_rows, as_design, as_targets):
    x_ND, labels_N, share_N = make_rows(60, 5, 3)
    design = as_design(x_ND * np.array([1e-6, 1e-3, 1.0, 1e3, 1e6]))
    for s in _solve(design, as_targets(labels_N, share_N), [1 / (c * 60) for c in (1e-6, 1e-2, 1.0, 1e5)]):
        assert s.relative_gap < 1e-9


def test_separable_and_duplicate_rows_and_dead_columns(as_design, as_targets):
    x_ND = np.repeat(np.array([[0.0, 1.0, 7.0], [0.0, -1.0, 7.0], [0.0, 3.0, 7.0]]), 5, axis=0)
    labels_N = np.repeat([0, 1, 2], 5)
    for s in _solve(as_design(x_ND), as_targets(labels_N, np.full(15, 1 / 15)), [1e-1, 1e-4, 1e-7, 1e-9]):
        assert np.isfinite(s.weight_KD).all()
        assert s.relative_gap < 1e-7
        assert np.abs(s.weight_KD[:, 0]).max() == 0.0


def test_passes_are_limited(make_rows, as_design, as_targets):
    x_ND, labels_N, share_N = make_rows(60, 5, 3)
    (found,) = _solve(as_design(x_ND), as_targets(labels_N, share_N), [1e-5], max_passes=3)
    assert found.passes <= 4
    assert not found.is_certified


def test_a_solution_that_is_not_one_yet_is_finished(make_rows, as_design, as_targets):
    x_ND, labels_N, share_N = make_rows(60, 5, 3)
    design, targets = as_design(x_ND), as_targets(labels_N, share_N)
    (rough,) = solve_path(design, targets, [1e-3], tol=1e-12, max_passes=5)
    done = finish(design, targets, rough, tol=1e-12, max_passes=500, intercept=True)
    assert done.is_certified
    assert done.gap < rough.gap
    assert finish(design, targets, done, tol=1e-12, max_passes=500, intercept=True).gap <= done.gap


def test_what_is_small():
    assert is_small(100, 10, 20)
    assert is_small(10, 10, 5000)  # as many unknowns as rows
    assert not is_small(1000, 10, 1280)
    assert can_finish(300, 10, 100)
    assert not can_finish(100_000, 10, 100)
