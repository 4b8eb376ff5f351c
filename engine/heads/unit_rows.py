"""Features whose rows are brought to length 1 as they are read.

# N rows, B rows of a block, D feature dim
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def normalise_rows(x_BD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows divided by their Euclidean length, float32 (B, D), a fresh array; rows of zeros stay zeros."""
    # Lengths in float64: squares of large features are beyond float32.
    length_B = np.sqrt(np.einsum("bd,bd->b", x_BD, x_BD, dtype=np.float64))
    return np.asarray(x_BD / np.where(length_B > 0, length_B, 1.0)[:, None], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class UnitRows:
    """A feature matrix, normalised where it is indexed: as much of an array as a `Design` asks for.

    Attributes:
        features: (N, D) float16 or float32, maybe memory-mapped.
    """

    features: NDArray[Any]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        return self.features.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Float32."""
        return np.dtype(np.float32)

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        """Some rows, of length 1."""
        return normalise_rows(np.asarray(self.features[rows], np.float32))
