"""Gram accumulation against its float64 definition, on the CPU and by interpreted Triton kernels."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tle.kernels.gram import GramAccumulator, copy_rows, gram_bytes, gram_ref

# Largest error relative to the largest entry. Triton's products are float32, added up in float64.
TOLERANCES = {"cpu": 1e-13, "triton": 2e-6}
SHAPES = [(0, 3), (1, 1), (7, 5), (33, 17), (130, 70), (257, 64)]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

INTERPRETED = """
import sys, torch
from tle.kernels.gram_triton import gram_triton
jobs = torch.load(sys.argv[1])
torch.save({name: gram_triton(*job) for name, job in jobs.items()}, sys.argv[2])
"""


def _rows(n, dim, dtype):
    rng = np.random.default_rng(n * 100 + dim)
    return (rng.normal(size=(n, dim)) * 3 + 5).astype(dtype), rng.normal(size=dim) + 5


def _assert_close(found, want, tolerance):
    for left, right in zip(found, want, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * max(1.0, np.abs(right).max(initial=0.0)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("block", [1, 8, 1024])
def test_equals_reference_whatever_the_blocks_and_calls(shape, dtype, block):
    x_ND, shift_D = _rows(*shape, dtype)
    accumulator = GramAccumulator(shift_D, block=block)
    for part_ND in (x_ND[: len(x_ND) // 3], x_ND[len(x_ND) // 3 :]):
        accumulator.add(part_ND)
    assert accumulator.rows == len(x_ND)
    gram_DD = accumulator.gram()
    np.testing.assert_array_equal(gram_DD, gram_DD.T)
    _assert_close((gram_DD, accumulator.sum_D), gram_ref(x_ND, shift_D), TOLERANCES["cpu"])


def test_no_dimension_and_wrong_shapes():
    accumulator = GramAccumulator(np.zeros(0))
    accumulator.add(np.empty((4, 0), np.float32))
    assert accumulator.gram().shape == (0, 0)
    assert accumulator.rows == 4
    with pytest.raises(ValueError, match=r"rows \(N, 2\), got \(3, 4\)"):
        GramAccumulator(np.zeros(2)).add(np.empty((3, 4), np.float32))
    with pytest.raises(ValueError, match="block of at least 1"):
        GramAccumulator(np.zeros(2), block=0)


def test_a_shift_keeps_a_constant_column_exactly_zero():
    x_ND = np.full((50, 2), 0.1, np.float32)
    accumulator = GramAccumulator(x_ND.mean(axis=0, dtype=np.float64))
    accumulator.add(x_ND)
    assert not accumulator.gram().any()


def test_converting_read_only_float16_keeps_every_value():
    source = np.arange(63, dtype=np.float16).reshape(9, 7)
    source.flags.writeable = False
    for view in (source, source[:, 1:5], source[::2]):
        into = np.empty(view.shape, np.float32)
        copy_rows(view, into)
        np.testing.assert_array_equal(into, view)


def test_stated_bytes():
    assert gram_bytes(10, 4, 2) == 80 + 8 * 4 * 5


@needs_triton
def test_interpreted_triton_equals_reference(tmp_path):
    jobs, want = {}, {}
    for n, dim in SHAPES:
        for dtype in (np.float16, np.float32):
            x_ND, shift_D = _rows(n, dim, dtype)
            jobs[f"{n} {dim} {dtype}"] = (torch.from_numpy(x_ND), torch.from_numpy(shift_D.astype(np.float32)))
            want[f"{n} {dim} {dtype}"] = gram_ref(x_ND, shift_D.astype(np.float32).astype(np.float64))
    torch.save(jobs, tmp_path / "jobs")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, tmp_path / "jobs", tmp_path / "results"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = torch.load(tmp_path / "results")
    for name, found in results.items():
        _assert_close([tensor.numpy() for tensor in found], want[name], TOLERANCES["triton"])


@needs_triton
def test_triton_refuses_tensors_of_the_cpu_outside_the_interpreter():
    from tle.kernels.gram_triton import gram_triton

    with pytest.raises(ValueError, match="expected rows on cuda"):
        gram_triton(torch.zeros(2, 2), torch.zeros(2))


@pytest.mark.gpu
@needs_triton
def test_cuda_equals_reference():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from tle.kernels.gram_triton import gram_triton

    x_ND, shift_D = _rows(5000, 200, np.float16)
    shift_D = shift_D.astype(np.float32)
    found = gram_triton(torch.from_numpy(x_ND).cuda(), torch.from_numpy(shift_D).cuda())
    want = gram_ref(x_ND, shift_D.astype(np.float64))
    _assert_close([tensor.cpu().numpy() for tensor in found], want, TOLERANCES["triton"])
