"""Numbers as a report writes them, the same everywhere."""

from collections.abc import Sequence
from typing import Any

NONE = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"  # a sign alone at the start of a line is not read


def percent(value: float | None, digits: int = 1) -> str:
    """A share: `98.4 %`."""
    return NONE if value is None else f"{100 * value:.{digits}f}{_SPACE}%"


def decimal(value: float | None, digits: int = 4) -> str:
    """A figure: `0.0521`."""
    return NONE if value is None else f"{value:.{digits}f}"


def brief(value: float | None) -> str:
    """A number of any size in about four digits: `1,234`, `0.0312`, `3.2e-05`."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def rate(value: float) -> str:
    """Images a second."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def percent_range(interval: Sequence[float] | None) -> str:
    """An interval of shares: `97.1 to 99.2 %`."""
    return NONE if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}{_SPACE}%"


def plain(value: Any) -> str:
    """A value of a record as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or NONE
    return NONE if value is None else str(value)


def clip(text: str, length: int) -> str:
    """A text of at most `length` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
