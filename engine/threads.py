"""torch's threads while others compute beside it: each of tle's threads runs single-threaded, on its own core."""

from collections.abc import Iterator
from contextlib import contextmanager


def one_torch_thread() -> None:
    """Let torch use one thread for whatever the calling thread asks of it.

    What OMP_NUM_THREADS or MKL_NUM_THREADS say makes no difference: they are only defaults.
    """
    import torch

    torch.set_num_threads(1)


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Put torch's number of threads back after the block: the number is the process's, and belongs to the caller.

    Yields:
        Nothing.
    """
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
