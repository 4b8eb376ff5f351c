"""The pipeline for a GPU: decoding threads -> pinned ring -> copy stream -> graph -> asynchronous copy back.

    threads    decode into a slot's pinned pixels                       uint8   (B, H, W, 3), host
    copying    slot.pixels -> slot.on_device, on a stream of its own    uint8   (B, H, W, 3), device
    computing  waits for that copy's event, runs the graph              float32 (B, D), device
               slot.features <- the result, on the same stream          float32 (B, D), pinned host

While one batch computes, the next is copied and those after it are decoded. A slot goes back to the threads when its
features have arrived, so `_SLOTS` bounds memory, pinned and on the device. With the decoder of the GPU, threads only read
files, and `tle.gpu_decode` fills `slot.on_device` on the computing stream.

Written for CUDA and run there by tests marked `gpu`; its speed has not been measured. Where torch has no CUDA the same
code runs with `_Inline` in place of streams, which is how its order is tested.

# B batch, G good pictures of a batch, H W height and width, D feature dim
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tle.images import GPU_DECODER
from tle.pipeline import Batch, Decoding, collect, decode, fetch
from tle.sources import Source
from tle.threads import one_torch_thread, torch_threads_kept

if TYPE_CHECKING:
    import torch

    from tle.runtimes.runtime import GpuRuntime, Runtime

# Batches that are being decoded, and batches on the GPU: one computes, the next is copied meanwhile.
_DECODING, _ON_GPU = 3, 2
_SLOTS = _DECODING + _ON_GPU - 1


class _Inline:
    """Stream and event of a device that does everything at once."""

    def wait_event(self, event: "_Inline") -> None:
        """Nothing to wait for."""

    def record(self, stream: "_Inline") -> None:
        """Nothing to note."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


@dataclass(frozen=True, slots=True)
class _Device:
    """The streams of a device."""

    kind: str
    copying: Any
    computing: Any

    def event(self) -> Any:
        import torch

        return torch.cuda.Event() if self.kind == "cuda" else _Inline()  # type: ignore[no-untyped-call]

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """What is asked of torch inside goes to `stream`."""
        import torch

        return torch.cuda.stream(stream) if self.kind == "cuda" else nullcontext()


def _open_device(kind: str) -> _Device:
    import torch

    if kind == "cuda":
        return _Device(kind, torch.cuda.Stream(), torch.cuda.Stream())  # type: ignore[no-untyped-call]
    return _Device(kind, _Inline(), _Inline())


@dataclass(slots=True)
class _Slot:
    """Buffers of one batch on its way; pinned on the host, so that copies are asynchronous."""

    pixels: "torch.Tensor"
    on_device: "torch.Tensor"
    features: "torch.Tensor"
    arrived: Any
    rows: Sequence[int] = ()
    reading: "list[Future[tuple[bytes | None, int, str | None]]]" = field(default_factory=list)
    decoding: "list[Future[tuple[int, str | None]]]" = field(default_factory=list)
    outcomes: list[tuple[int, str | None]] = field(default_factory=list)
    n_good: int = 0

    def cancel(self) -> None:
        """Drop what the threads have not begun."""
        futures: list[Future[Any]] = [*self.reading, *self.decoding]
        for future in futures:
            future.cancel()


