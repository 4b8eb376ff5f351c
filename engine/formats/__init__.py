"""Caches as other file formats hold them, and such files as caches: see `tle.cache.conversion`."""
