"""The HDF5 feature cache: one writer, many readers. `tle.cache.layout` describes the file."""

from tle.cache.layout import FORMAT, fingerprint
from tle.cache.reader import Cache, open_cache

__all__ = ["FORMAT", "Cache", "fingerprint", "open_cache"]
