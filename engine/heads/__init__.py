"""Heads: features of a cache in, a fitted classifier or regressor out. Nothing here knows pictures.

`tle.heads.fit` fits and saves, `tle.heads.head` is what comes out; each kind of head has its own module.
"""
