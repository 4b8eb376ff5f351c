"""Pictures to features: one pipeline, in the shape that the device wants.

On a CPU each of W threads takes the next batch, reads, hashes and decodes its pictures into a buffer of its own and runs
the backbone on it, all in that one thread: nobody waits for anybody, and no core has two things to do. On a GPU
(`tle.gpu_pipeline`) threads only decode, and copies overlap compute. Both yield batches in order, and memory is flat
whatever the number of pictures: finished batches that nobody has taken hold the threads up.

Threads are those of concurrent.futures. Against spdl-core 0.8, a thread pipeline made for this, with the same work in its
stage, they were 1.06 times as fast with ResNet-18 and 1.25 times with MobileNetV3-L (2 cores, medians of 5 paired runs).

# B batch, G good pictures of a batch, H W height and width, D feature dim
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from tle.errors import ImageError, ShapeError
from tle.images import load
from tle.preprocess import Preprocess
from tle.sources import Source
from tle.threads import one_torch_thread, torch_threads_kept

if TYPE_CHECKING:
    from tle.runtimes.runtime import Runtime
    from tle.views import View

# Batches a thread that may be finished or in the making: one that computes, and one that waits to be written or for its
# turn. Written batches are small (features alone), so this bounds order, not memory.
_AHEAD = 3

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Failure:
    """One picture that has no features.

    Attributes:
        index: its row in the source.
        reason: one line.
        digest: xxh3-64 of its bytes, 0 where they could not be read.
    """

    index: int
    reason: str
    digest: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Features of some consecutive rows, and what failed among them.

    Attributes:
        indices: (G,) int64 rows of the good pictures, ascending.
        features: (G, D) float32, finite.
        digests: (G,) uint64.
        failures: the other rows.
    """

    indices: NDArray[np.int64]
    features: NDArray[np.float32]
    digests: NDArray[np.uint64]
    failures: tuple[Failure, ...]

    def at(self, rows: NDArray[np.int64]) -> "Batch":
        """The same for pictures of another source: row i of this one is its row `rows[i]`."""
        failures = tuple(replace(failure, index=int(rows[failure.index])) for failure in self.failures)
        return replace(self, indices=rows[self.indices], failures=failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How pictures become pixels.

    Attributes:
        preprocess: resize and crop.
        decoder: identity of the decoder, see `tle.images.load`.
        max_pixels: pictures with more pixels are recorded as failed.
        view: a random view instead of the centre crop; not with the GPU's decoder.
    """

    preprocess: Preprocess
    decoder: str
    max_pixels: int
    view: "View | None" = None


def run(
    source: Source, runtime: "Runtime", decoding: Decoding, *, batch_size: int, dim: int, workers: int
) -> Iterator[Batch]:
    """Features of all pictures of `source`, batch by batch, in order.

    Args:
        source: where the pictures are.
        runtime: uint8 (B, H, W, 3) -> float32 (B, D).
        decoding: how pictures become pixels.
        batch_size: B.
        dim: D.
        workers: threads, each of which decodes, and on a CPU also computes.

    Yields:
        Batches that cover every row exactly once.

    Raises:
        ShapeError: the runtime yields something else than a row of D features a picture.
    """
    if runtime.device == "cuda" and runtime.batch is not None:
        batch_size = runtime.batch
    blocks = (range(start, min(start + batch_size, len(source))) for start in range(0, len(source), batch_size))
    if runtime.device == "cuda":
        from tle.gpu_pipeline import run_gpu

        batches = run_gpu(source, runtime, decoding, blocks, batch_size=batch_size, dim=dim, workers=workers)
    else:
        batches = _run_replicas(source, runtime, decoding, blocks, workers)
    for batch in batches:
        if len(batch.indices) and batch.features.shape[1] != dim:
            raise ShapeError(f"expected {dim} features a picture, the backbone gave {batch.features.shape[1]}")
        yield batch


def _run_replicas(
    source: Source, runtime: "Runtime", decoding: Decoding, blocks: Iterator[Sequence[int]], workers: int
) -> Iterator[Batch]:
    """One replica a thread, batches handed out as threads become free."""
    local = threading.local()

    def work(rows: Sequence[int]) -> Batch:
        pixels = getattr(local, "pixels", None)  # one buffer a thread: fresh memory would be cleared page by page
        if pixels is None or len(pixels) < len(rows):
            pixels = local.pixels = np.empty((len(rows), *decoding.preprocess.crop, 3), np.uint8)
        pixels = pixels[: len(rows)]
        outcomes = [decode(source, row, decoding, out) for row, out in zip(rows, pixels, strict=True)]
        good = np.array([reason is None for _, reason in outcomes])
        features = runtime(pixels if good.all() else pixels[good]) if good.any() else np.zeros((0, 0), np.float32)
        return collect(rows, outcomes, features)

    with torch_threads_kept(), ThreadPoolExecutor(workers, "tle-replica", initializer=one_torch_thread) as pool:
        yield from in_order(pool, work, blocks, ahead=_AHEAD * workers)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Iterable[_Item], *, ahead: int
) -> Iterator[_Result]:
    """Results of `work` on `items`, in their order, with at most `ahead` of them begun and not yet taken.

    Args:
        pool: the threads.
        work: called in them.
        items: taken one by one, as results are.
        ahead: how many may be under way; what is not begun is dropped when the iterator is closed.

    Yields:
        A result an item.
    """
    futures: deque[Future[_Result]] = deque()
    try:
        for item in items:
            futures.append(pool.submit(work, item))
            if len(futures) >= ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


def fetch(source: Source, row: int) -> tuple[bytes | None, int, str | None]:
    """Read one picture without decoding it.

    Returns:
        Its bytes, or None where they cannot be read; their digest, or 0; why they cannot be read, or None.
    """
    try:
        data = source.read(row)
    except ImageError as error:
        return None, 0, str(error)
    return data, xxhash.xxh3_64_intdigest(data), None


def decode(source: Source, row: int, decoding: Decoding, out: NDArray[np.uint8]) -> tuple[int, str | None]:
    """Decode one picture into its place of a batch.

    Args:
        source: where it is.
        row: which.
        decoding: how.
        out: uint8 (H, W, 3) to write into.

    Returns:
        The digest of its bytes (0 where they cannot be read), and why it is bad, or None.
    """
    data, digest, reason = fetch(source, row)
    if data is None:
        return digest, reason
    try:
        how: dict[str, Any] = {"decoder": decoding.decoder, "max_pixels": decoding.max_pixels, "out": out}
        if decoding.view is None:
            load(data, decoding.preprocess, **how)
        else:
            decoding.view.load(data, digest, decoding.preprocess, **how)
    except ImageError as error:
        return digest, str(error)
    return digest, None


def collect(rows: Sequence[int], outcomes: Sequence[tuple[int, str | None]], features_GD: NDArray[np.float32]) -> Batch:
    """A batch out of what became of its pictures and the features of the good ones.

    Args:
        rows: rows of the source.
        outcomes: (digest, reason or None) of each.
        features_GD: features of those without a reason.

    Returns:
        The batch; features that are not finite make their picture a failure.

    Raises:
        ShapeError: there is not a row of features for each good picture.
    """
    indices = np.asarray(rows, np.int64)
    digests = np.array([digest for digest, _ in outcomes], np.uint64)
    good = np.array([reason is None for _, reason in outcomes])
    failures = [
        Failure(int(row), reason, digest)
        for row, (digest, reason) in zip(indices, outcomes, strict=True)
        if reason is not None
    ]
    indices, digests = indices[good], digests[good]
    if len(indices) and (features_GD.ndim != 2 or len(features_GD) != len(indices)):
        raise ShapeError(
            f"expected a row of features for each of {len(indices)} pictures, the backbone gave {features_GD.shape}"
        )
    finite = np.isfinite(features_GD).all(1)
    if not finite.all():
        failures += [
            Failure(int(row), "the backbone's features of it are not finite", int(digest))
            for row, digest in zip(indices[~finite], digests[~finite], strict=True)
        ]
        indices, digests, features_GD = indices[finite], digests[finite], features_GD[finite]
    return Batch(indices, features_GD, digests, tuple(failures))
