"""Small copies of pictures as data URIs, within a limit on the page."""

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from PIL import Image

from tle.cores import usable_cores
from tle.errors import ImageError
from tle.images import decode
from tle.sources import Source
from tle.sources.source import plural

# All of a page's pictures, as text: what a mail server still takes, and a phone opens at once.
BUDGET_BYTES = 6_000_000
_QUALITY = 72
# A picture within this many pixels is enlarged as it is drawn, pixel by pixel: blur would hide all that is in it.
_TINY = 48


class Thumbnails:
    """Makes small copies of pictures until the limit is reached.

    Attributes:
        left_out: how many were wanted beyond the limit.
        unreadable: how many could be read by the classifier's decoder before, and now cannot be decoded in full.
    """

    def __init__(self, source: Source, *, max_pixels: int, budget: int = BUDGET_BYTES) -> None:
        """Begin with none.

        Args:
            source: the pictures.
            max_pixels: as for decoding.
            budget: characters that all data URIs together may take.
        """
        self.left_out = 0
        self.unreadable = 0
        self._source = source
        self._max_pixels = max_pixels
        self._left = budget

    def make(self, rows: Sequence[int], *, side: int) -> dict[int, str]:
        """Small copies of some pictures, the first of them first.

        Args:
            rows: of the source.
            side: longer side in pixels, at most.

        Returns:
            Row -> data URI; rows beyond the limit, and those that cannot be read, are missing.
        """
        one: Callable[[int], str | None] = partial(self._one, side=side)
        found: dict[int, str] = {}
        step, seen = 4 * usable_cores(), 0  # a block at a time: what is beyond the limit is not decoded
        with ThreadPoolExecutor(usable_cores(), "tle-thumbnails") as pool:
            for start in range(0, len(rows), step):
                for row, uri in zip(rows[start:], pool.map(one, rows[start : start + step]), strict=False):
                    if uri is not None and len(uri) > self._left:
                        self.left_out += len(rows) - seen
                        return found
                    seen += 1
                    if uri is None:
                        self.unreadable += 1
                        continue
                    self._left -= len(uri)
                    found[row] = uri
        return found

    def notes(self) -> list[str]:
        """What is missing, a line each."""
        lines = []
        if self.left_out:
            lines.append(f"{plural(self.left_out, 'thumbnail')} left out to keep the page small")
        if self.unreadable:
            lines.append(
                f"{plural(self.unreadable, 'thumbnail')} left out: the picture can no longer be decoded in full"
            )
        return lines

    def _one(self, row: int, *, side: int) -> str | None:
        try:
            image = decode(self._source.read(row), max_pixels=self._max_pixels)
        except ImageError:
            return None  # counted by `make`
        longer = max(image.size)
        if longer > side:
            width, height = (max(1, round(length * side / longer)) for length in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        elif longer <= _TINY:
            times = max(1, side // longer)
            image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
