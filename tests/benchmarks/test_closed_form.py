"""The races of closed-form heads, small: who takes part, that all find the same, and that a slip would be seen."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tle.benchmarks.closed_form import _agreement, alternate, make_bank, race_knn, race_ridge, rows_of


@pytest.fixture(scope="module")
def digits():
    x_ND, y_N = load_digits(return_X_y=True)
    return x_ND.astype(np.float32), y_N.astype(np.int64)


def test_both_ridges_find_the_same(digits):
    rows, record = race_ridge(digits[0][:500], digits[1][:500], cores=1, rounds=2)
    assert [row[0].rpartition(": ")[2] for row in rows] == ["tle", "RidgeClassifierCV"]
    assert record["alpha"] == record["alpha of RidgeClassifierCV"]
    assert record["same decision"] == 1.0
    assert record["relative difference of the least error"] < 1e-8


def test_all_find_the_same_neighbours(digits):
    bank, queries = make_bank(digits[0][:600], 900), make_bank(digits[0][600:700], 100)
    assert bank.shape == (900, 64)
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1.0, rtol=1e-6)
    rows, record = race_knn(bank, queries, cores=1, rounds=1)
    assert len(rows) >= 2
    for agreement in record["agreement with float64"].values():
        assert agreement["similarity missed"] < 1e-6


def test_a_missed_neighbour_is_seen(digits):
    bank = make_bank(digits[0][:50], 50)
    sims = bank.astype(np.float64) @ bank.astype(np.float64).T
    right = np.argsort(-sims, axis=1, kind="stable")[:, :3]
    wrong = right.copy()
    wrong[7, 2] = np.argsort(-sims[7], kind="stable")[40]
    assert _agreement(bank, bank, right) == {"same neighbours": 1.0, "similarity missed": 0.0}
    found = _agreement(bank, bank, wrong)
    assert found["same neighbours"] == 49 / 50
    assert found["similarity missed"] > 0


def test_rounds_alternate_and_ratios_are_those_of_the_rounds():
    order = []
    seconds, results = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b") or 5}, 3)
    assert order == ["a", "b"] * 3
    assert results["b"] == 5
    assert all(len(taken) == 3 for taken in seconds.values())
    rows = rows_of("x", 1, {"a": [1.0, 2.0, 4.0], "b": [2.0, 2.0, 12.0]})
    assert [row[3] for row in rows] == ["", "2.00"]
