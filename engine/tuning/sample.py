"""A few pictures of a source, decoded: what runtimes are measured and compared on.

# n pictures of the sample, H W height and width
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tle.images import EXACT_DECODER, GPU_DECODER
from tle.pipeline import Decoding, decode, fetch, in_order
from tle.preprocess import Preprocess
from tle.sources import Source
from tle.threads import one_torch_thread, torch_threads_kept


@dataclass(frozen=True, slots=True)
class Sample:
    """Some good pictures, decoded twice.

    Attributes:
        exact: uint8 (n, H, W, 3), as the exact decoder makes them.
        pixels: uint8 (n, H, W, 3), as the decoder of the run makes them; `exact` itself where it is the exact one.
    """

    exact: NDArray[np.uint8]
    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.exact)

    def part(self, start: int, step: int) -> "Sample":
        """Every `step`-th picture from `start` on."""
        same = self.pixels is self.exact
        exact = self.exact[start::step]
        return Sample(exact, exact if same else self.pixels[start::step])


def take_sample(
    source: Source, preprocess: Preprocess, n: int, *, decoder: str, max_pixels: int, workers: int
) -> Sample:
    """Decode up to `n` good pictures, spread evenly over the source: its first ones often are all of one class.

    Args:
        source: where the pictures are.
        preprocess: resize and crop.
        n: how many are wanted.
        decoder: the decoder of the run.
        max_pixels: pictures with more pixels are left out, like all bad ones.
        workers: decoding threads.

    Returns:
        The sample; smaller where there are not so many good pictures among those looked at, and possibly empty.
    """
    decoders = [EXACT_DECODER] if decoder == EXACT_DECODER else [EXACT_DECODER, decoder]

    def work(row: int) -> list[NDArray[np.uint8]] | None:
        found = []
        for name in decoders:
            how = Decoding(preprocess=preprocess, decoder=name, max_pixels=max_pixels)
            pixels = decode_one(source, row, how)
            if pixels is None:
                return None
            found.append(pixels)
        return found

    good: list[list[NDArray[np.uint8]]] = []
    with torch_threads_kept(), ThreadPoolExecutor(workers, "tle-sample", initializer=one_torch_thread) as pool:
        for decoded in in_order(pool, work, _spread(len(source), n), ahead=2 * workers):
            if decoded is not None:
                good.append(decoded)
            if len(good) == n:
                break
    if not good:
        empty = np.empty((0, *preprocess.crop, 3), np.uint8)
        return Sample(empty, empty)
    exact = np.stack([decoded[0] for decoded in good])
    return Sample(exact, exact if len(decoders) == 1 else np.stack([decoded[1] for decoded in good]))


def decode_one(source: Source, row: int, decoding: Decoding) -> NDArray[np.uint8] | None:
    """One picture as a run would decode it, on the GPU if that is the decoder.

    Returns:
        uint8 (H, W, 3), or None for a bad picture.
    """
    if decoding.decoder != GPU_DECODER:
        out = np.empty((*decoding.preprocess.crop, 3), np.uint8)
        return out if decode(source, row, decoding, out)[1] is None else None
    import torch

    from tle.gpu_decode import decode_on_gpu

    data, _, _ = fetch(source, row)
    if data is None:
        return None
    batch = torch.empty((1, *decoding.preprocess.crop, 3), dtype=torch.uint8, device="cuda")
    reasons = decode_on_gpu([data], batch, decoding.preprocess, max_pixels=decoding.max_pixels)
    pixels: NDArray[np.uint8] = batch[0].cpu().numpy()
    return pixels if reasons == [None] else None


def _spread(total: int, n: int) -> Iterator[int]:
    """Rows to look at: `n` spread evenly, then those half way between, and so on; none twice."""
    seen: set[int] = set()
    step = total / n if n else 0.0
    for offset in (0.5, 0.0, 0.25, 0.75):
        for number in range(n):
            row = int((number + offset) * step)
            if row < total and row not in seen:
                seen.add(row)
                yield row
