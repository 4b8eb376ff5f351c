"""Thread pools are narrowed for small products and given back."""

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from tle.heads.threads import ONE_THREAD_BELOW, blas_threads, torch_threads


def _blas():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch):
    monkeypatch.setattr("tle.heads.threads.usable_cores", lambda: 8)


def test_blas():
    with threadpool_limits(2):
        with blas_threads(ONE_THREAD_BELOW - 1):
            assert _blas() == {1}
        assert _blas() == {2}
        with blas_threads(ONE_THREAD_BELOW):
            assert _blas() == {2}


def test_no_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr("tle.heads.threads.usable_cores", lambda: 3)
    for threads, inside in ((2, 2), (3, 3), (5, 3)):
        with threadpool_limits(threads):
            with blas_threads(ONE_THREAD_BELOW):
                assert _blas() == {inside}
            assert _blas() == {threads}


def test_torch_also_after_an_error():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch_threads(ONE_THREAD_BELOW):
            assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), torch_threads(1):
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
