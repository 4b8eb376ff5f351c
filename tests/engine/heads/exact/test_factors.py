"""Decompositions are right, the same for arrays and tensors, and say what is not finite."""

import numpy as np
import pytest
import torch

from tle.heads.exact.factors import eigh, factorise, solve


@pytest.fixture
def place(request, device):
    return {"array": np.array, "tensor": lambda array: torch.from_numpy(np.array(array)).to(device)}[request.param]


def host(found):
    return found if isinstance(found, np.ndarray) else found.cpu().numpy()


either = pytest.mark.parametrize("place", ["array", "tensor"], indirect=True)


def make_gram(rank=6):
    z_MD = np.random.default_rng(0).normal(size=(rank, 6))
    return z_MD.T @ z_MD


@either
def test_eigenvectors_come_with_the_largest_first(place):
    gram_DD = make_gram()
    values_D, basis_DD = (host(found) for found in eigh(place(gram_DD)))
    assert (np.diff(values_D) < 0).all()
    np.testing.assert_allclose(basis_DD * values_D @ basis_DD.T, gram_DD, atol=1e-12)


@either
@pytest.mark.parametrize("diagonal", [0.5, np.arange(1.0, 7.0)])
def test_columns_are_solved_for(place, diagonal):
    gram_DD, right_DM = make_gram(), np.random.default_rng(1).normal(size=(6, 2))
    found_DM = host(solve(factorise(place(gram_DD), diagonal), place(right_DM)))
    np.testing.assert_allclose(found_DM, np.linalg.solve(gram_DD + np.eye(6) * diagonal, right_DM), rtol=1e-9)


@either
def test_a_ridge_of_the_size_of_rounding_is_enough_where_there_is_no_curvature(place):
    gram_DD = make_gram(rank=2).astype(np.float32)
    right_D1 = gram_DD @ np.ones((6, 1), np.float32)
    found_D1 = host(solve(factorise(place(gram_DD), 0.0), place(right_D1)))
    np.testing.assert_allclose(gram_DD @ found_D1, right_D1, rtol=1e-3)


@either
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_said(place, value):
    gram_DD = place(make_gram())
    gram_DD[0, 0] = value
    with pytest.raises(np.linalg.LinAlgError):
        factorise(gram_DD, 1.0)
    gram_DD[...] = value
    with pytest.raises(np.linalg.LinAlgError):
        eigh(gram_DD)
