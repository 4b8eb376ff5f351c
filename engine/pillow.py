"""Pillow's process-wide state, kept out of the way of decoding threads.

Two settings of Pillow and Python are global, and a decoding thread needs them otherwise than the program around it:

- **Warnings.** Pillow warns of damaged metadata and of formats that it will drop, one message a picture: a flood on a
  terminal, and an error under `-W error`. `warnings.catch_warnings` swaps global state and is not safe in threads.
  Instead one filter, added once, asks at the moment of each warning whether the *current thread* is decoding; the
  warnings of all others pass.
- **`Image.MAX_IMAGE_PIXELS`.** The caller of tle says how many pixels are too many. As long as that is at most twice
  Pillow's limit (where Pillow refuses; the default is just that), nothing is touched. Only for more is the limit
  raised, while such a picture is being decoded, and put back after the last.

`ImageFile.LOAD_TRUNCATED_IMAGES` is never touched: a program that sets it gets truncated pictures as Pillow fills them.
"""

import functools
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


class _Thread(threading.local):
    """Whether this thread is inside of `decoding`."""

    decoding = False


_thread = _Thread()
_lock = threading.Lock()


class _RaisedLimit:
    """How many decodes need more than Pillow allows, and what to put back after the last of them."""

    users = 0
    before: int | None = None
    raised = 0


class _OnlyWhileDecoding(type):
    """Decides membership by thread; the warnings machinery asks `issubclass(category, filter's category)`."""

    def __subclasscheck__(cls, category: type) -> bool:
        return _thread.decoding and issubclass(category, Warning)


class _PictureWarning(Warning, metaclass=_OnlyWhileDecoding):
    """Stands for the warnings that Pillow gives in a thread that is decoding."""


@functools.cache
def load_plugins() -> None:
    """Register all of Pillow's formats, the common ones first.

    `Image.open` does so step by step when the first formats do not fit. Two threads in there at once can make one of
    them skip the second step, so that a good picture is "not identified".
    """
    Image.preinit()
    Image.init()


@contextmanager
def decoding(max_pixels: int) -> Iterator[None]:
    """Let the current thread decode with Pillow: without warnings, up to `max_pixels` pixels.

    Args:
        max_pixels: Pillow's own limit does not refuse pictures of up to this many pixels.

    Yields:
        Nothing.
    """
    _put_filter_first()
    raised = _raise_limit(max_pixels)
    _thread.decoding = True
    try:
        yield
    finally:
        _thread.decoding = False
        if raised:
            _lower_limit()


def _put_filter_first() -> None:
    """Add our filter where it is not the first one: at first use, and after `catch_warnings` took it away."""
    # Most calls end here. An unconditional insert would make Python forget which warnings it has already shown.
    if warnings.filters and warnings.filters[0][2] is _PictureWarning:
        return
    with _lock:
        warnings.simplefilter("ignore", _PictureWarning)


def _raise_limit(max_pixels: int) -> bool:
    """Count the caller in if it needs a raised limit; True if it must call `_lower_limit` later."""
    with _lock:
        allowed = _RaisedLimit.before if _RaisedLimit.users else Image.MAX_IMAGE_PIXELS
        if allowed is None or max_pixels <= 2 * allowed:
            return False
        if not _RaisedLimit.users:
            _RaisedLimit.before = allowed
            _RaisedLimit.raised = 0
        _RaisedLimit.users += 1
        _RaisedLimit.raised = max(_RaisedLimit.raised, -(-max_pixels // 2))
        Image.MAX_IMAGE_PIXELS = _RaisedLimit.raised
        return True


def _lower_limit() -> None:
    """Count the caller out; the last one puts the limit back, unless someone else has set it meanwhile."""
    with _lock:
        _RaisedLimit.users -= 1
        if not _RaisedLimit.users and _RaisedLimit.raised == Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = _RaisedLimit.before
