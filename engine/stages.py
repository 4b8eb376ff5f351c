"""The stages of extraction, each measured alone with all threads on it: what `tle bench` is made of.

# n pictures, H W height and width, B batch, D feature dim, M side of a square matrix
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tle.cache.layout import Content
from tle.cache.writer import CacheWriter
from tle.errors import ImageError
from tle.images import GPU_DECODER, load
from tle.pipeline import Decoding, run
from tle.sources import Source
from tle.threads import one_torch_thread, torch_threads_kept
from tle.tuning.sample import decode_one

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone
    from tle.runtimes.plan import Plan
    from tle.runtimes.runtime import Runtime

# Passes of a stage, and the seconds that they take at least in all; the best pass counts: other programs only ever slow
# one down.
_PASSES = 3
_MEASURE_S = 1.0
# Pixels of decoded pictures that are kept for measuring, and bytes of files.
_KEPT_BYTES = 600_000_000
_KEPT_FILE_BYTES = 2_000_000_000
_PEAK_M = 2048
_WRITTEN_BYTES = 64_000_000
_GPU_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Rate of one stage.

    Attributes:
        name: read, decode, copy, model or write.
        images_per_s: with all threads on it.
        detail: what the rate means, for people.
    """

    name: str
    images_per_s: float
    detail: str


def good_pictures(source: Source, decoding: Decoding) -> tuple[list[bytes], NDArray[np.uint8]]:
    """Bytes of the pictures that can be decoded, and pixels of the first of them.

    Returns:
        The bytes of n pictures, and uint8 (m, H, W, 3), m <= n.
    """
    data: list[bytes] = []
    pixels: list[NDArray[np.uint8]] = []
    for row in range(len(source)):
        decoded = decode_one(source, row, decoding)
        if decoded is None:
            continue  # the run itself records why; here the rate of good ones is wanted
        if sum(map(len, data)) <= _KEPT_FILE_BYTES:
            data.append(source.read(row))
        if (len(pixels) + 1) * decoded.nbytes <= _KEPT_BYTES:
            pixels.append(decoded)
    shape = (0, *decoding.preprocess.crop, 3)
    return data, np.stack(pixels) if pixels else np.empty(shape, np.uint8)


def read_stage(source: Source, threads: int) -> Measured:
    """Reading files; what the page cache holds comes from memory, as it would in a second run."""

    def read(row: int) -> int:
        try:
            return len(source.read(row))
        except ImageError:
            return 0

    with _pool(threads) as pool:
        n_bytes = sum(pool.map(read, range(len(source))))
        seconds = _best_s(lambda: sum(pool.map(read, range(len(source)))))
    rate = len(source) / seconds
    return Measured(
        name="read", images_per_s=rate, detail=f"at {n_bytes / seconds / 1e6:,.0f} MB/s from files or page cache"
    )


def decode_stage(data: list[bytes], decoding: Decoding, threads: int) -> Measured:
    """Decoding, resizing and cropping bytes in memory."""
    if decoding.decoder == GPU_DECODER:
        return _gpu_decode_stage(data, decoding)
    parts = np.array_split(np.arange(len(data)), threads)

    def work(rows: NDArray[np.int64]) -> None:
        out = np.empty((*decoding.preprocess.crop, 3), np.uint8)
        for row in rows:
            _load(data[row], decoding, out)

    with _pool(threads) as pool:
        seconds = _best_s(lambda: list(pool.map(work, parts)))
    rate = len(data) / seconds
    return Measured(name="decode", images_per_s=rate, detail=f"in {1e3 * threads / rate:.2f} ms a picture and core")


def _gpu_decode_stage(data: list[bytes], decoding: Decoding) -> Measured:
    """Decoding on the GPU, some pictures at a time."""
    import torch

    from tle.gpu_decode import decode_on_gpu

    batches = [data[start : start + _GPU_BATCH] for start in range(0, len(data), _GPU_BATCH)]
    out = torch.empty((_GPU_BATCH, *decoding.preprocess.crop, 3), dtype=torch.uint8, device="cuda")

    def work() -> None:
        for batch in batches:
            decode_on_gpu(batch, out, decoding.preprocess, max_pixels=decoding.max_pixels)
        torch.cuda.synchronize()

    rate = len(data) / _best_s(work)
    return Measured(name="decode", images_per_s=rate, detail=f"in {1e3 / rate:.2f} ms a picture on the GPU")


