"""Sizes on the command line: `224`, `224x192`, and `none` where it means something."""

from typing import Literal, overload

from tle.errors import UsageError


@overload
def parse_size(flag: str, text: str | None) -> int | tuple[int, int] | None: ...
@overload
def parse_size(
    flag: str, text: str | None, *, none: Literal[True]
) -> int | tuple[int, int] | Literal["none"] | None: ...
def parse_size(flag: str, text: str | None, *, none: bool = False) -> int | tuple[int, int] | Literal["none"] | None:
    """Read a size.

    Args:
        flag: the flag it came with, for the message.
        text: pixels, HEIGHTxWIDTH, or None where the flag was not given.
        none: whether `none` may be given as well.

    Returns:
        Pixels, (height, width), "none", or None where the flag was not given.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    if none and text == "none":
        return "none"
    parts = text.lower().split("x")
    if len(parts) in (1, 2) and all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
    raise UsageError(f"{flag} takes pixels (224) or HEIGHTxWIDTH (224x192){', or none' if none else ''}, got {text!r}")
