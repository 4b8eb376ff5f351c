"""Which rows are decisive."""

import numpy as np
import pytest

from tle.heads.exact import solver
from tle.heads.exact.solver import _decisive


@pytest.mark.parametrize("power", [20, 40])
def test_decisive_rows_are_the_fewest_that_have_nearly_all_of_the_slope(power):
    unsure_N = np.random.default_rng(0).random(5000) ** power
    rows = _decisive(unsure_N)
    wanted = (1 - solver._FOCUS_KEPT) * unsure_N.sum()
    assert unsure_N[rows].sum() >= wanted > np.sort(unsure_N[rows])[1:].sum()
    assert unsure_N[rows].min() >= np.delete(unsure_N, rows).max()
    assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("unsure_N", [np.ones(100), np.zeros(100), np.linspace(0.9, 1, 100)])
def test_there_are_no_decisive_rows_where_all_are_alike(unsure_N):
    assert _decisive(unsure_N) is None
