"""Arrays of either library: NumPy's, or torch's tensors where the rows are.

What touches all rows is written once, with functions that both libraries have under the same name and with the same
arguments; here are those that they have not. No tensor, no import of torch.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tle.kernels.gram import as_tensor


def library(array: Any) -> Any:
    """NumPy or torch, whichever an array is of."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def cast(array: Any, dtype: DTypeLike) -> Any:
    """The array in another type; a tensor of that type already is not copied."""
    if isinstance(array, np.ndarray):
        return array.astype(dtype)
    return array.to(getattr(library(array), np.dtype(dtype).name))


def zeros(shape: int | tuple[int, ...], dtype: DTypeLike, like: Any) -> Any:
    """Zeros of the library of `like`, beside it."""
    if isinstance(like, np.ndarray):
        return np.zeros(shape, dtype)
    xp = library(like)
    return xp.zeros(shape, dtype=getattr(xp, np.dtype(dtype).name), device=like.device)


def row_numbers(like: Any) -> Any:
    """Integers from 0, one for each row of `like`, beside it."""
    if isinstance(like, np.ndarray):
        return np.arange(len(like))
    return library(like).arange(len(like), device=like.device)


def dtype_of(array: Any) -> np.dtype[Any]:
    """NumPy's name for the type of an array or a tensor."""
    return np.dtype(str(array.dtype).removeprefix("torch."))


def send(beside: Any, *arrays: NDArray[Any]) -> list[Any]:
    """Copies as tensors beside one, in a single transfer; the arrays themselves where `beside` is None or an array.

    Args:
        beside: a tensor, an array or None.
        arrays: those with the most bytes a value first, which keeps them aligned.
    """
    if beside is None or isinstance(beside, np.ndarray):
        return list(arrays)
    packed = np.concatenate([np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays])
    return _unpack(as_tensor(packed).to(beside.device), arrays)


def fetch(*arrays: Any) -> list[Any]:
    """Tensors as NumPy arrays, in a single transfer; see `send`. NumPy's are given back."""
    if isinstance(arrays[0], np.ndarray):
        return list(arrays)
    xp = library(arrays[0])
    packed = xp.cat([array.reshape(-1).view(xp.uint8) for array in arrays])
    return _unpack(packed.cpu().numpy(), arrays)


def _unpack(packed: Any, arrays: tuple[Any, ...]) -> list[Any]:
    """The arrays that bytes were made of."""
    found, start = [], 0
    for array in arrays:
        dtype = getattr(library(packed), dtype_of(array).name)
        found.append(packed[start : start + array.nbytes].view(dtype).reshape(tuple(array.shape)))
        start += array.nbytes
    return found
