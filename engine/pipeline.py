"""Pictures to features: bytes are read, hashed and decoded by threads while the runtime computes the batch before.

# B batch, G good pictures of a batch, H W height and width, D feature dim
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

from tle.cores import usable_cores
from tle.errors import ImageError, ShapeError, UsageError
from tle.images import load
from tle.preprocess import Preprocess
from tle.sources import Source

if TYPE_CHECKING:
    from tle.runtimes.runtime import Runtime

DEFAULT_BATCH_SIZE = 32
# One batch computes, one is ready, one decodes: enough to keep both sides busy, and memory is flat whatever N is.
_BATCHES_AHEAD = 2


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


def check_options(batch_size: int, workers: int | None, max_pixels: int) -> None:
    """Refuse options of a run that cannot be meant.

    Raises:
        UsageError: one of them is below 1.
    """
    for flag, value in (("--batch-size", batch_size), ("--workers", workers), ("--max-pixels", max_pixels)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} takes 1 or more, got {value}")


def run(
    source: Source,
    preprocess: Preprocess,
    runtime: "Runtime",
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    workers: int | None = None,
    max_pixels: int,
) -> Iterator[Batch]:
    """Features of all pictures of `source`, batch by batch, in order.

    Args:
        source: where the pictures are.
        preprocess: resize and crop.
        runtime: uint8 (B, H, W, 3) -> float32 (B, D).
        batch_size: B.
        workers: decoding threads; None takes one a core.
        max_pixels: pictures with more pixels are recorded as failed.

    Returns:
        An iterator over batches that cover every row exactly once.

    Raises:
        UsageError: an option is below 1.
        ShapeError: while it runs: the runtime yields something else than a row a picture.
    """
    check_options(batch_size, workers, max_pixels)
    return _run(source, preprocess, runtime, batch_size, workers or usable_cores(), max_pixels)


def _run(
    source: Source, preprocess: Preprocess, runtime: "Runtime", batch_size: int, workers: int, max_pixels: int
) -> Iterator[Batch]:
    starts = range(0, len(source), batch_size)
    with ThreadPoolExecutor(workers, thread_name_prefix="tle-decode") as pool:
        ahead: deque[_Decoding] = deque()
        dim = None  # of the first features; all later ones have to have it
        try:
            for start in starts:
                rows = range(start, min(start + batch_size, len(source)))
                ahead.append(_submit(pool, source, rows, preprocess, max_pixels))
                if len(ahead) > _BATCHES_AHEAD:
                    yield (batch := _compute(ahead.popleft(), runtime, dim))
                    dim = _dim(batch, dim)
            while ahead:
                yield (batch := _compute(ahead.popleft(), runtime, dim))
                dim = _dim(batch, dim)
        finally:
            for decoding in ahead:
                for future in decoding.futures:
                    future.cancel()


@dataclass(frozen=True, slots=True)
class _Decoding:
    """A batch in the making: its buffer, and one future of (digest, reason or None) a picture."""

    rows: Sequence[int]
    pixels: NDArray[np.uint8]
    futures: list[Future[tuple[int, str | None]]]


def _submit(
    pool: ThreadPoolExecutor, source: Source, rows: Sequence[int], preprocess: Preprocess, max_pixels: int
) -> _Decoding:
    pixels = np.empty((len(rows), *preprocess.crop, 3), np.uint8)
    futures = [
        pool.submit(_decode, source, row, preprocess, max_pixels, out) for row, out in zip(rows, pixels, strict=True)
    ]
    return _Decoding(rows, pixels, futures)


def _decode(
    source: Source, row: int, preprocess: Preprocess, max_pixels: int, out: NDArray[np.uint8]
) -> tuple[int, str | None]:
    """Decode one picture into its place of the batch; a bad one becomes a reason."""
    digest = 0
    try:
        data = source.read(row)
        digest = xxhash.xxh3_64_intdigest(data)
        load(data, preprocess, max_pixels=max_pixels, out=out)
    except ImageError as error:
        return digest, str(error)
    return digest, None


def _dim(batch: Batch, known: int | None) -> int | None:
    return batch.features.shape[1] if known is None and len(batch.features) else known


def _compute(decoding: _Decoding, runtime: "Runtime", dim: int | None) -> Batch:
    outcomes = [future.result() for future in decoding.futures]
    rows = np.asarray(decoding.rows, np.int64)
    digests = np.array([digest for digest, _ in outcomes], np.uint64)
    good = np.array([reason is None for _, reason in outcomes])
    failures = [
        Failure(int(row), reason, digest)
        for row, (digest, reason) in zip(rows, outcomes, strict=True)
        if reason is not None
    ]
    if not good.any():
        return Batch(rows[:0], np.zeros((0, 0), np.float32), digests[:0], tuple(failures))
    features_GD = runtime(decoding.pixels if good.all() else decoding.pixels[good])
    rows, digests = rows[good], digests[good]
    if features_GD.ndim != 2 or len(features_GD) != len(rows):
        raise ShapeError(
            f"expected a row of features for each of {len(rows)} pictures, the backbone gave {features_GD.shape}"
        )
    if dim is not None and features_GD.shape[1] != dim:
        raise ShapeError(f"expected {dim} features a picture as before, the backbone gave {features_GD.shape[1]}")
    finite = np.isfinite(features_GD).all(1)
    failures += [
        Failure(int(row), "the backbone's features of it are not finite", int(digest))
        for row, digest in zip(rows[~finite], digests[~finite], strict=True)
    ]
    if not finite.all():
        rows, digests, features_GD = rows[finite], digests[finite], features_GD[finite]
    return Batch(rows, features_GD, digests, tuple(failures))
