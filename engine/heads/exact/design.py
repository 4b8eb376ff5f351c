"""The rows of a problem, standardised, in memory, streamed from the cache block by block, or on a device.

# N rows of the feature matrix, n rows of the problem, B rows of a block, D feature dim

    z = (x - mean) * inverse        rounded to the working type

What is in memory is standardised once; what is streamed, in every pass, in a buffer that is used again and again:
many float16 rows are converted by `torch.Tensor.copy_`, which is some ten times as fast as NumPy. On a device is a copy
of all rows, standardised, and where there is one it alone is read: blocks are tensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.exact.device import cast, fetch, send
from tle.kernels.gram import as_tensor

# Elements of a block. Of 128 to 2,048 rows of 1,280 features in float32, 256 to 1,024 made a pass over 10 columns 1.4
# times as fast as one product over all rows, and each block costs a tenth of a millisecond besides.
_BLOCK_VALUES = 2**20
# And of what is made of a block: 64 MiB of float64, some times as many while a certificate is made.
_MADE_VALUES = 2**23
# Values that may be made at a time on a device, where short blocks wait for their start: 128 MiB of float32, of which a
# certificate in float64 makes some ten times as much. An H100 starts what a block needs in 0.8 ms, and a pass over 20,000 x
# 1,280 rows of 10 classes keeps it busy for 0.24.
_DEVICE_VALUES = 2**25
# Values from which float16 is converted by torch, whose import takes as long as NumPy needs for 2**30 of them.
_TORCH_FROM = 2**26


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """The rows of a problem.

    Attributes:
        features: (N, D) floats, maybe memory-mapped; or, where `resident`, already standardised (n, D).
        rows: (n,) int64 rows of `features`, ascending; None for all.
        mean_D: float64 (D,); None for 0.
        inverse_D: float64 (D,), 1 / scale; None for 1.
        dtype: float32 or float64, in which passes are made.
        tensor: (n, D) torch tensor of the same rows, standardised, on the device that works on them; None for NumPy.
    """

    features: NDArray[Any]
    rows: NDArray[np.int64] | None
    mean_D: NDArray[np.float64] | None
    inverse_D: NDArray[np.float64] | None
    dtype: np.dtype[Any]
    tensor: Any = None

    def __len__(self) -> int:
        return len(self.features) if self.rows is None else len(self.rows)

    @property
    def dim(self) -> int:
        """Feature dimension D."""
        return int(self.features.shape[1])

    @property
    def is_resident(self) -> bool:
        """Whether rows are NumPy's and need no work before they are used."""
        plain = self.rows is None and self.mean_D is None and self.inverse_D is None
        return self.tensor is None and plain and self.features.dtype == self.dtype

    def load(self) -> "Design":
        """The same rows in memory, standardised, for NumPy."""
        if self.is_resident:
            return self
        z_ND = np.empty((len(self), self.dim), self.dtype)
        for positions, z_BD in self.blocks():
            (z_ND[positions],) = fetch(z_BD)
        return Design(z_ND, None, None, None, self.dtype)

    def on_device(self, device: str) -> "Design":
        """The same rows with a copy in their type on a torch device ("cuda", "cpu"), which then works on them."""
        import torch

        tensor = torch.empty((len(self), self.dim), dtype=getattr(torch, self.dtype.name), device=device)
        for positions, z_BD in self.blocks():
            tensor[positions] = as_tensor(z_BD).to(device)
        return replace(self, tensor=tensor)

    def take(self, positions: NDArray[np.int64]) -> Any:
        """Some standardised rows, a fresh array, or a tensor where the rows are."""
        if self.tensor is not None:
            (index,) = send(self.tensor, positions)
            return cast(self.tensor[index], self.dtype)
        rows = positions if self.rows is None else self.rows[positions]
        return self._standardise(np.array(self.features[rows], self.dtype))

    def some(self, positions: NDArray[np.int64]) -> "Design":
        """Some rows, copied where they are."""
        if self.tensor is None:
            return Design(self.take(positions), None, None, None, self.dtype)
        (index,) = send(self.tensor, positions)
        return replace(self, rows=positions if self.rows is None else self.rows[positions], tensor=self.tensor[index])

    def device_step(self, columns: int) -> int:
        """Rows of a block on a device, where so many values are made for each."""
        return max(16, _DEVICE_VALUES // columns)

    def blocks(self, columns: int = 1) -> Iterator[tuple[slice, Any]]:
        """All rows in order as (positions, (B, D) rows), arrays or tensors, not to be written to.

        A block is valid until the next one is asked for.

        Args:
            columns: values that are made for each row of a block.
        """
        if self.tensor is None:
            yield from self._host_blocks(columns)
            return
        is_cast = self.tensor.element_size() != self.dtype.itemsize
        step = self.device_step(columns + self.dim if is_cast else columns)
        for start in range(0, len(self), step):
            positions = slice(start, min(start + step, len(self)))
            yield positions, cast(self.tensor[positions], self.dtype)

    def _host_blocks(self, columns: int) -> Iterator[tuple[slice, NDArray[Any]]]:
        step = max(16, min(_BLOCK_VALUES // max(self.dim, 1), _MADE_VALUES // columns))
        if self.is_resident:
            for start in range(0, len(self), step):
                positions = slice(start, min(start + step, len(self)))
                yield positions, self.features[positions]
            return
        buffer_BD = np.empty((min(step, len(self)), self.dim), self.dtype)
        for start in range(0, len(self), step):
            positions = slice(start, min(start + step, len(self)))
            raw_BD = self.features[positions if self.rows is None else self._span(positions)]
            z_BD = buffer_BD[: len(raw_BD)]
            if raw_BD.dtype == np.float16 and len(self) * self.dim > _TORCH_FROM:
                _convert(raw_BD, z_BD)
            else:
                z_BD[...] = raw_BD
            yield positions, self._standardise(z_BD)

    def _span(self, positions: slice) -> Any:
        """Rows of a block, as a slice where they follow one another: a view instead of a copy."""
        assert self.rows is not None  # noqa: S101 - for the type checker
        rows = self.rows[positions]
        return slice(int(rows[0]), int(rows[-1]) + 1) if rows[-1] - rows[0] == len(rows) - 1 else rows

    def _standardise(self, z_BD: NDArray[Any]) -> NDArray[Any]:
        """In place."""
        if self.mean_D is not None:
            z_BD -= self.mean_D.astype(self.dtype)
        if self.inverse_D is not None:
            z_BD *= self.inverse_D.astype(self.dtype)
        return z_BD


def _convert(raw_BD: NDArray[Any], out_BD: NDArray[Any]) -> None:
    """Write float16 rows, of read-only memory too, into rows of another type."""
    import torch

    torch.from_numpy(out_BD).copy_(as_tensor(raw_BD))
