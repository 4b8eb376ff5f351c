"""`tle verify`."""

import shlex
from pathlib import Path

import tle
from tle.cli.output import Json, print_json
from tle.errors import CacheError
from tle.sources.source import some


def verify(cache: Path, /, *, images: Path | None = None, repair: bool = False, json: Json = False) -> None:
    """Compare a cache with its checksums, and mark damaged rows for extraction.

    Ends with exit code 1 where something is wrong.

    Args:
        cache: The cache, NAME.h5.
        images: The folder or manifest that it was made of: its pictures are compared as well.
        repair: Mark rows that are damaged, not finite or changed as pending: the next tle extract does them again.
    """
    result = tle.verify(cache, images=images, repair=repair, progress=True)
    if json:
        print_json(result)
    if result.sound:
        if not json:
            print(f"{cache}: {result.n_images:,} rows are as they were written")
        return
    found = []
    for what in ("damaged", "not_finite", "pending", "changed", "missing"):
        rows = getattr(result, what)
        if rows and not json:
            print(
                f"{what.replace('_', ' ')}: {len(rows):,} rows, {some([f'{row} ({result.names[row]})' for row in rows])}"
            )
        if rows:
            found.append(f"{len(rows):,} {what.replace('_', ' ')}")
    if result.arrays:
        found.append(f"{' and '.join(result.arrays)} not as written")
    next_step = (
        "run the tle extract that made it again"
        if result.repaired or not (result.damaged or result.not_finite)
        else f"tle verify {shlex.quote(str(cache))} --repair marks such rows for tle extract"
    )
    raise CacheError(f"{cache}: {', '.join(found)} of {result.n_images:,} rows; {next_step}")
