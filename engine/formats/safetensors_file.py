"""safetensors: a whole cache as tensors, and its text as JSON in their metadata. Its header may have 100 MB.

# N images, D feature dim, F failures
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from tle.cache.joined import JoinedRows
from tle.cache.reader import Cache
from tle.errors import CacheError
from tle.formats.foreign import COLUMNS, FEATURES, pick
from tle.formats.portable import (
    HEADER,
    Opened,
    block_rows,
    check_shape,
    exported_blocks,
    header_text,
    read_header,
    refusals,
    stored_columns,
)
from tle.progress import Progress

_MAX_TEXT_BYTES = 95_000_000  # of the header's 100 MB; the names of the tensors need little
_DTYPES = {
    **{"F16": np.float16, "F32": np.float32, "F64": np.float64, "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8},
    **{"U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32, "U64": np.uint64, "I64": np.int64},
}
_OWN = ("labels", "splits", "status", "digests", "size", "mtime_ns", "checksums")


def write_safetensors(cache: Cache, file: BinaryIO, counter: Progress) -> None:
    """All of a cache. Its features are in memory where they are not in one piece in the file.

    Raises:
        CacheError: it has more text than the format takes.
    """
    text = {
        HEADER: header_text(cache),
        "ids": json.dumps(cache.ids, ensure_ascii=False),
        "reasons": json.dumps(cache.reasons, ensure_ascii=False),
    }
    size = len(json.dumps(text, ensure_ascii=False).encode())
    if size > _MAX_TEXT_BYTES:
        raise CacheError(
            f"{cache.path} has {size:,} bytes of ids and other text, safetensors takes {_MAX_TEXT_BYTES:,}: convert it to "
            ".npz or .parquet"
        )
    whole = cache.valid.all() and not isinstance(cache.features, JoinedRows)
    features = cache.features if whole else np.concatenate(list(exported_blocks(cache)))
    tensors = {"features": features} | {
        name: np.ascontiguousarray(array) for name, array in stored_columns(cache).items()
    }
    # The library puts a file of its own, which only its owner may read, in place of the one that is open.
    mode = os.fstat(file.fileno()).st_mode
    save_file(tensors, file.name, text)
    with Path(file.name).open("rb") as written:
        os.fchmod(written.fileno(), mode)
        os.fsync(written.fileno())
    counter.advance(len(cache))


@contextmanager
def open_safetensors(path: Path) -> Iterator[Opened]:
    """Open a safetensors file, of tle or of somebody else."""
    with refusals(path, "safetensors"):
        opened: Any = safe_open(path, framework="np")
    with opened:
        with refusals(path, "safetensors"):
            names, text = list(opened.keys()), opened.metadata() or {}
            found = pick(names, FEATURES)
            if found is None:
                raise CacheError(
                    f"{path}: expected a tensor named {', '.join(FEATURES)}, found {', '.join(names) or 'none'}"
                )
            rows = opened.get_slice(found)
            dtype: np.dtype[Any] = np.dtype(_DTYPES.get(rows.get_dtype(), np.void))
            shape = check_shape(path, tuple(rows.get_shape()), dtype)
            header = read_header(path, text[HEADER]) if HEADER in text else None
            if header is None:
                columns, reasons = _found(opened, names, text), {}
            else:
                columns = {name: opened.get_tensor(name) for name in _OWN if name in names}
                columns["ids"] = json.loads(text["ids"])
                reasons = {int(row): str(reason) for row, reason in json.loads(text["reasons"]).items()}

        def blocks() -> Iterator[NDArray[Any]]:
            step = block_rows(shape[1], dtype)
            with refusals(path, "safetensors"):
                for start in range(0, shape[0], step):
                    yield rows[start : min(start + step, shape[0])]

        yield Opened(
            path=path, shape=shape, dtype=dtype, header=header, columns=columns, reasons=reasons, blocks=blocks
        )


def _found(opened: Any, names: list[str], text: Mapping[str, str]) -> dict[str, Any]:
    """Columns of a foreign file: tensors, and lists in the metadata, which is where safetensors has text."""
    columns: dict[str, Any] = {}
    for column, known in COLUMNS.items():
        tensor, entry = pick(names, known), pick(list(text), known)
        if tensor is not None:
            columns[column] = opened.get_tensor(tensor)
        elif entry is not None and text[entry].lstrip().startswith("["):
            columns[column] = json.loads(text[entry])
    return columns
