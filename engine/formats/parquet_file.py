"""Parquet: a table that any data frame reads, a row a picture, written and read a row group at a time.

    id         text
    label      class name, list of class names, or number; null where unlabelled
    split      train, val, test or none
    status     done or failed
    digest     uint64
    size       int64, bytes of the picture's file
    mtime_ns   int64
    reason     text, of failed rows
    checksum   uint64, of all but label and split, see `tle.cache.checksums`
    features   list of D float16 | float32; null where the row failed

and the rest as JSON in the metadata of the schema, under `tle`.

# N images, D feature dim, B rows of a block
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tle.cache.labels import readable_labels
from tle.cache.reader import Cache
from tle.enums import Split, Status, Target
from tle.errors import CacheError, MissingPackageError
from tle.formats.foreign import COLUMNS, FEATURES, pick
from tle.formats.portable import (
    BLOCK_BYTES,
    HEADER,
    MAX_NAME_BYTES,
    Header,
    Opened,
    block_rows,
    check_expansion,
    check_shape,
    header_text,
    read_header,
    refusals,
)
from tle.progress import Progress

_GROUP_BYTES = 4 * BLOCK_BYTES
_COLUMN_ROWS = 4096  # rows of text that are unpacked at a time
_OWN = ("id", "label", "split", "status", "digest", "size", "mtime_ns", "reason", "checksum")
_PLAIN = (bool, int, float, str, bytes, list)


def write_parquet(cache: Cache, file: BinaryIO, counter: Progress) -> None:
    """All of a cache."""
    pa, pq = _arrow()
    schema = _schema(cache, pa)
    step = max(1, _GROUP_BYTES // (cache.dim * cache.features.dtype.itemsize))
    # Features do not shrink; what is beside them does.
    packed = dict.fromkeys(_OWN, "zstd") | {"label.list.element": "zstd"}
    with pq.ParquetWriter(file, schema, compression=packed, use_dictionary=["label", "split", "status"]) as writer:
        for start in range(0, len(cache), step):
            rows = np.arange(start, min(start + step, len(cache)))
            writer.write_table(pa.table(_columns(cache, rows, pa), schema=schema))
            counter.advance(len(rows))


def _schema(cache: Cache, pa: Any) -> Any:
    label = {Target.REGRESSION: pa.float32(), Target.MULTILABEL: pa.list_(pa.string())}.get(cache.target, pa.string())
    features = pa.list_(pa.float16() if cache.features.dtype == np.float16 else pa.float32(), cache.dim)
    kinds = dict.fromkeys(_OWN, pa.string()) | {"label": label, "digest": pa.uint64(), "checksum": pa.uint64()}
    kinds |= {"size": pa.int64(), "mtime_ns": pa.int64(), "features": features}
    return pa.schema(list(kinds.items()), metadata={HEADER: header_text(cache)})


def _columns(cache: Cache, rows: NDArray[np.int64], pa: Any) -> dict[str, Any]:
    block, valid = cache.features[int(rows[0]) : int(rows[-1]) + 1], cache.valid[rows]
    reasons = cache.reasons
    return {
        "id": [cache.ids[row] for row in rows.tolist()],
        "label": readable_labels(cache, rows),
        "split": [Split(value).name.lower() for value in cache.splits[rows].tolist()],
        "status": [Status(value).name.lower() for value in cache.status[rows].tolist()],
        "digest": np.asarray(cache.digests[rows]),
        "size": np.ascontiguousarray(cache.files["size"][rows]),
        "mtime_ns": np.ascontiguousarray(cache.files["mtime_ns"][rows]),
        "reason": [reasons.get(row) for row in rows.tolist()],
        "checksum": np.asarray(cache.checksums[rows]),
        "features": pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(block).reshape(-1)), cache.dim, mask=pa.array(~valid)
        ),
    }


@contextmanager
def open_parquet(path: Path) -> Iterator[Opened]:
    """Open a Parquet file, of tle or of somebody else.

    Raises:
        MissingPackageError: pyarrow is not installed.
    """
    _, pq = _arrow()
    with refusals(path, "Parquet"):
        opened = pq.ParquetFile(path)
    with opened:
        with refusals(path, "Parquet"):
            schema, n = opened.schema_arrow, opened.metadata.num_rows
            found = pick(schema.names, FEATURES)
            if found is None:
                known = ", ".join(FEATURES)
                raise CacheError(f"{path}: expected a column named {known}, found {', '.join(schema.names) or 'none'}")
            shape, dtype = _features_of(path, opened, found)
            check_expansion(path, path.stat().st_size, n * shape[1] * dtype.itemsize)
            text = (schema.metadata or {}).get(HEADER.encode())
            header = None if text is None else read_header(path, text)
            if header is None:
                names = {column: pick(schema.names, known) for column, known in COLUMNS.items() if column != "classes"}
                columns = _read(path, opened, {column: name for column, name in names.items() if name is not None})
                reasons: dict[int, str] = {}
            else:
                columns, reasons = _own(_read(path, opened, {name: name for name in _OWN}), header)

        def blocks() -> Iterator[NDArray[Any]]:
            with refusals(path, "Parquet"):
                for batch in opened.iter_batches(block_rows(shape[1], dtype), columns=[found]):
                    yield _rows(path, batch.column(0), shape[1], dtype)

        yield Opened(
            path=path, shape=shape, dtype=dtype, header=header, columns=columns, reasons=reasons, blocks=blocks
        )


def _features_of(path: Path, opened: Any, name: str) -> tuple[tuple[int, int], np.dtype[Any]]:
    """(N, D) and dtype of a column of lists."""
    kind = opened.schema_arrow.field(name).type
    dtypes = {"halffloat": np.float16, "float": np.float32, "double": np.float64}
    value = str(getattr(kind, "value_type", None))
    if value not in dtypes:
        raise CacheError(f"{path}: expected {name} to hold lists of float16, float32 or float64, found {kind}")
    dim = getattr(kind, "list_size", None)
    if dim is None:  # lists of any length: the first says what the others have to be
        first = (row for batch in opened.iter_batches(1, columns=[name]) for row in batch.column(0).value_lengths())
        dim = next((length.as_py() for length in first if length.is_valid), 0)
    dtype: np.dtype[Any] = np.dtype(dtypes[value])
    return check_shape(path, (opened.metadata.num_rows, dim), dtype), dtype


def _rows(path: Path, lists: Any, dim: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(B, D) of an array of lists, NaN where there is none."""
    valid = np.asarray(lists.is_valid())
    values = lists.flatten()
    lengths = np.asarray(lists.value_lengths().drop_null())
    if (lengths != dim).any() or len(values) != int(valid.sum()) * dim:
        raise CacheError(f"{path}: expected features of one length {dim}, found others")
    rows = np.full((len(valid), dim), np.nan, dtype)
    rows[valid] = values.to_numpy(zero_copy_only=False).reshape(-1, dim)
    return rows


