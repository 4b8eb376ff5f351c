"""How fine a curvature is worth its price, and in which type it can be told."""

import numpy as np
import pytest

from tle.heads.exact import curvature
from tle.heads.exact.path import solve_path
from tle.heads.exact.problem import make_problem


def test_the_curvature_becomes_finer_as_long_as_it_is_worth_it(monkeypatch, make_rows, as_design, as_targets):
    x_ND, labels_N, share_N = make_rows(3000, 20, 8)
    design, targets = as_design(x_ND), as_targets(labels_N, share_N)
    asked, made = [], curvature.two_level

    def note(z_MD, share_M, p_MK, unknowns, *, intercept):
        asked.append((unknowns, len(z_MD)))
        return made(z_MD, share_M, p_MK, unknowns, intercept=intercept)

    for name, value in {
        "two_level": note,
        "_SAMPLE": 100,
        "_FIRST_UNKNOWNS": 32,
        "_WORTHS": (0.0,),
        "_MOVED": 0.0,
    }.items():
        monkeypatch.setattr(curvature, name, value)
    for worth, most in ((3000 * 20 * 8 / 120.5**2, 120), (1e9, 32), (1e-9, curvature._MOST_UNKNOWNS)):
        monkeypatch.setattr(curvature, "_UNKNOWN_WORTH", worth)
        asked.clear()
        assert all(s.is_certified for s in solve_path(design, targets, [1e-2, 1e-3, 1e-4, 1e-5]))
        assert [unknowns for unknowns, _ in asked] == [min(32 << index, most) for index in range(len(asked))]
        assert len(asked) > 3
        for unknowns, rows in asked:
            assert rows == pytest.approx(min(3000, max(100, 2.5 * unknowns)), rel=0.3)


@pytest.mark.parametrize(
    ("change", "strength", "dtype"),
    [
        (lambda x: x, 1e-2, np.float32),
        (lambda x: x, 1e-9, np.float64),  # weaker than what float32 can tell from 0
        (lambda x: x, 1e13, np.float64),
        (lambda x: x + 1e6, 1e-2, np.float64),  # and what an offset leaves of it
        (lambda x: x + 1e3, 1e-2, np.float32),
        (lambda x: x * np.logspace(-6, 6, 256), 1e-2, np.float64),
        (lambda x: x * 2e19, 4e36, np.float64),
        (lambda x: x * np.append(1e7, np.ones(255)), 1e-2, np.float64),
    ],
)
def test_curvature_is_in_float32_where_that_is_enough(as_design, as_targets, change, strength, dtype):
    rng, labels_N = np.random.default_rng(0), np.arange(300) % 3
    x_ND = change(rng.normal(size=(300, 256)))
    targets = as_targets(labels_N, np.full(300, 1 / 300))
    known = curvature.Curvature(as_design(x_ND), targets, rng, intercept=True)
    assert known._take(np.arange(300), strength).dtype == dtype
    single = curvature.Curvature(as_design(x_ND.astype(np.float32)), targets, rng, intercept=True)
    assert single._take(np.arange(300), strength).dtype == np.float32


@pytest.mark.parametrize(
    ("columns", "scale"), [("alike", 1.0), ("alike", 2e19), ("graded", 1.0), ("offset", 1.0), ("one of 1e7", 1.0)]
)
def test_columns_of_any_size_are_solved_in_few_passes(columns, scale):
    rng, labels_N = np.random.default_rng(0), np.arange(700) % 3
    x_ND = 0.3 * rng.normal(size=(3, 300))[labels_N] + rng.normal(size=(700, 300))
    x_ND = {
        "alike": lambda: x_ND,
        "graded": lambda: x_ND * np.logspace(-6, 6, 300),
        "offset": lambda: x_ND + 3e6,
        "one of 1e7": lambda: x_ND * np.append(1e7, np.ones(299)),
    }[columns]()
    ((_, found),) = make_problem(scale * x_ND, labels_N, 3).solve([0.01 / scale**2], tol=1e-4)
    assert found.is_certified
    assert found.passes < 60
