"""Small caches of every kind, and ways to damage them; what `tle.benchmarks.fuzz_cache` and tests are made of.

# N images, C classes
"""

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tle.cache.hdf5 import Container
from tle.cache.layout import Content
from tle.cache.lookup3 import lookup3
from tle.cache.merging import merge
from tle.cache.writer import CacheWriter
from tle.enums import Target

_SUPERBLOCK_BYTES = 44
_NUMBERS = (
    0,
    1,
    2,
    7,
    64,
    127,
    128,
    255,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 40,
    1 << 60,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
SPEC: dict[str, Any] = {
    "backbone": {"name": "x/y", "weights": "DEFAULT", "weights_digest": "ab", "layer": "l", "pool": "none", "dim": 5},
    "preprocess": {"resize": 256, "crop": [224, 224], "mean": [0.5, 0.5, 0.5]},
    "decoder": "pillow",
    "precision": "float32",
}
RUN: dict[str, Any] = {
    "runtime": "torch",
    "plan": {"runtime": "torch", "device": "cpu"},
    "parity": {"min_cosine": 0.999999},
    "batch_size": 4,
    "earlier": [],
    "max_pixels": 1000,
}


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of metadata with a checksum.

    Attributes:
        start: of its first byte.
        length: of what the checksum is over.
        seal: where the checksum is; inside the block it counts as 0.
    """

    start: int
    length: int
    seal: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A good cache, to be damaged.

    Attributes:
        data: the file.
        blocks: its metadata.
    """

    data: bytes
    blocks: tuple[Block, ...]


class _Watched(Container):
    """Remembers which blocks were compared with their checksums."""

    def __init__(self, path: Path, fd: int) -> None:
        self.blocks = {Block(0, _SUPERBLOCK_BYTES, _SUPERBLOCK_BYTES)}
        super().__init__(path, fd)

    def _block(self, address: int, length: int, signature: bytes = b"", *, seal_at: int | None = None) -> bytes:
        seal = length - 4 if seal_at is None else seal_at
        self.blocks.add(Block(address, seal if seal_at is None else length, address + seal))
        return super()._block(address, length, signature, seal_at=seal_at)


def sample(path: Path) -> Sample:
    """A file that is a sound cache, and where its metadata lies."""
    with path.open("rb") as file:
        watched = _Watched(path, file.fileno())
        watched.attributes()
        for name in watched.links:
            watched.dataset(name)
        return Sample(file.read(), tuple(sorted(watched.blocks, key=lambda block: block.start)))


def write_cache(path: Path, n: int = 4, *, failed: Sequence[int] = (), seed: int = 0, **changes: Any) -> Path:
    """A small cache of 5 features, whose ids begin with its name."""
    options: dict[str, Any] = {
        "ids": tuple(f"{path.stem}/{row}.jpg" for row in range(n)),
        "labels": np.arange(n) // 4 % 2,
        "classes": ("cat", "dog"),
        "splits": (np.arange(n) % 4).astype(np.uint8),
        "target": Target.CLASS,
        "dim": 5,
        "dtype": "float32",
        "spec": SPEC,
        "run": RUN,
    }
    rng = np.random.default_rng(seed)
    good = np.setdiff1d(np.arange(n), failed)
    with CacheWriter.create(path, Content(**(options | changes))) as writer:
        for row in failed:
            writer.fail(row, f"truncated: {row}", row)
        writer.write(good, rng.normal(size=(len(good), 5)).astype(np.float32), good.astype(np.uint64))
        writer.finish(replace=True)
    return path


def write_samples(folder: Path) -> list[Sample]:
    """One of every kind, in a folder where those that a merged one points to stay."""
    labels_NC = np.resize(np.array([[1, 0], [1, 1], [255, 255]], np.uint8), (40, 2))
    paths = [
        write_cache(folder / "plain.h5", 40),
        write_cache(folder / "failures.h5", 3000, failed=range(2500)),
        write_cache(folder / "long.h5", 8, run=RUN | {"notes": "x" * 100_000}),
        write_cache(folder / "several.h5", 40, target=Target.MULTILABEL, labels=labels_NC, dtype="float16"),
        write_cache(
            folder / "numbers.h5", 40, target=Target.REGRESSION, labels=np.arange(40, dtype=np.float32), classes=()
        ),
        write_cache(folder / "empty.h5", 0),
    ]
    merged = folder / "merged.h5"
    merge([paths[0], write_cache(folder / "other.h5", 40, failed=(3,))], merged)
    return [sample(path) for path in [*paths, merged]]


def reseal(data: bytearray, blocks: Sequence[Block]) -> None:
    """Make the checksums of some blocks right again; those that are not inside the file any more stay."""
    for block in blocks:
        end = max(block.start + block.length, block.seal + 4)
        if end <= len(data):
            if block.seal < block.start + block.length:
                data[block.seal : block.seal + 4] = bytes(4)
            seal = lookup3(bytes(data[block.start : block.start + block.length]))
            data[block.seal : block.seal + 4] = struct.pack("<I", seal)


def _flip(data: bytearray, _good: Sample, rng: random.Random) -> None:
    """A byte anywhere."""
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)


def _flip_metadata(data: bytearray, good: Sample, rng: random.Random) -> None:
    """Some bytes of metadata, whose checksums find it."""
    for _ in range(rng.choice((1, 1, 2, 8))):
        block = rng.choice(good.blocks)
        data[block.start + rng.randrange(block.length)] ^= rng.randrange(1, 256)


def _forge(data: bytearray, good: Sample, rng: random.Random) -> None:
    """Some numbers of metadata, with the checksums made right."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        block = rng.choice(good.blocks)
        used = [at for at in range(block.start, block.start + block.length) if data[at]] or [block.start]
        at, width = rng.choice(used), rng.choice((1, 1, 1, 2, 4, 8))
        addresses = [block.start for block in good.blocks]
        value = rng.choice((rng.choice(_NUMBERS), rng.choice(addresses), rng.getrandbits(64), 1 << rng.randrange(64)))
        width = min(width, len(data) - at)
        data[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    reseal(data, good.blocks)


def _corrupt(data: bytearray, _good: Sample, rng: random.Random) -> None:
    """A run of random bytes, or of one byte."""
    start, length = rng.randrange(len(data)), rng.randrange(1, 4096)
    length = min(length, len(data) - start)
    data[start : start + length] = rng.randbytes(length) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * length


def _truncate(data: bytearray, good: Sample, rng: random.Random) -> None:
    """An end anywhere, or near the end of a block."""
    block = rng.choice(good.blocks)
    near = block.start + block.length + rng.randrange(-8, 9)
    del data[max(0, rng.choice((near, block.start, rng.randrange(len(data))))) :]


def _insert(data: bytearray, _good: Sample, rng: random.Random) -> None:
    """Bytes too many, somewhere."""
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 8, 64, 512)))


MUTATIONS: dict[str, Callable[[bytearray, Sample, random.Random], None]] = {
    "flip": _flip,
    "metadata": _flip_metadata,
    "forge": _forge,
    "corrupt": _corrupt,
    "truncate": _truncate,
    "insert": _insert,
}


def mutate(good: Sample, kind: str, rng: random.Random) -> bytes:
    """A damaged copy of a cache; `kind` is one of `MUTATIONS`."""
    data = bytearray(good.data)
    MUTATIONS[kind](data, good, rng)
    return bytes(data)
