"""Cached features for a torch training loop.

# D feature dim, B rows of a batch
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from tle.cache.reader import Cache


class FeatureDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Rows of a cache as (features, label); made by `Cache.dataset`.

    A worker process of a DataLoader gets the path and maps the same pages: nothing is copied to it.

    Attributes:
        rows: (n,) int64, the rows of the cache, in the order of this data set.
    """

    def __init__(self, cache: "Cache", rows: NDArray[np.int64]) -> None:
        """Take `rows` of `cache`."""
        self.rows = rows
        self._cache = cache

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Features, float16 or float32 (D,), and label, as `Target` defines it, of item `index`."""
        row = self.rows[index]
        return _tensor(self._cache.features[row]), _tensor(self._cache.labels[row])

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A batch at once, as torch's DataLoader asks for it; rows of one read."""
        rows = self.rows[indices]
        features, labels = _tensor(self._cache.features[rows]), _tensor(self._cache.labels[rows])
        return list(zip(features, labels, strict=True))


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(values))  # a copy: what is mapped is read-only, and tensors are not
