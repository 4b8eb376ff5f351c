"""Caches to other file formats and back: `tle.convert`.

    .npy           features of the valid rows and nothing else
    .npz, .parquet, .safetensors
                   all of a cache; on the way back it is the same, with the same fingerprint

Files that tle did not write can come in as well, see `tle.formats.foreign`.

# N images, D feature dim, B rows of a block
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from tle.cache.checksums import row_checksums, row_views
from tle.cache.creation import new_cache
from tle.cache.layout import Content, clip_reason
from tle.cache.reader import Cache, open_cache
from tle.cache.soundness import check_complete, check_rows
from tle.cache.writer import CacheWriter
from tle.enums import Status
from tle.errors import CacheError, UsageError
from tle.files import check_output, publish
from tle.formats.foreign import foreign_records
from tle.formats.numpy_file import open_npy, open_npz, write_npy, write_npz
from tle.formats.parquet_file import open_parquet, write_parquet
from tle.formats.portable import Opened, Records, own_records, refusals
from tle.formats.safetensors_file import open_safetensors, write_safetensors
from tle.progress import Progress, track

CACHE_SUFFIXES = (".h5", ".hdf5")
WRITERS: dict[str, Callable[[Cache, BinaryIO, Progress], None]] = {
    ".npy": write_npy,
    ".npz": write_npz,
    ".parquet": write_parquet,
    ".safetensors": write_safetensors,
}
READERS: dict[str, Callable[[Path], AbstractContextManager[Opened]]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".parquet": open_parquet,
    ".safetensors": open_safetensors,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertResult:
    """What a conversion did.

    Attributes:
        path: the file that was written.
        n_images: rows in it.
        n_failed: those that have no features.
        dim: feature dimension D.
        dtype: storage type of the features.
        fingerprint: identity of the features.
        notes: one-line facts that the user has to be told.
    """

    path: Path
    n_images: int
    n_failed: int
    dim: int
    dtype: str
    fingerprint: str
    notes: tuple[str, ...]


def convert(
    input: str | Path,
    output: str | Path,
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> ConvertResult:
    """Turn a cache into a file of another format, or such a file into a cache; suffixes say which.

    Args:
        input: a cache (`.h5`, `.hdf5`), or a `.npy`, `.npz`, `.parquet` or `.safetensors` file. One that tle did not write
            needs features (N, D) of float16, float32 or float64 called features, embeddings or x, and may have labels,
            classes, ids and splits. Integer labels are classes (-1: unlabelled), named by classes or by their digits; text
            is class names, floating-point numbers are for regression.
        output: one of the others.
        name: of features that tle did not make; those of the same name may meet, others are refused. None takes the file's
            own name without its suffix.
        overwrite: replace an existing output.
        progress: show progress on standard error.

    Returns:
        What was done.

    Raises:
        UsageError: an unknown suffix, two of a kind, or a name where none is needed.
        CacheError: the input is damaged, or not what is expected.
        MissingPackageError: Parquet without pyarrow.
        OutputError: the output cannot be written.
    """
    source, path = Path(input), Path(output)
    kinds = [file.suffix.lower() for file in (source, path)]
    for file, kind in zip((source, path), kinds, strict=True):
        if kind not in (*CACHE_SUFFIXES, *WRITERS):
            known = ", ".join((*CACHE_SUFFIXES, *WRITERS))
            raise UsageError(f"expected a file with one of the suffixes {known}, got {file}")
    if (kinds[0] in CACHE_SUFFIXES) == (kinds[1] in CACHE_SUFFIXES):
        raise UsageError(
            f"expected one cache ({' or '.join(CACHE_SUFFIXES)}) and one file of another format, got {source} and {path}"
        )
    check_output(path, overwrite=overwrite, inputs=[source])
    if kinds[0] in CACHE_SUFFIXES:
        if name is not None:
            raise UsageError("--name goes with features that tle did not make: a cache keeps its identity")
        return _bring_out(source, path, overwrite=overwrite, progress=progress)
    return _bring_in(source, path, name, overwrite=overwrite, progress=progress)


def _bring_out(source: Path, path: Path, *, overwrite: bool, progress: bool) -> ConvertResult:
    """A cache as a file of another format."""
    cache, suffix = open_cache(source), path.suffix.lower()
    n_valid = int(cache.valid.sum())
    check_complete(cache)
    with track(len(cache), f"checking {source.name}", unit="rows", shown=progress) as counter:
        check_rows(cache, counter)
    notes = []
    if features_only := suffix == ".npy":
        notes.append(
            f"{path} holds features alone, of {n_valid:,} of {len(cache):,} rows ({len(cache) - n_valid:,} without features "
            "are left out); ids, labels and splits are not in it"
        )
    total = n_valid if features_only else len(cache)
    with publish(path) as file, track(total, f"writing {path.name}", unit="rows", shown=progress) as counter:
        WRITERS[suffix](cache, file, counter)
        check_output(path, overwrite=overwrite)  # the name may have been taken meanwhile
    return ConvertResult(
        path=path,
        n_images=total,
        n_failed=0 if features_only else len(cache.failures),
        dim=cache.dim,
        dtype=cache.features.dtype.name,
        fingerprint=cache.fingerprint,
        notes=tuple(notes),
    )


def _bring_in(source: Path, path: Path, name: str | None, *, overwrite: bool, progress: bool) -> ConvertResult:
    """A file of another format as a cache."""
    if not source.is_file():
        raise CacheError(f"no such file: {source}")
    suffix = source.suffix.lower()
    notes: tuple[str, ...] = ()
    with READERS[suffix](source) as opened:
        with refusals(source, suffix):
            if (header := opened.header) is None:
                header, records, notes = foreign_records(opened, source.stem if name is None else name)
            elif name is not None:
                raise UsageError(f"--name goes with features that tle did not make: {source} keeps its identity")
            else:
                records = own_records(opened, header)
        content = Content(
            ids=records.ids,
            labels=records.labels,
            classes=header.classes,
            splits=records.splits,
            target=header.target,
            dim=opened.shape[1],
            dtype="float16" if opened.dtype.itemsize == 2 else "float32",
            spec=header.spec,
            run=header.run,
        )
        with (
            new_cache(path, content, overwrite=overwrite) as writer,
            track(opened.shape[0], f"reading {source.name}", unit="rows", shown=progress) as counter,
        ):
            n_bad = _write_rows(writer, opened, records, counter)
            if n_bad and not (writer.status == Status.DONE).any():
                raise CacheError(f"not one of the {opened.shape[0]:,} rows of {source} is finite: nothing to write")
    if n_bad:
        notes += (f"{n_bad:,} of {opened.shape[0]:,} rows of {source} are not finite; they are recorded as failed",)
    cache = open_cache(path)
    return ConvertResult(
        path=path,
        n_images=len(cache),
        n_failed=len(cache.failures),
        dim=cache.dim,
        dtype=cache.features.dtype.name,
        fingerprint=cache.fingerprint,
        notes=notes,
    )


def _write_rows(writer: CacheWriter, opened: Opened, records: Records, counter: Progress) -> int:
    """All rows into the new cache; how many are failures only because their features are not finite."""
    n, dim = opened.shape
    first = n_bad = n_damaged = 0
    for block in opened.blocks():
        rows = np.arange(first, first + len(block))
        first += len(block)
        if first > n or block.shape[1] != dim:
            raise CacheError(f"{opened.path} holds other features than it declares ({n:,} rows of {dim:,})")
        n_damaged += _count_damaged(records, rows, block)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and found to be
            features_BD = block.astype(np.float32)
        done = records.status[rows] == Status.DONE
        good = done & np.isfinite(features_BD).all(1)
        n_bad += int((done & ~good).sum())
        digests = _digests(features_BD.astype(writer.dtype)) if records.digests is None else records.digests[rows]
        writer.write(rows[good], features_BD[good], digests[good], records.files[rows[good]])
        for row, digest in zip(rows[~good].tolist(), digests[~good].tolist(), strict=True):
            failed = records.status[row] == Status.FAILED
            reason = (
                (records.reasons.get(row) or "not recorded") if failed else "the features are missing or not finite"
            )
            writer.fail(row, reason, digest, records.files[row])
        counter.advance(len(block), int((~good).sum()))
    writer.commit()
    if first != n:
        raise CacheError(f"{opened.path} declares {n:,} rows and holds {first:,}: it is damaged")
    if n_damaged:
        raise CacheError(
            f"{n_damaged:,} of {n:,} rows of {opened.path} are not what tle wrote: it was damaged or altered"
        )
    return n_bad


def _count_damaged(records: Records, rows: NDArray[np.int64], block_BD: NDArray[np.generic]) -> int:
    """How many rows of a file of tle have a wrong checksum."""
    if records.checksums is None or records.digests is None:
        return 0
    status = records.status[rows]
    views = row_views(np.ascontiguousarray(block_BD))
    contents = [
        view if done else clip_reason(records.reasons.get(row, ""))
        for view, done, row in zip(views, (status == Status.DONE).tolist(), rows.tolist(), strict=True)
    ]
    found = row_checksums(contents, records.digests[rows], records.files[rows], status)
    return int((found != records.checksums[rows]).sum())


def _digests(rows_BD: NDArray[np.generic]) -> NDArray[np.uint64]:
    """In place of the digests of pictures that are not known: equal features count as the same picture."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, row_views(np.ascontiguousarray(rows_BD))), np.uint64, len(rows_BD))
