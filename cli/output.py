"""Printing results, the same for every command: for people, or as JSON on request."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tle.sources.source import printable

_NUMBER = re.compile(r"[-+]?[\d.,]+%?|-|")

Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")]
Output = Annotated[Path, Parameter(name=["--output", "-o"])]


def print_json(result: object) -> None:
    """A result dataclass or mapping as one JSON object."""
    data = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str, allow_nan=False))


def print_table(rows: Sequence[Sequence[str]], *, header: Sequence[str] = ()) -> None:
    """Columns as wide as their content; those of numbers alone to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    table = [list(header), *rows] if header else rows
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    numeric = [all(map(_NUMBER.fullmatch, column)) for column in zip(*rows, strict=True)]
    for row in table:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        print("  ".join(cells).rstrip())


def print_mapping(values: Mapping[str, Any]) -> None:
    """`key  value` lines, keys aligned."""
    width = max((len(key) for key in values), default=0)
    for key, value in values.items():
        print(f"{key.ljust(width)}  {printable(str(value))}")
