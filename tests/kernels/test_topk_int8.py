"""The way by 8-bit products against the float64 definition: exact sets, ties, hostile banks, and giving up."""

import numpy as np
import pytest

from tle.kernels.topk import topk_similarity, topk_similarity_ref
from tle.kernels.topk_int8 import topk_int8


def _features(rows, dim, seed, classes=12):
    """Clustered, non-negative, of unit length: as the features of a network are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).gamma(0.7, size=(classes, dim))
    x_ND = np.maximum(centres[rng.integers(0, classes, rows)] + 0.4 * rng.normal(size=(rows, dim)), 0)
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)


def _assert_best(found, query, bank, k):
    """The similarities are the k largest in float64 to rounding, in order, and belong to their rows."""
    values, indices = found
    exact = query.astype(np.float64) @ bank.astype(np.float64).T
    want = np.sort(exact, axis=1)[:, ::-1][:, :k]
    scale = np.abs(exact).max()
    np.testing.assert_allclose(values, want, rtol=0, atol=3e-6 * scale)
    np.testing.assert_allclose(np.take_along_axis(exact, indices, axis=1), want, rtol=0, atol=3e-6 * scale)
    assert all(len(set(row)) == k for row in indices.tolist())
    assert (np.diff(values, axis=1) <= 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("k", [1, 20, 100])
@pytest.mark.parametrize("queries", [1, 513])
def test_finds_the_same_as_float64(dtype, k, queries):
    bank, query = _features(9001, 96, 1).astype(dtype), _features(queries, 96, 2)
    found = topk_int8(query, bank, k)
    assert found is not None
    _assert_best(found, query, bank, k)


def test_duplicated_rows_tie_with_the_lower_index_first():
    bank, query = _features(4500, 80, 3), _features(40, 80, 4)
    bank = np.concatenate([bank, bank, bank[::-1]])
    _, indices = topk_int8(query, bank, 3)
    originals = np.where(indices >= 9000, 13499 - indices, indices % 4500)
    np.testing.assert_array_equal(originals, np.repeat(originals[:, :1], 3, axis=1))
    assert (np.diff(indices, axis=1) > 0).all()


def test_rows_of_very_different_length_and_rows_of_zeros():
    rng = np.random.default_rng(5)
    bank = _features(9000, 64, 6) * np.exp(rng.normal(size=(9000, 1))).astype(np.float32)
    bank[::7] = 0
    query = _features(30, 64, 7)
    query[3] = 0
    found = topk_int8(query, bank, 5)
    if found is not None:  # whatever it gives has to be right
        _assert_best(found, query, bank, 5)
        assert found[1][3].tolist() == [0, 1, 2, 3, 4]
    _assert_best(topk_similarity(query, bank, 5), query, bank, 5)


def test_gives_up_where_the_bound_does_not_separate():
    rng = np.random.default_rng(8)
    noise = rng.normal(size=(20_000, 64)).astype(np.float32)
    noise[:, 0] = 1000  # all similarities lie within the error of the 8 bits
    assert topk_int8(noise[:300].copy(), noise, 10) is None
    _assert_best(topk_similarity(noise[:300], noise, 10), noise[:300], noise, 10)


def test_numbers_that_are_not_finite_are_left_to_the_one_who_says_so():
    bank, query = _features(9000, 64, 9), _features(300, 64, 10)
    for bad in (np.nan, np.inf):
        for where in ("query", "bank"):
            spoilt_query, spoilt_bank = query.copy(), bank.copy()
            (spoilt_query if where == "query" else spoilt_bank)[5, 5] = bad
            with pytest.raises(ValueError, match="NaN or infinite"):
                topk_similarity(spoilt_query, spoilt_bank, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_banks_that_are_read_only_or_reversed(dtype):
    bank, query = _features(9000, 64, 9).astype(dtype), _features(300, 64, 10)
    want = topk_int8(query, bank, 5)
    bank.flags.writeable = query.flags.writeable = False
    for one, other in zip(topk_int8(query, bank, 5), want, strict=True):
        np.testing.assert_array_equal(one, other)
    values, indices = topk_int8(query, np.ascontiguousarray(bank[::-1])[::-1], 5)
    np.testing.assert_array_equal(values, want[0])
    np.testing.assert_array_equal(indices, want[1])


def test_numbers_that_vanish_are_left_to_float32():
    bank, query = _features(9000, 64, 9), _features(300, 64, 10)
    bank[7] *= 1e-44
    values, indices = topk_similarity(query, bank, 5)
    want_values, _ = topk_similarity_ref(query, bank, 5)
    np.testing.assert_allclose(values, want_values, rtol=1e-5)
    assert 7 not in indices


def test_the_dispatcher_gives_what_the_reference_gives():
    bank, query = _features(8192, 64, 11), _features(256, 64, 12)
    values, indices = topk_similarity(query, bank, 10)
    want_values, want_indices = topk_similarity_ref(query, bank, 10)
    np.testing.assert_allclose(values, want_values, rtol=1e-5)
    assert (indices == want_indices).mean() > 0.999  # neighbours closer than rounding may swap
