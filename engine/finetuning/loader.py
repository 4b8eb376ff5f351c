"""Pictures to batches of pixels, for training and for evaluation, decoded ahead by threads.

Which pictures a training batch holds, and how each looks, follows from the seed, the epoch and the picture's place in the
epoch's order alone. So a training is the same whatever the number of threads, goes on at any batch without a saved state,
and W processes with batches of B see together what one process with batches of W x B sees.

A picture that cannot be decoded is left out and recorded; nothing takes its place.

# N pictures, n rows that are trained on, B batch, W processes, G good pictures of a batch, H W height and width, C classes
"""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tle.errors import ImageError
from tle.finetuning.augmentation import Augmentation, load_augmented
from tle.finetuning.sampling import Stream, class_balanced_weights, epoch_order, n_batches
from tle.images import load
from tle.pipeline import Decoding
from tle.sources import Source
from tle.threads import one_torch_thread, torch_threads_kept

if TYPE_CHECKING:
    import torch

__all__ = [
    "Batch",
    "PixelStore",
    "class_balanced_weights",
    "epoch_order",
    "eval_batches",
    "n_batches",
    "train_batches",
]

# Batches that are decoded or in the making while the caller works on one.
_AHEAD = 2

# (place, row, out) -> None; raises ImageError.
_Decode = Callable[[int, int, NDArray[np.uint8]], None]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The good pictures of a batch, and what failed in it.

    Attributes:
        number: which batch of the epoch, from 0.
        pixels: uint8 (G, H, W, 3) RGB on the CPU; G may be 0. In pinned memory where torch has CUDA, so that copies can be
            asynchronous; what that gains has not been measured.
        rows: (G,) int64 rows of the source.
        failures: why the other pictures are bad, by row of the source.
    """

    number: int
    pixels: "torch.Tensor"
    rows: NDArray[np.int64]
    failures: Mapping[int, str]


def train_batches(
    source: Source,
    rows: NDArray[np.int64],
    *,
    decoding: Decoding,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int,
    weights: NDArray[np.float64] | None = None,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """Augmented batches of one epoch, from batch `start` on.

    Batch g of all processes holds the g-th W x B pictures of `epoch_order`; process r takes every W-th of them from the
    r-th on. The last batch is smaller, and may be empty for some processes.

    Args:
        source: where the pictures are.
        rows: (n,) rows of the source that are trained on.
        decoding: from a picture to the backbone's input.
        augmentation: what is drawn for each picture.
        batch_size: B, pictures a process.
        seed: of the training, 0 or more.
        epoch: which.
        start: the first batch; those before it cost nothing.
        rank: r, from 0.
        world: W.
        workers: decoding threads.
        weights: (n,) of `epoch_order`.
        drop_last: leave out a last batch of fewer than W x B pictures.

    Yields:
        Batches in order.
    """
    order = epoch_order(len(rows), seed=seed, epoch=epoch, weights=weights)
    size = batch_size * world
    numbers = range(start, n_batches(len(rows), batch_size, world=world, drop_last=drop_last))
    places = (np.arange(number * size, min((number + 1) * size, len(order))) for number in numbers)

    def decode_view(place: int, row: int, out: NDArray[np.uint8]) -> None:
        # By place and not by row: with weights a picture comes again in an epoch, and should look different.
        rng = np.random.default_rng([Stream.VIEW, seed, epoch, place])
        load_augmented(
            source.read(row),
            decoding.preprocess,
            augmentation,
            rng,
            decoder=decoding.decoder,
            max_pixels=decoding.max_pixels,
            out=out,
        )

    blocks = (
        _Block(number, own[rank::world], rows[order[own[rank::world]]])
        for number, own in zip(numbers, places, strict=True)
    )
    yield from _batches(blocks, decode_view, crop=decoding.preprocess.crop, workers=workers)


def eval_batches(
    source: Source, rows: NDArray[np.int64], *, decoding: Decoding, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Batches of the given rows in their order, with the pixels that extraction takes.

    Args:
        source: where the pictures are.
        rows: (n,) rows of the source.
        decoding: from a picture to the backbone's input.
        batch_size: B.
        workers: decoding threads.

    Yields:
        Batches in order.
    """
    starts = range(0, len(rows), batch_size)
    places = (np.arange(start, min(start + batch_size, len(rows))) for start in starts)
    blocks = (_Block(number, own, rows[own]) for number, own in enumerate(places))

    def decode_plain(_: int, row: int, out: NDArray[np.uint8]) -> None:
        data = source.read(row)
        load(data, decoding.preprocess, decoder=decoding.decoder, max_pixels=decoding.max_pixels, out=out)

    yield from _batches(blocks, decode_plain, crop=decoding.preprocess.crop, workers=workers)


