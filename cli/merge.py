"""`tle merge`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import tle
from tle.cli.output import Json, Output, print_json
from tle.progress import tell


def merge(
    caches: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    output: Output,
    copy: bool = False,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Join caches of one backbone into one.

    The merged cache points into the others, which stay where they are, and costs hardly any space; with --copy it holds
    all features itself.

    Args:
        caches: Caches of the same backbone, preprocessing and precision; their pictures have to have different ids.
        output: The merged cache to write, NAME.h5; without --copy in a folder that holds all the others.
        copy: Copy the features instead of pointing to them.
        overwrite: Replace an existing cache.
    """
    result = tle.merge(caches, output, copy=copy, overwrite=overwrite, progress=True)
    tell(result.notes, shown=True)
    if json:
        print_json(result)
        return
    how = "copied from" if result.copied else "pointing to"
    failed = f", {result.n_failed:,} of them failed" if result.n_failed else ""
    print(f"{result.path}: {result.n_images:,} pictures{failed}, {result.dim} features, {how} {result.n_caches} caches")
