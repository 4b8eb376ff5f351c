"""How the features of a merged cache were made."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tle.cache.reader import Cache

_NESTED = ("earlier", "merged", "parts")  # what is left out of the record of a part


def merged_run(caches: Sequence[Cache]) -> dict[str, Any]:
    """The run record of a merged cache: what is common to all runs once, and of each what is its own.

    Args:
        caches: what it is made of, one at least.

    Returns:
        A JSON-able record. Its `parity` is the worst of them, and its `max_pixels` that of the caches with failures: those
        are what a later extraction compares itself with.
    """
    runs = [{key: value for key, value in cache.run.items() if key not in _NESTED} for cache in caches]
    common = {key: value for key, value in runs[0].items() if all(run.get(key) == value for run in runs)}
    own = [{key: value for key, value in run.items() if key not in common} for run in runs]
    merged = [{"file": cache.path.name, "images": len(cache), **rest} for cache, rest in zip(caches, own, strict=True)]
    record = common | {"created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "merged": merged}
    record.setdefault("runtime", distinct(run.get("runtime") for run in runs))
    # The limit is said where failures were made under it; pictures that did not fail are the same under any.
    limits = distinct(run.get("max_pixels") for run, cache in zip(runs, caches, strict=True) if cache.failures)
    if len(limits) == 1:
        record["max_pixels"] = limits[0]
    parities = [run["parity"] for run in runs if _min_cosine(run) is not None]
    if parities:
        record["parity"] = min(parities, key=lambda parity: float(parity["min_cosine"]))
    return record


def distinct(values: Iterable[Any]) -> list[Any]:
    """JSON-able values without repetitions, in their order."""
    return list({json.dumps(value, sort_keys=True): value for value in values}.values())


def _min_cosine(run: Mapping[str, Any]) -> float | None:
    """The least cosine to float32 that a run recorded."""
    parity = run.get("parity")
    found = parity.get("min_cosine") if isinstance(parity, Mapping) else None
    return float(found) if isinstance(found, int | float) else None
