"""What torch has to be told about a GPU: where a module lives, and whether matrix products may round to TF32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def to_device(graph: "nn.Module", device: str) -> "nn.Module":
    """`graph` itself on the CPU, else a copy of it on `device`: the backbone's own module stays where it is."""
    import copy

    return graph if device == "cpu" else copy.deepcopy(graph).to(device)


@contextmanager
def precise(*, tf32: bool, device: str) -> Iterator[None]:
    """Set whether float32 products on a GPU may be rounded to TF32 while the block runs, and put it back.

    torch rounds convolutions to TF32 by default, so float32 has to be asked for. The setting is the process's: one GPU
    pipeline at a time is all that tle runs.

    Args:
        tf32: allow it.
        device: "cpu" changes nothing.

    Yields:
        Nothing.
    """
    if device == "cpu":
        yield
        return
    import torch

    backends: Any = torch.backends
    matmul, conv = backends.cuda.matmul, backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before
