"""How fine a curvature is worth its price."""

import pytest

from tle.heads.exact import curvature
from tle.heads.exact.path import solve_path


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
