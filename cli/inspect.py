"""`tle inspect`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tle
from tle.bundle import is_bundle, read_bundle
from tle.cli.output import Json, print_json, print_mapping, print_table
from tle.errors import UsageError
from tle.heads.head import load_head


def inspect(file: Path, /, *, failures: bool = False, json: Json = False) -> None:
    """Show what a cache, a head or a classifier holds and where it came from.

    Args:
        file: A cache (NAME.h5), a head (NAME.head) or a classifier (NAME.tle).
        failures: List every picture that has no features, with the reason.
    """
    if _is_zip(file):
        if failures:
            raise UsageError(f"--failures goes with a cache, {file} is none")
        _show((read_bundle(file) if is_bundle(file) else load_head(file)).summary(), json=json)
        return
    cache = tle.open_cache(file)
    if failures:
        rows = [(cache.ids[index], reason) for index, reason in cache.failures]
        if json:
            print_json([{"id": name, "reason": reason} for name, reason in rows])
        elif rows:
            print_table(rows, header=("id", "reason"))
        else:
            print(f"no picture of {file} failed")
        return
    _show(cache.summary(), json=json)


def _is_zip(file: Path) -> bool:
    try:
        if not file.is_file():  # a pipe would be waited for
            return False
        with file.open("rb") as opened:
            return opened.read(2) == b"PK"
    except (OSError, ValueError):
        return False  # opening it as a cache says what is wrong


def _show(summary: Mapping[str, Any], *, json: bool) -> None:
    if json:
        print_json(summary)
    else:
        print_mapping({key: _text(value) for key, value in summary.items()})


def _text(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        shown = ", ".join(str(_text(inner)) for inner in value[:8])
        return f"{shown}, ... ({len(value)} in all)" if len(value) > 8 else shown or "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
