import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tle.heads.exact import products
from tle.heads.exact.products import add_outer, times
from tle.heads.threads import blas_threads

SHAPES = [
    (1, 3, 2),
    (77, 1280, 10),
    (78, 1280, 10),
    (79, 1280, 10),
    (500, 1280, 10),
    (300, 384, 36),
    (50, 1280, 900),
    (0, 5, 4),
]


@pytest.fixture(params=[True, False], ids=["pieces", "whole"])
def pieces(request, monkeypatch):
    """Both ways, whatever the processor."""
    monkeypatch.setattr(products, "_has_small_kernels", lambda: request.param)
    with blas_threads(0):
        yield request.param


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_pieces_make_the_product(pieces, shape, dtype):
    rows, dim, columns = shape
    rng = np.random.default_rng(0)
    z, w, r = (rng.standard_normal(s).astype(dtype) for s in ((rows, dim), (dim, columns), (rows, columns)))
    noise = 50 * np.finfo(dtype).eps
    expected = z.astype(np.float64) @ w.astype(np.float64)
    assert (products._piece(dim, columns) > 0) == (pieces and dim * columns <= 10**6)
    for found in (times(z, w), times(z, w, out=np.full((rows, columns), np.nan, dtype))):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=noise * np.sqrt(dim))
    total = np.ones((columns, dim), dtype)
    add_outer(total, r, z)
    assert total.dtype == dtype
    np.testing.assert_allclose(
        total, 1 + r.T.astype(np.float64) @ z.astype(np.float64), rtol=0, atol=noise * np.sqrt(max(rows, 1))
    )


def test_several_threads_keep_the_whole_product(monkeypatch):
    monkeypatch.setattr(products, "_has_small_kernels", lambda: True)
    monkeypatch.setattr(products, "blas_thread_count", lambda: 2)
    assert products._piece(1280, 10) == 0


@pytest.mark.parametrize(("kernels", "expected"), [("Haswell", False), ("SkylakeX", True)])
def test_pieces_are_for_processors_whose_blas_gains_from_them(kernels, expected):
    if expected and "avx512bw" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a processor with AVX-512")
    code = "from tle.heads.exact.products import _has_small_kernels as has; print(has())"
    env = os.environ | {"OPENBLAS_CORETYPE": kernels, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)
