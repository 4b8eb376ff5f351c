"""What a mistyped name may have meant."""

import difflib
from collections.abc import Iterable


def near_names(name: str, known: Iterable[str]) -> str:
    """`; did you mean a or b?`, or nothing where no known name is near."""
    near = _nearest(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def list_near_names(name: str, known: Iterable[str]) -> str:
    """`; near names: a, b`, or nothing where no known name is near: for lists so long that a guess is only a guess."""
    near = _nearest(name, known)
    return f"; near names: {', '.join(near)}" if near else ""


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