class PixelStore:
    """Evaluation batches that are decoded once and then given out of memory, as many of them as fit.

    The first pass keeps batches until the next would exceed the budget; later passes decode only what comes after those.
    A pass that is given up keeps what it has seen.

    Args:
        source: where the pictures are.
        rows: (n,) rows of the source.
        decoding: as in `eval_batches`.
        batch_size: B.
        workers: decoding threads.
        max_bytes: of pixels that are kept; 0 keeps none.
    """

    def __init__(
        self,
        source: Source,
        rows: NDArray[np.int64],
        *,
        decoding: Decoding,
        batch_size: int,
        workers: int,
        max_bytes: int,
    ) -> None:
        self._rows, self._batch_size, self._room = rows, batch_size, max_bytes
        self._decode = functools.partial(
            eval_batches, source, decoding=decoding, batch_size=batch_size, workers=workers
        )
        self._kept: list[Batch] = []

    @property
    def n_kept(self) -> int:
        """How many pictures are in memory."""
        return sum(len(batch.rows) for batch in self._kept)

    def batches(self) -> Iterator[Batch]:
        """All batches in order, one pass at a time; their pixels must not be changed.

        Yields:
            What `eval_batches` yields.
        """
        kept = tuple(self._kept)
        yield from kept
        for batch in self._decode(self._rows[len(kept) * self._batch_size :]):
            batch = replace(batch, number=batch.number + len(kept))
            # None is kept after one that was turned away: the gap could not be told later.
            if batch.number == len(self._kept) and batch.pixels.nbytes <= self._room:
                self._room -= batch.pixels.nbytes
                self._kept.append(batch)
            yield batch


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """What one process decodes for a batch: places in the epoch's order and the rows that are there."""

    number: int
    places: NDArray[np.int64]
    rows: NDArray[np.int64]


def _batches(blocks: Iterable[_Block], decode_one: _Decode, *, crop: tuple[int, int], workers: int) -> Iterator[Batch]:
    """Decode blocks, a picture a task; threads are held up by batches that nobody takes, so memory is flat."""
    import torch

    def reason_of(place: int, row: int, out: NDArray[np.uint8]) -> str | None:
        try:
            decode_one(place, row, out)
        except ImageError as error:
            return str(error)
        return None

    pinned = torch.cuda.is_available()
    begun: deque[tuple[_Block, torch.Tensor, list[Future[str | None]]]] = deque()
    with torch_threads_kept(), ThreadPoolExecutor(workers, "tle-decode", initializer=one_torch_thread) as pool:
        try:
            for block in blocks:
                pixels = torch.empty((len(block.rows), *crop, 3), dtype=torch.uint8, pin_memory=pinned)
                tasks = zip(block.places.tolist(), block.rows.tolist(), pixels.numpy(), strict=True)
                begun.append((block, pixels, [pool.submit(reason_of, *task) for task in tasks]))
                if len(begun) > _AHEAD:
                    yield _collect(*begun.popleft())
            while begun:
                yield _collect(*begun.popleft())
        finally:
            for _, _, futures in begun:
                for future in futures:
                    future.cancel()


def _collect(block: _Block, pixels: "torch.Tensor", futures: "list[Future[str | None]]") -> Batch:
    """Wait for a block's pictures and close the gaps that bad ones leave."""
    reasons = [future.result() for future in futures]
    good = np.array([reason is None for reason in reasons], bool)
    failures = {row: why for row, why in zip(block.rows.tolist(), reasons, strict=True) if why is not None}
    n_good = int(good.sum())
    if failures:
        pixels.numpy()[:n_good] = pixels.numpy()[good]
    return Batch(block.number, pixels[:n_good], block.rows[good], failures)
