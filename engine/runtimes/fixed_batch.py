"""Any number of pictures through something that takes just B of them: split, pad the last part, slice."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def run_fixed(
    run: "Callable[[NDArray[np.uint8]], NDArray[np.float32]]", pixels: "NDArray[np.uint8]", batch: int
) -> "NDArray[np.float32]":
    """Features of `pixels`, `batch` of them at a time.

    A smaller batch would be compiled anew, or refused; what is padded is computed in vain, and only at the very end.

    Args:
        run: uint8 (batch, H, W, 3) -> float32 (batch, D); may reuse its output's memory.
        pixels: uint8 (B, H, W, 3), any B >= 1.
        batch: what `run` takes.

    Returns:
        float32 (B, D).
    """
    import numpy as np

    if len(pixels) == batch:
        return run(pixels)
    parts = []
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        if len(part) < batch:
            full = np.zeros((batch, *pixels.shape[1:]), np.uint8)
            full[: len(part)] = part
            parts.append(run(full)[: len(part)].copy())
        else:
            parts.append(run(part).copy())
    return np.concatenate(parts)
