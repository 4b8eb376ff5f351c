"""Is a cache what was once written? Every byte that means something is under a checksum.

# N images, k rows
"""

import numpy as np
from numpy.typing import NDArray

from tle.cache.checksums import row_checksums, row_views
from tle.cache.layout import clip_reason
from tle.cache.reader import Cache
from tle.enums import Status

_BLOCK_BYTES = 1 << 24


def damaged_rows(cache: Cache, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of `rows` whose checksum is wrong, ascending; pending ones have none.

    Args:
        cache: where they are.
        rows: (k,) int64.
    """
    bad = np.zeros(len(rows), np.bool_)
    done, failed = (cache.status[rows] == status for status in (Status.DONE, Status.FAILED))
    bad |= cache.status[rows] > max(Status)
    positions = np.flatnonzero(done)
    step = max(1, _BLOCK_BYTES // max(cache.dim * cache.features.dtype.itemsize, 1))
    for start in range(0, len(positions), step):
        block = positions[start : start + step]
        at = rows[block]
        together = bool((np.diff(at) == 1).all())
        features = cache.features[int(at[0]) : int(at[-1]) + 1] if together else cache.features[at]
        found = row_checksums(row_views(features), cache.digests[at], cache.files[at], Status.DONE)
        bad[block] = found != cache.checksums[at]
    reasons, positions = cache.reasons, np.flatnonzero(failed)
    at = rows[positions]
    contents = [clip_reason(reasons.get(row, "")) for row in at.tolist()]
    bad[positions] = row_checksums(contents, cache.digests[at], cache.files[at], Status.FAILED) != cache.checksums[at]
    return np.sort(rows[bad])
