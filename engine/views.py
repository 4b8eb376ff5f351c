"""Random views of pictures whose features are kept: each in a cache of its own, which grows and resumes as any other.

What is drawn for a picture comes from the number of the view and from the picture's bytes alone, so it does not depend on
threads, on batches, on the order of the pictures or on where a run was interrupted.

H, W size of the crop.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.errors import UsageError
from tle.finetuning.augmentation import Augmentation, load_augmented
from tle.preprocess import Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One random view of every picture.

    Attributes:
        number: which, from 1; every number is another draw.
        augmentation: what is drawn.

    Raises:
        UsageError: a number that cannot be used.
    """

    number: int
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if type(self.number) is not int or not 1 <= self.number < 2**32:
            raise UsageError(f"--view takes a whole number from 1 on, got {self.number!r}")

    def to_dict(self) -> dict[str, Any]:
        """The same as a JSON-able dictionary."""
        return {"number": self.number, **self.augmentation.to_dict()}

    def load(
        self,
        data: bytes,
        digest: int,
        preprocess: Preprocess,
        *,
        decoder: str,
        max_pixels: int,
        out: NDArray[np.uint8],
    ) -> None:
        """Decode this view of one picture; safe to call from many threads at once.

        Args:
            data: the bytes of the file.
            digest: their xxh3-64.
            preprocess: as in `tle.finetuning.augmentation.load_augmented`.
            decoder: as in `tle.images.load`.
            max_pixels: pictures of more pixels (width x height) are refused.
            out: (H, W, 3) uint8 array to write into.

        Raises:
            ImageError: as `tle.images.load`, for the same reasons.
        """
        rng = np.random.default_rng([self.number, digest])
        load_augmented(data, preprocess, self.augmentation, rng, decoder=decoder, max_pixels=max_pixels, out=out)
