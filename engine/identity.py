"""What makes two sets of features the same, and whether an existing cache already is what is asked for."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from tle.cache import Cache, fingerprint, open_cache
from tle.cores import usable_cores
from tle.errors import FingerprintError, ImageError, OutputError
from tle.execution import AUTO, Execution
from tle.images import EXACT_DECODER
from tle.progress import track
from tle.sources import Source

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone


def feature_spec(backbone: "Backbone", *, decoder: str, precision: str) -> dict[str, Any]:
    """What defines the features of `backbone`: the JSON-able object behind a cache's fingerprint.

    Args:
        backbone: network, weights, layer, pooling and preprocessing.
        decoder: identity of the decoder.
        precision: what the features were computed in. It is recorded and no part of the fingerprint: features that passed
            the same comparison with float32 may meet, and `tle evaluate` says so where they do.
    """
    return {
        "backbone": backbone.spec(),
        "preprocess": backbone.preprocess.to_dict(),
        "decoder": decoder,
        "precision": precision,
    }


def spec_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """What two specs differ in, as `key: a instead of b`, for an error message."""
    differing = []
    for section in ("backbone", "preprocess"):
        a, b = ours.get(section, {}), theirs.get(section, {})
        differing += [
            f"{key}: {a.get(key)} instead of {b.get(key)}" for key in sorted({*a, *b}) if a.get(key) != b.get(key)
        ]
    for key in ("decoder", "precision"):
        if ours.get(key) != theirs.get(key):
            differing.append(f"{key}: {ours.get(key)} instead of {theirs.get(key)}")
    return "; ".join(differing)


def complete_cache(
    path: Path, backbone: "Backbone", dtype: str, source: Source, execution: Execution, *, progress: bool
) -> Cache:
    """The finished cache at `path`, if it holds just what is asked for; one that does not is never touched.

    The pictures are read and hashed again, but neither decoded nor run through the backbone.

    Args:
        path: an existing cache.
        backbone: what makes the features now asked for.
        dtype: storage type now asked for.
        source: the pictures now asked for.
        execution: precision, decoder and limits now asked for; what it leaves open may be as it is.
        progress: show progress on standard error.

    Returns:
        The cache.

    Raises:
        FingerprintError: its features are of another kind; the message says what differs.
        OutputError: it holds other pictures, labels or splits, or pictures that changed since.
    """
    cache = open_cache(path)
    max_pixels = execution.max_pixels
    precision = str(cache.spec.get("precision")) if execution.precision == AUTO else execution.precision
    spec = feature_spec(backbone, decoder=_decoder(cache, execution), precision=precision)
    if (
        cache.fingerprint != fingerprint(spec)
        or cache.features.dtype != dtype
        or cache.spec.get("precision") != precision
    ):
        what = spec_difference(spec, cache.spec) or f"dtype: {dtype} instead of {cache.features.dtype}"
        raise FingerprintError(
            f"{path} holds features of another kind ({what}); name another output, or pass --overwrite to replace it"
        )
    near = (cache.run.get("parity") or {}).get("min_cosine", 1.0)
    if near < execution.min_cosine:
        raise FingerprintError(
            f"{path} holds {cache.spec.get('precision')} features with a least cosine of {near:.6f} to float32, below "
            f"--min-cosine {execution.min_cosine:g}; name another output, or pass --overwrite to replace it"
        )
    same_labels = cache.target == source.target and cache.classes == source.classes
    if cache.ids != source.ids or not same_labels or not _equal(cache.labels, source.labels):
        raise OutputError(
            f"{path} holds other pictures or labels ({len(cache):,} rows, the source has {len(source):,}); name another "
            "output, or pass --overwrite to replace it"
        )
    if not _equal(cache.splits, source.splits):
        raise OutputError(f"{path} holds other splits; name another output, or pass --overwrite to replace it")
    if cache.failures and cache.run.get("max_pixels") != max_pixels:
        raise OutputError(
            f"{len(cache.failures):,} pictures of {path} failed under --max-pixels {cache.run.get('max_pixels')}, now it is "
            f"{max_pixels}; pass --overwrite to extract again"
        )
    digests = np.zeros(len(source), np.uint64)
    with (
        ThreadPoolExecutor(usable_cores()) as pool,
        track(len(source), f"comparing pictures with {path.name}", shown=progress) as counter,
    ):
        for row, digest in enumerate(pool.map(partial(_digest, source), range(len(source)))):
            digests[row] = digest
            counter.advance(1)
    if changed := int((digests != cache.digests).sum()):
        first = source.ids[int(np.argmax(digests != cache.digests))]
        raise OutputError(
            f"{changed:,} pictures changed since {path} was written, {first} the first; pass --overwrite to extract again"
        )
    return cache


def _decoder(cache: Cache, execution: Execution) -> str:
    """The decoder that a cache has to have been made with; where nobody insists, the exact one is as good as any."""
    return EXACT_DECODER if cache.spec.get("decoder") == EXACT_DECODER else execution.decoder


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def _digest(source: Source, row: int) -> int:
    """xxh3-64 of a picture's bytes, 0 where they cannot be read; what the cache stores."""
    try:
        return xxhash.xxh3_64_intdigest(source.read(row))
    except ImageError:
        return 0
