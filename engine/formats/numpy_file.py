""".npy, which holds features and nothing else, and .npz, which holds a whole cache.

Any numpy reads them, nothing in them is pickled. Both are written and read a block at a time.

# N images, D feature dim, F failures, B rows of a block
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tle.cache.reader import Cache
from tle.errors import CacheError
from tle.formats.foreign import COLUMNS, FEATURES, pick
from tle.formats.portable import (
    HEADER,
    Opened,
    block_rows,
    check_expansion,
    check_shape,
    exported_blocks,
    header_text,
    read_header,
    refusals,
    stored_columns,
)
from tle.progress import Progress

_OWN = (
    *("ids", "labels", "splits", "status", "digests", "size", "mtime_ns", "checksums"),
    *("failure_rows", "failure_reasons"),
)


def write_npy(cache: Cache, file: BinaryIO, counter: Progress) -> None:
    """The features of the valid rows, (n, D)."""
    _write_header(file, (int(cache.valid.sum()), cache.dim), cache.features.dtype)
    for rows, block in cache.blocks():
        file.write(np.ascontiguousarray(block).data)
        counter.advance(len(rows))


def write_npz(cache: Cache, file: BinaryIO, counter: Progress) -> None:
    """All of a cache, not compressed: features do not shrink."""
    failures = cache.failures
    arrays = stored_columns(cache) | {
        "classes": np.array(cache.classes, np.str_),
        "ids": np.array(cache.ids, np.str_),
        "failure_rows": np.array([row for row, _ in failures], np.int64),
        "failure_reasons": np.array([reason for _, reason in failures], np.str_),
        HEADER: np.array(header_text(cache)),
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("features.npy", "w", force_zip64=True) as entry:
            _write_header(entry, (len(cache), cache.dim), cache.features.dtype)
            for block in exported_blocks(cache):
                entry.write(block.data)
                counter.advance(len(block))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                npy.write_array(entry, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, header)


@contextmanager
def open_npy(path: Path) -> Iterator[Opened]:
    """Map a .npy file."""
    with refusals(path, "a .npy file"):
        mapped = npy.open_memmap(path, mode="r")
        shape = check_shape(path, mapped.shape, mapped.dtype)
    step = block_rows(shape[1], mapped.dtype)

    def blocks() -> Iterator[NDArray[Any]]:
        return (np.asarray(mapped[start : start + step]) for start in range(0, shape[0], step))

    yield Opened(path=path, shape=shape, dtype=mapped.dtype, header=None, columns={}, blocks=blocks)


@contextmanager
def open_npz(path: Path) -> Iterator[Opened]:
    """Open a .npz file, of tle or of somebody else."""
    with refusals(path, "a .npz file"):
        archive = zipfile.ZipFile(path)
    with archive:
        with refusals(path, "a .npz file"):
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            features = pick(names, FEATURES)
            if features is None:
                raise CacheError(
                    f"{path}: expected an array named {', '.join(FEATURES)}, found {', '.join(names) or 'none'}"
                )
            header = read_header(path, str(_array(path, archive, HEADER).item())) if HEADER in names else None
            if header is not None:
                columns: dict[str, Any] = {name: _array(path, archive, name) for name in _OWN if name in names}
                columns["ids"] = columns["ids"].tolist()
            else:
                found = {column: pick(names, known) for column, known in COLUMNS.items()}
                columns = {column: _array(path, archive, name) for column, name in found.items() if name is not None}
            reasons = _reasons(path, columns)
            with archive.open(f"{features}.npy") as entry:
                declared, fortran, dtype = _declared(path, archive, features, entry)
            shape = check_shape(path, declared, dtype)

        def blocks() -> Iterator[NDArray[Any]]:
            with refusals(path, "a .npz file"):
                yield from _blocks(path, archive, features, fortran=fortran)

        yield Opened(
            path=path, shape=shape, dtype=dtype, header=header, columns=columns, reasons=reasons, blocks=blocks
        )


def _reasons(path: Path, columns: dict[str, Any]) -> dict[int, str]:
    rows, reasons = (columns.pop(name, np.zeros(0)).tolist() for name in ("failure_rows", "failure_reasons"))
    if len(rows) != len(reasons) or not all(isinstance(row, int) for row in rows):
        raise CacheError(f"{path}: expected a reason for each failed row, found {len(reasons)} for {len(rows)}")
    return dict(zip(rows, map(str, reasons), strict=True))


def _blocks(path: Path, archive: zipfile.ZipFile, name: str, *, fortran: bool) -> Iterator[NDArray[Any]]:
    if fortran:  # column by column: there are no rows before the last column is there
        yield _array(path, archive, name)
        return
    with archive.open(f"{name}.npy") as entry:
        (n, dim), _, dtype = _declared(path, archive, name, entry)
        step = block_rows(dim, dtype)
        for start in range(0, n, step):
            rows = min(step, n - start)
            yield np.frombuffer(_exactly(entry, rows * dim * dtype.itemsize), dtype).reshape(rows, dim)


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """A whole array of an archive."""
    with archive.open(f"{name}.npy") as entry:
        shape, fortran, dtype = _declared(path, archive, name, entry)
        flat = np.frombuffer(_exactly(entry, math.prod(shape) * dtype.itemsize), dtype)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _declared(
    path: Path, archive: zipfile.ZipFile, name: str, entry: IO[bytes]
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype that an entry declares, if its size agrees; it is read up to the data."""
    version = npy.read_magic(entry)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise CacheError(f"{path}: {name} has version {version} of the .npy format, expected 1 or 2")
    shape, fortran, dtype = read(entry)
    info = archive.getinfo(f"{name}.npy")
    check_expansion(path, info.compress_size, info.file_size)
    if dtype.hasobject or dtype.fields or not dtype.itemsize or min(shape, default=0) < 0:
        raise CacheError(f"{path}: {name} holds {dtype}, expected plain numbers or text")
    if math.prod(shape) * dtype.itemsize != info.file_size - entry.tell():
        raise CacheError(f"{path}: {name} declares {shape} {dtype}, which is not what is there: the file is damaged")
    return shape, fortran, dtype


def _exactly(entry: IO[bytes], n_bytes: int) -> bytes:
    data = entry.read(n_bytes)
    if len(data) != n_bytes:
        raise EOFError("it ends too early")
    return data