def run_gpu(
    source: Source,
    runtime: "Runtime",
    decoding: Decoding,
    blocks: Iterator[Sequence[int]],
    *,
    batch_size: int,
    dim: int,
    workers: int,
) -> Iterator[Batch]:
    """Features of all blocks of rows, in order.

    Args:
        source: where the pictures are.
        runtime: a runtime that takes tensors on its device.
        decoding: how pictures become pixels.
        blocks: rows of each batch, at most `batch_size` of them.
        batch_size: B.
        dim: feature dimension D.
        workers: decoding threads.

    Yields:
        A batch a block.
    """
    gpu = cast("GpuRuntime", runtime)
    device = _open_device(gpu.device)
    free = deque(_slot(device, max(batch_size, gpu.batch or 0), dim, decoding) for _ in range(_SLOTS))
    if device.kind == "cuda":
        import torch

        torch.cuda.synchronize()  # the slots were cleared on the default stream
    being_decoded: deque[_Slot] = deque()
    on_gpu: deque[_Slot] = deque()

    def take() -> Batch:
        """Wait for the oldest batch on the GPU and give its slot back."""
        slot = on_gpu.popleft()
        slot.arrived.synchronize()
        batch = collect(slot.rows, slot.outcomes, slot.features[: slot.n_good].numpy().copy())
        free.append(slot)
        return batch

    with torch_threads_kept(), ThreadPoolExecutor(workers, "tle-decode", initializer=one_torch_thread) as pool:
        try:
            for rows in blocks:
                if len(being_decoded) == _DECODING:
                    on_gpu.append(_enqueue(being_decoded.popleft(), gpu, device, decoding))
                    if len(on_gpu) == _ON_GPU:
                        yield take()
                being_decoded.append(_begin(free.popleft(), pool, source, rows, decoding))
            while being_decoded:
                on_gpu.append(_enqueue(being_decoded.popleft(), gpu, device, decoding))
                if len(on_gpu) == _ON_GPU:
                    yield take()
            while on_gpu:
                yield take()
        finally:
            for slot in being_decoded:
                slot.cancel()
            for slot in on_gpu:  # nothing may still write into buffers that go away now
                slot.arrived.synchronize()


def _slot(device: _Device, batch_size: int, dim: int, decoding: Decoding) -> _Slot:
    import torch

    shape, pinned = (batch_size, *decoding.preprocess.crop, 3), device.kind == "cuda"
    return _Slot(
        pixels=torch.zeros(shape, dtype=torch.uint8, pin_memory=pinned),
        on_device=torch.zeros(shape, dtype=torch.uint8, device=device.kind),
        features=torch.zeros(batch_size, dim, pin_memory=pinned),
        arrived=device.event(),
    )


def _begin(slot: _Slot, pool: ThreadPoolExecutor, source: Source, rows: Sequence[int], decoding: Decoding) -> _Slot:
    """Have the threads decode `rows` into the slot, a picture a task; or only read them, for the GPU's decoder."""
    slot.rows = rows
    if decoding.decoder == GPU_DECODER:
        slot.reading = [pool.submit(fetch, source, row) for row in rows]
        return slot
    pixels = slot.pixels.numpy()[: len(rows)]
    slot.decoding = [pool.submit(decode, source, row, decoding, out) for row, out in zip(rows, pixels, strict=True)]
    return slot


def _enqueue(slot: _Slot, gpu: "GpuRuntime", device: _Device, decoding: Decoding) -> _Slot:
    """Wait for the slot's pictures, then give the GPU its copy, its graph and the copy back, waiting for none of them."""
    by_gpu = decoding.decoder == GPU_DECODER
    if by_gpu:
        with device.on(device.computing):
            slot.outcomes = _decode_on_gpu(slot, decoding)
    else:
        slot.outcomes = [future.result() for future in slot.decoding]
    good = np.array([reason is None for _, reason in slot.outcomes])
    slot.n_good = n_good = int(good.sum())
    if not n_good:
        slot.arrived.record(device.computing)
        return slot
    if not good.all():  # close the gaps, so that a fixed batch needs padding at its end alone
        buffer = slot.on_device if by_gpu else slot.pixels
        with device.on(device.computing):
            buffer[:n_good] = buffer[: len(good)][np.flatnonzero(good)].clone()
    n = n_good if gpu.batch is None else gpu.batch
    copied = device.event()
    if not by_gpu:
        with device.on(device.copying):
            slot.on_device[:n_good].copy_(slot.pixels[:n_good], non_blocking=True)
            copied.record(device.copying)
    with device.on(device.computing):
        if not by_gpu:
            device.computing.wait_event(copied)
        features = gpu.enqueue(slot.on_device[:n])
        slot.features[:n_good].copy_(features[:n_good], non_blocking=True)
        slot.arrived.record(device.computing)
    return slot


def _decode_on_gpu(slot: _Slot, decoding: Decoding) -> list[tuple[int, str | None]]:
    """Decode what the threads have read into the slot's batch on the GPU."""
    from tle.gpu_decode import decode_on_gpu

    read = [future.result() for future in slot.reading]
    reasons = decode_on_gpu(
        [data for data, _, _ in read], slot.on_device, decoding.preprocess, max_pixels=decoding.max_pixels
    )
    return [(digest, unread or reason) for (_, digest, unread), reason in zip(read, reasons, strict=True)]