def _read(path: Path, opened: Any, names: Mapping[str, str]) -> dict[str, list[Any]]:
    """Whole columns as Python values, by the names that are wanted."""
    missing = set(names.values()).difference(opened.schema_arrow.names)
    if missing:
        raise CacheError(f"{path} has no column {min(missing)}; was it altered?")
    columns: dict[str, list[Any]] = {column: [] for column in names}
    if not names:
        return columns
    for batch in opened.iter_batches(_COLUMN_ROWS, columns=list(names.values())):
        for column, name in names.items():
            values = batch.column(batch.schema.get_field_index(name)).to_pylist()
            for value in values:  # here and not later: a dictionary of one long text unpacks to any size
                if isinstance(value, str | bytes) and len(value) > MAX_NAME_BYTES:
                    raise CacheError(
                        f"{path}: {name} holds text of more than {MAX_NAME_BYTES:,} characters: shorten it"
                    )
                if not (value is None or isinstance(value, _PLAIN)):
                    raise CacheError(f"{path}: expected numbers or text in {name}, found {value!r:.60}")
            columns[column] += values
    return columns


def _own(columns: dict[str, list[Any]], header: Header) -> tuple[dict[str, Any], dict[int, str]]:
    """The columns of a file of tle as a cache stores them, and the reasons."""
    splits = {split.name.lower(): int(split) for split in Split}
    states = {status.name.lower(): int(status) for status in Status}
    stored = {
        "ids": columns["id"],
        "labels": _own_labels(columns["label"], header),
        "splits": np.array([splits[value] for value in columns["split"]], np.uint8),
        "status": np.array([states[value] for value in columns["status"]], np.uint8),
        "digests": np.array(columns["digest"], np.uint64),
        "checksums": np.array(columns["checksum"], np.uint64),
        "size": np.array(columns["size"], np.int64),
        "mtime_ns": np.array(columns["mtime_ns"], np.int64),
    }
    return stored, {row: str(reason) for row, reason in enumerate(columns["reason"]) if reason is not None}


def _own_labels(values: list[Any], header: Header) -> NDArray[Any]:
    if header.target is Target.REGRESSION:
        return np.array([np.nan if value is None else value for value in values], np.float32)
    place = {name: number for number, name in enumerate(header.classes)}
    if header.target is not Target.MULTILABEL:
        return np.array([-1 if value is None else place[value] for value in values], np.int64)
    labels_NC = np.zeros((len(values), len(header.classes)), np.uint8)
    for row, names in enumerate(values):
        if names is None:
            labels_NC[row] = 255
        else:
            labels_NC[row, [place[name] for name in names]] = 1
    return labels_NC


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingPackageError("a .parquet file needs pyarrow: pip install pyarrow") from error
    return pa, pq
