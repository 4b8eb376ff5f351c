"""Settings of a head, as `name=value` strings or Python values, checked where they are used."""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from tle.errors import UsageError
from tle.names import near_names

_SEED_MAX = 2**32 - 1  # the largest that scikit-learn takes


def parse_params(params: Mapping[str, Any] | Sequence[str] | None) -> dict[str, Any]:
    """Settings by name.

    Args:
        params: a mapping, or `name=value` strings. A string value is read as a Python literal where it is one (`1e-3`,
            `None`, `[1, 10]`), else it stays a string.

    Returns:
        Values by name.

    Raises:
        UsageError: a string without name or `=`, or the same name twice.
    """
    if params is None:
        return {}
    if isinstance(params, Mapping):
        return {name: _literal(value) if isinstance(value, str) else value for name, value in params.items()}
    parsed: dict[str, Any] = {}
    for text in params:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not (name and equals):
            raise UsageError(f"a parameter is written name=value, got {text!r}")
        if name in parsed:
            raise UsageError(f"parameter {name} is given twice; several values go into one list: {name}=[a,b]")
        parsed[name] = _literal(value)
    return parsed


def check_seed(seed: object) -> int:
    """A seed that numpy, torch and scikit-learn all take.

    Raises:
        UsageError: not a whole number from 0 to 2**32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) <= _SEED_MAX:
        raise UsageError(f"seed (--seed) should be a whole number from 0 to {_SEED_MAX}, got {seed!r}")
    return int(seed)


def refuse_unknown(head: str, given: Iterable[str], valid: Sequence[str]) -> None:
    """Raise a UsageError that names the valid parameters if one of `given` is not among them."""
    for name in given:
        if name not in valid:
            raise UsageError(
                f"head {head} has no parameter {name!r}{near_names(name, valid)} (it takes {', '.join(valid) or 'none'})"
            )


@dataclass(frozen=True, slots=True)
class Params:
    """Settings given for one head, read by type.

    Attributes:
        head: the head's name, for messages.
        values: what was given.
    """

    head: str
    values: Mapping[str, Any]

    def number(self, name: str, default: float, *, above: float = 0.0, inclusive: bool = False) -> float:
        """A finite number above a bound, or the default; `inclusive` admits the bound itself."""
        return self._number(name, self.values.get(name, default), above, inclusive)

    def integer(self, name: str, default: int) -> int:
        """A whole number of at least 1, or the default."""
        return self._integer(name, self.values.get(name, default))

    def numbers(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """A number above 0 or a list of them, ascending and without repeats, or the default."""
        return tuple(sorted({self._number(name, item, 0.0, False) for item in self._items(name, default)}))

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A whole number of at least 1 or a list of them, ascending and without repeats, or the default."""
        return tuple(sorted({self._integer(name, item) for item in self._items(name, default)}))

    def _items(self, name: str, default: tuple[Any, ...]) -> Sequence[Any]:
        value = self.values.get(name, default)
        items: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        if not items:
            raise UsageError(f"parameter {name} of head {self.head} is an empty list: give at least one value")
        return items

    def _number(self, name: str, value: Any, above: float, inclusive: bool) -> float:
        usable = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        if not usable or value < above or (value == above and not inclusive):
            bound = f"of at least {above:g}" if inclusive else f"above {above:g}"
            raise UsageError(f"parameter {name} of head {self.head} takes a number {bound}, got {value!r}")
        return float(value)

    def _integer(self, name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"parameter {name} of head {self.head} takes a whole number of at least 1, got {value!r}")
        return value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text.strip()
