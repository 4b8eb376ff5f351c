"""Printing results, the same for every command: for people, or as JSON on request."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")]
Output = Annotated[Path, Parameter(name=["--output", "-o"])]


def print_json(result: object) -> None:
    """A result dataclass or mapping as one JSON object."""
    data = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str, allow_nan=False))


def print_table(rows: Sequence[Sequence[str]], *, header: Sequence[str] = ()) -> None:
    """Columns as wide as their content; numbers (what looks like them) to the right."""
    table = [list(header), *map(list, rows)] if header else list(map(list, rows))
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))] if table else []
    for row in table:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def print_mapping(values: Mapping[str, Any]) -> None:
    """`key  value` lines, keys aligned."""
    width = max((len(key) for key in values), default=0)
    for key, value in values.items():
        print(f"{key.ljust(width)}  {value}")