def copy_stage(pixels: NDArray[np.uint8]) -> Measured:
    """Copying pinned pixels to the GPU."""
    import torch

    host = torch.from_numpy(pixels).pin_memory()

    def copy() -> None:
        host.to("cuda", non_blocking=True)
        torch.cuda.synchronize()

    copy()
    seconds = _best_s(copy)
    return Measured(
        name="copy",
        images_per_s=len(pixels) / seconds,
        detail=f"at {pixels.nbytes / seconds / 1e9:.1f} GB/s to the GPU",
    )


def model_stage(runtime: "Runtime", pixels: NDArray[np.uint8], plan: "Plan") -> Measured:
    """The backbone alone, all replicas busy."""
    from tle.tuning.trial import measure

    _, rate = measure(runtime, pixels, plan, at_least_s=3 * _MEASURE_S)
    where = "core" if plan.device == "cpu" else "GPU"
    return Measured(
        name="model", images_per_s=rate, detail=f"in {1e3 * plan.replicas / rate:.2f} ms a picture and {where}"
    )


def write_stage(dim: int) -> Measured:
    """Writing rows of float32 features into a file of the temporary folder, synced."""
    rows = np.zeros((max(1, min(_WRITTEN_BYTES // (4 * dim), 16384)), dim), np.float32)
    with tempfile.TemporaryFile() as file:

        def write() -> None:
            os.pwrite(file.fileno(), rows.data, 0)
            os.fsync(file.fileno())

        seconds = _best_s(write)
    return Measured(
        name="write", images_per_s=len(rows) / seconds, detail=f"at {rows.nbytes / seconds / 1e6:,.0f} MB/s, synced"
    )


def end_to_end_rate(
    source: Source, runtime: "Runtime", decoding: Decoding, plan: "Plan", dim: int, threads: int
) -> float:
    """Images/s of the whole pipeline into a cache in a temporary folder; the median of three runs."""
    seconds = []
    for _ in range(_PASSES):
        with tempfile.TemporaryDirectory(prefix="tle-bench-") as folder:
            started = time.perf_counter()
            content = Content(
                ids=source.ids,
                labels=source.labels,
                classes=source.classes,
                splits=source.splits,
                target=source.target,
                dim=dim,
                dtype="float32",
                spec={"backbone": {}},
                run={},
            )
            with CacheWriter.create(Path(folder) / "bench.h5", content) as writer:
                for batch in run(source, runtime, decoding, batch_size=plan.batch_size, dim=dim, workers=threads):
                    writer.add(batch)
                    writer.checkpoint()
                writer.finish(replace=True)
            seconds.append(time.perf_counter() - started)
    return len(source) / float(np.median(seconds))


def gmac_per_image(backbone: "Backbone") -> float | None:
    """Billions of multiply-adds of a torch backbone for one picture, as torch counts them; None for an ONNX file."""
    if backbone.module is None:
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        backbone.module(torch.zeros(1, 3, *backbone.preprocess.crop))
    return counter.get_total_flops() / 2e9


def peak_gmac_per_s(plan: "Plan") -> float | None:
    """Billions of multiply-adds a second of a large matrix product by torch, in the plan's precision on all its cores.

    What the silicon gives a well-tuned product; None for int8, for which torch has none to compare with.
    """
    if plan.precision == "int8":
        return None
    import torch

    from tle.runtimes.torch_device import precise

    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(plan.precision, torch.float32)
    a_MM = torch.rand(_PEAK_M, _PEAK_M, dtype=dtype, device=plan.device)

    def multiply(_: int) -> None:
        with torch.inference_mode(), precise(tf32=plan.precision == "tf32", device=plan.device):
            a_MM @ a_MM
        if plan.device == "cuda":
            torch.cuda.synchronize()

    with _pool(plan.replicas) as pool:
        list(pool.map(multiply, range(plan.replicas)))
        seconds = _best_s(lambda: list(pool.map(multiply, range(plan.replicas))))
    return plan.replicas * _PEAK_M**3 / seconds / 1e9


def _load(data: bytes, decoding: Decoding, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    return load(data, decoding.preprocess, decoder=decoding.decoder, max_pixels=decoding.max_pixels, out=out)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    with torch_threads_kept(), ThreadPoolExecutor(threads, "tle-bench", initializer=one_torch_thread) as pool:
        yield pool


def _best_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several passes."""
    passes: list[float] = []
    while len(passes) < _PASSES or sum(passes) < _MEASURE_S:
        started = time.perf_counter()
        work()
        passes.append(time.perf_counter() - started)
    return max(min(passes), 1e-9)
