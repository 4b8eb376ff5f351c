"""Every error that tle raises on purpose.

A message is one line and says what was expected, what came, and what to do. The command line prints it as it is
and leaves with `exit_code`; a library caller can catch `TleError`, or the builtin that each class also is.
"""


class TleError(Exception):
    """Base of all errors raised on purpose; `exit_code` is the process status that the command line returns."""

    exit_code = 1


class UsageError(TleError, ValueError):
    """An argument that cannot be used: an unknown name, a bad range, options that exclude each other."""

    exit_code = 2


class SourceError(TleError, ValueError):
    """A folder or manifest that cannot serve as a source of images."""


class ImageError(TleError, ValueError):
    """One bad picture; the message is the reason that is recorded beside its id."""


class AllImagesFailedError(TleError):
    """Not one picture of a run could be read."""

    exit_code = 3


class BackboneError(TleError, ValueError):
    """A backbone, layer or checkpoint that cannot be loaded or does not fit."""


class ShapeError(TleError, ValueError):
    """An array whose shape or dtype is not what the operation takes."""


class RuntimeChoiceError(TleError, ValueError):
    """A runtime that cannot execute this backbone on this machine."""


class CacheError(TleError, ValueError):
    """A cache file that cannot be created, read or trusted."""


class FingerprintError(CacheError):
    """Features of one backbone meeting a cache or head of another."""


class HeadError(TleError, ValueError):
    """A head that cannot be fitted, saved, loaded or applied."""


class OutputError(TleError, OSError):
    """An output path that cannot be written."""


class MissingPackageError(TleError, ImportError):
    """An optional package that is not installed; the message names the package."""


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class where it has none, for use in a message."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__
