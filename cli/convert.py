"""`tle convert`."""

from pathlib import Path

import tle
from tle.cli.output import Json, print_json
from tle.progress import tell


def convert(
    input: Path,
    output: Path,
    /,
    *,
    name: str | None = None,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Turn a cache into .npy, .npz, .parquet or .safetensors, or such a file into a cache.

    .npz, .parquet and .safetensors hold all of a cache and come back as the same cache; .npy holds features alone. Files
    from elsewhere need an array or column features, and may have labels, classes, ids and splits.

    Args:
        input: A cache (NAME.h5), or a file to make one of.
        output: The file to write; its suffix says what.
        name: What features that tle did not make are called: caches of the same name may meet, others are refused. By
            default the name of the file.
        overwrite: Replace an existing file.
    """
    result = tle.convert(input, output, name=name, overwrite=overwrite, progress=True)
    tell(result.notes, shown=True)
    if json:
        print_json(result)
        return
    failed = f", {result.n_failed:,} of them failed" if result.n_failed else ""
    print(f"{result.path}: {result.n_images:,} rows{failed}, {result.dim} x {result.dtype}")
