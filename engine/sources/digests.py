"""Digests of pictures: what tells for certain that a picture is the one that it was."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import xxhash

from tle.cores import usable_cores
from tle.errors import ImageError
from tle.sources.source import Source


def digests_of(source: Source, rows: Sequence[int]) -> Iterator[int]:
    """xxh3-64 of the bytes of some pictures, in order, read by all cores; 0 where they cannot be read."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(partial(_digest, source), rows)


def _digest(source: Source, row: int) -> int:
    try:
        return xxhash.xxh3_64_intdigest(source.read(row))
    except ImageError:
        return 0
