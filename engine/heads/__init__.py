"""Heads: features of a cache in, a fitted classifier or regressor out. Nothing here knows pictures.

`tle.heads.fit` fits and saves, `tle.heads.head` is what comes out; each kind of head has its own module.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tle.heads.logistic_path import LogisticPath

__all__ = ["LogisticPath"]


def __getattr__(name: str) -> object:
    if name != "LogisticPath":
        raise AttributeError(f"module 'tle.heads' has no attribute {name!r}")
    from tle.heads.logistic_path import LogisticPath  # loads scikit-learn, so only when it is asked for

    return LogisticPath
