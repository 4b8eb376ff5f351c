"""Blocked top-k against its reference: shapes, ties, bounds, refusals."""

import importlib.util

import numpy as np
import pytest
import torch

from tle.kernels.topk import topk_bytes, topk_similarity, topk_similarity_ref


def _integers(rng, rows, dim):
    """Small integers: every inner product is exact in float32, so that ties are exact in any order of summation."""
    return rng.integers(-2, 3, size=(rows, dim)).astype(np.float32)


@pytest.mark.parametrize("queries", [0, 1, 7, 33])
@pytest.mark.parametrize("bank", [0, 1, 5, 64, 257])
@pytest.mark.parametrize("k", [1, 3, 64, 1000])
def test_equals_reference_with_ties_whatever_the_blocks(queries, bank, k):
    rng = np.random.default_rng(queries * 1000 + bank + k)
    query, rows = _integers(rng, queries, 3), _integers(rng, bank, 3)  # dim 3: most similarities tie
    want_values, want_indices = topk_similarity_ref(query, rows, k)
    for query_block, bank_block in [(1024, 8192), (5, 16), (1, 1), (8, 63)]:
        values, indices = topk_similarity(query, rows, k, query_block=query_block, bank_block=bank_block)
        np.testing.assert_array_equal(indices, want_indices)
        np.testing.assert_array_equal(values, want_values)
        assert values.dtype == np.float32
        assert indices.dtype == np.int64


def test_real_valued_results_agree_with_float64_to_rounding():
    rng = np.random.default_rng(0)
    query, bank = rng.normal(size=(50, 33)), rng.normal(size=(501, 33))
    values, indices = topk_similarity(query, bank, 10, query_block=16, bank_block=100)
    exact = np.sort(query @ bank.T, axis=1)[:, ::-1][:, :10]
    np.testing.assert_allclose(values, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(query @ bank.T, indices, axis=1), exact, rtol=1e-5, atol=1e-5)


def test_negative_similarities_are_ordered_and_decoded():
    query, bank = np.array([[1.0]], np.float32), np.array([[-3.0], [-1.0], [-2.0]], np.float32)
    values, indices = topk_similarity(query, bank, 2)
    assert values.tolist() == [[-1.0, -2.0]]
    assert indices.tolist() == [[1, 2]]


def test_negative_zero_ties_with_zero():
    query, bank = np.array([[1.0]], np.float32), np.array([[-0.0], [0.0]], np.float32)
    assert topk_similarity(query, bank, 2)[1].tolist() == [[0, 1]]


def test_a_float16_bank_is_accumulated_in_float32():
    bank = np.full((4, 4096), 0.25, np.float16)
    values, _ = topk_similarity(np.full((1, 4096), 8.0, np.float16), bank, 1)
    assert values[0, 0] == 8192.0  # a float16 sum would have lost the small addends


def test_empty_dimension_gives_zeros_in_index_order():
    values, indices = topk_similarity(np.empty((2, 0), np.float32), np.empty((3, 0), np.float32), 2)
    assert values.tolist() == [[0.0, 0.0]] * 2
    assert indices.tolist() == [[0, 1]] * 2


def test_refusals():
    square = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 3\)"):
        topk_similarity(square, np.ones((2, 3), np.float32), 1)
    with pytest.raises(ValueError, match="at least 1"):
        topk_similarity(square, square, 0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        topk_similarity(square, np.array([[np.nan, 1.0]], np.float32), 1)


def test_stated_bytes():
    assert topk_bytes(10, 20, 4, 50) == 4 * 4 * 30 + 12 * 10 * 20


INTERPRETED = """
import sys, torch
from tle.kernels.topk_triton import topk_triton
jobs = torch.load(sys.argv[1])
torch.save([topk_triton(*job, tile=64) for job in jobs], sys.argv[2])
"""
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@needs_triton
def test_interpreted_triton_equals_reference_with_ties(tmp_path, run_python):
    rng = np.random.default_rng(4)
    shapes = [(0, 5, 3, 1), (1, 1, 1, 4), (7, 64, 3, 10), (17, 130, 3, 33), (3, 65, 40, 64), (5, 0, 3, 2)]
    inputs = [(_integers(rng, queries, dim), _integers(rng, rows, dim), k) for queries, rows, dim, k in shapes]
    inputs.append((_integers(rng, 4, 5).astype(np.float16), _integers(rng, 30, 5).astype(np.float16), 3))
    jobs = [(torch.from_numpy(query), torch.from_numpy(bank), k) for query, bank, k in inputs]
    torch.save(jobs, tmp_path / "jobs")
    run_python(INTERPRETED, tmp_path / "jobs", tmp_path / "results", interpret=True)
    for (values, indices), (query, bank, k) in zip(torch.load(tmp_path / "results"), inputs, strict=True):
        want_values, want_indices = topk_similarity_ref(query, bank, k)
        np.testing.assert_array_equal(indices.numpy(), want_indices)
        np.testing.assert_array_equal(values.numpy(), want_values)


@needs_triton
def test_triton_refuses_tensors_of_the_cpu_outside_the_interpreter():
    from tle.kernels.topk_triton import topk_triton

    with pytest.raises(ValueError, match="expected tensors on cuda"):
        topk_triton(torch.zeros(2, 2), torch.zeros(2, 2), 1)


@pytest.mark.gpu
@needs_triton
def test_cuda_equals_reference():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from tle.kernels.topk_triton import topk_triton

    rng = np.random.default_rng(5)
    query, bank = _integers(rng, 300, 64), _integers(rng, 5000, 64)
    values, indices = topk_triton(torch.from_numpy(query).cuda(), torch.from_numpy(bank).cuda(), 20)
    want_values, want_indices = topk_similarity_ref(query, bank, 20)
    np.testing.assert_array_equal(indices.cpu().numpy(), want_indices)
    np.testing.assert_array_equal(values.cpu().numpy(), want_values)
