"""One thread for small products: where several would wait for each other longer than they work."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from tle.cores import usable_cores

# Multiply-adds of one product below which one thread does it. On 2 shared cores, logistic regression by scikit-learn:
# 1,257 x 64 x 10 took 0.8 ms an iteration with one thread and 7 to 22 with two, 6,000 x 1,280 x 10 took 22 and 53 to
# 400; only from 30,000 x 1,280 x 10 on could two be faster. Training a linear layer on 1,298 x 1,280 in batches of 129:
# 0.9 s with one, 7 to 15 with two.
ONE_THREAD_BELOW = 2**27


@contextmanager
def blas_threads(multiply_adds: int) -> Iterator[None]:
    """Inside, BLAS and OpenMP use one thread if products are small; else as many as before, but no more than cores."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    cores = usable_cores()
    large = {"blas": cores} if blas_thread_count() > cores else None
    with threadpool_limits(1 if multiply_adds < ONE_THREAD_BELOW else large):
        yield


def blas_thread_count() -> int:
    """Threads of NumPy's BLAS at this moment; 1 where it is one that cannot be asked."""
    library = _numpy_blas()
    return 1 if library is None else int(library.num_threads)


def blas_architecture() -> str:
    """The processor that NumPy's BLAS has kernels for, as OpenBLAS calls it; empty where it is another BLAS."""
    return str(getattr(_numpy_blas(), "architecture", ""))


@cache
def _numpy_blas() -> Any:
    """NumPy's library among those that are loaded; SciPy has one of its own."""
    import numpy  # noqa: F401 - which loads it
    from threadpoolctl import ThreadpoolController

    blas = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
    return next((lib for lib in blas if "scipy.libs" not in lib.filepath), None)


@contextmanager
def torch_threads(multiply_adds: int) -> Iterator[None]:
    """The same for torch, whose pool is its own."""
    import torch

    before = torch.get_num_threads()
    wanted = 1 if multiply_adds < ONE_THREAD_BELOW else min(before, usable_cores())
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
