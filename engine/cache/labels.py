"""Labels of a cache as people write them."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target

if TYPE_CHECKING:
    from tle.cache.reader import Cache


def readable_labels(cache: "Cache", rows: NDArray[np.int64]) -> list[str | float | list[str] | None]:
    """Labels of some rows: class names, numbers, lists of class names; None where there is none."""
    labels, names = cache.labels[rows], cache.classes
    if cache.target is Target.REGRESSION:
        return [None if np.isnan(value) else float(value) for value in labels]
    if cache.target is Target.MULTILABEL:
        return [
            None if (row == 255).all() else [name for name, on in zip(names, row, strict=True) if on] for row in labels
        ]
    return [None if label < 0 else names[label] for label in labels.tolist()]
