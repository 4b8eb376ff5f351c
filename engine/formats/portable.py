"""What all formats share: a cache as named columns, a JSON header and blocks of features.

    header     JSON: tle_format, target, classes, spec, run; its presence tells a file of tle from any other
    columns    ids, labels, splits, status, digests, size, mtime_ns, checksums: one value a row, as the cache stores them
    reasons    why the failed rows failed, by row
    features   (N, D) float16 | float32, NaN where a row has none

# N images, D feature dim, B rows of a block
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cache.layout import FORMAT, LABEL_DTYPES, fingerprint
from tle.cache.reader import Cache
from tle.enums import Split, Status, Target
from tle.errors import CacheError, TleError, one_line
from tle.files import FILE_DTYPE

HEADER = "tle"  # the name of the header in every format
BLOCK_BYTES = 1 << 24
MAX_NAME_BYTES = 4096  # of an id or class name: what a path may be
# A file that unpacks to more than this multiple of its size, and to more than 64 MiB, holds no features of pictures.
_MAX_EXPANSION = 200
_UNSUSPICIOUS_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file of tle says of all rows.

    Attributes:
        target: what the labels are.
        classes: C class names.
        spec: what defines the features.
        run: how they were made.
    """

    target: Target
    classes: tuple[str, ...]
    spec: Mapping[str, Any]
    run: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A file that is to become a cache, opened: nothing of it is believed yet.

    Attributes:
        path: the file.
        shape: (N, D) that it declares.
        dtype: of the features, of any kind.
        header: what tle wrote into it; None for the file of somebody else.
        columns: by name, arrays or lists with a value a row; those of the header's columns, or what was found.
        reasons: why failed rows failed, by row.
        blocks: gives the features, (B, D) at a time, in order.
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    header: Header | None
    columns: Mapping[str, Any]
    blocks: Callable[[], Iterator[NDArray[Any]]]
    reasons: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """All that is known of N rows but their features, as a cache stores it.

    Attributes:
        ids: N unique ids.
        labels: as `Target` defines them.
        splits: (N,) values of `Split`.
        status: (N,) values of `Status`; none is pending.
        digests: (N,) uint64; None where they are to be made of the features.
        files: (N,) `FILE_DTYPE`.
        reasons: why failed rows failed, by row.
        checksums: (N,) uint64 that the rows have to have, see `tle.cache.checksums`; None where there are none.
    """

    ids: Sequence[str]
    labels: NDArray[Any]
    splits: NDArray[np.uint8]
    status: NDArray[np.uint8]
    digests: NDArray[np.uint64] | None
    files: NDArray[Any]
    reasons: Mapping[int, str]
    checksums: NDArray[np.uint64] | None


def header_text(cache: Cache) -> str:
    """The header of an exported cache."""
    # Where the parts of a merged cache lie is of no use to a file that holds their features.
    run = {key: value for key, value in cache.run.items() if key != "parts" or not cache.structure.parts}
    header = {
        "tle_format": FORMAT,
        "target": str(cache.target),
        "classes": cache.classes,
        "spec": cache.spec,
        "run": run,
        "fingerprint": cache.fingerprint,
    }
    return json.dumps(header, ensure_ascii=False)


def read_header(path: Path, text: str | bytes) -> Header:
    """The header of a file at `path`.

    Raises:
        CacheError: it is damaged, altered, or of another version.
    """
    try:
        found = json.loads(text)
        if found["tle_format"] != FORMAT:
            raise CacheError(f"{path} has format {found['tle_format']!r}, this version of tle reads {FORMAT}")
        spec, run, classes = found["spec"], found["run"], found["classes"]
        if not isinstance(run, dict) or not isinstance(classes, list):
            raise TypeError("run and classes are not what they should be")
        check_names(path, "class", classes)
        if fingerprint(spec) != found["fingerprint"]:
            raise CacheError(f"{path}: its fingerprint does not match its spec; the file was altered")
        return Header(target=Target(found["target"]), classes=tuple(classes), spec=spec, run=run)
    except CacheError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CacheError(f"{path} has a damaged header ({one_line(error)}): convert it again") from error


def exported_blocks(cache: Cache) -> Iterator[NDArray[Any]]:
    """Features of all rows, (B, D) at a time; NaN where a row has none."""
    step = block_rows(cache.dim, cache.features.dtype)
    for start in range(0, len(cache), step):
        block, valid = cache.features[start : start + step], cache.valid[start : start + step]
        if not valid.all():
            block = np.where(valid[:, None], block, np.array(np.nan, block.dtype))
        yield np.ascontiguousarray(block)


def block_rows(dim: int, dtype: np.dtype[Any]) -> int:
    """Rows of a block B, at least one."""
    return max(1, BLOCK_BYTES // max(dim * dtype.itemsize, 1))


def stored_columns(cache: Cache) -> dict[str, NDArray[Any]]:
    """The columns of a cache that are numbers."""
    return {
        "labels": cache.labels,
        "splits": cache.splits,
        "status": cache.status,
        "digests": cache.digests,
        "checksums": cache.checksums,
        "size": np.ascontiguousarray(cache.files["size"]),
        "mtime_ns": np.ascontiguousarray(cache.files["mtime_ns"]),
    }


def own_records(opened: Opened, header: Header) -> Records:
    """The rows of a file that tle wrote.

    Raises:
        CacheError: a column is missing, or is not what tle writes.
    """
    path, n, columns = opened.path, opened.shape[0], opened.columns
    labels_shape = (n, len(header.classes)) if header.target is Target.MULTILABEL else (n,)
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {
        "labels": (LABEL_DTYPES[header.target], labels_shape),
        "splits": (np.uint8, (n,)),
        "status": (np.uint8, (n,)),
        "digests": (np.uint64, (n,)),
        "checksums": (np.uint64, (n,)),
        "size": (np.int64, (n,)),
        "mtime_ns": (np.int64, (n,)),
    }
    for name, (dtype, shape) in expected.items():
        found = columns.get(name)
        if not isinstance(found, np.ndarray) or (found.dtype, found.shape) != (np.dtype(dtype), shape):
            what = f"{found.shape} {found.dtype}" if isinstance(found, np.ndarray) else "none"
            raise CacheError(f"{path}: {name} should be {shape} {np.dtype(dtype)}, found {what}; was it altered?")
    labels, status = columns["labels"], columns["status"]
    for name, values, least, most in (
        ("status", status, Status.DONE, max(Status)),
        ("splits", columns["splits"], 0, max(Split)),
        *([("labels", labels, -1, len(header.classes) - 1)] if labels.dtype == np.int64 else []),
    ):
        if n and (values.min() < least or values.max() > most):
            raise CacheError(f"{path}: {name} should be from {least} to {most}, found others; was it altered?")
    if any(not 0 <= row < n for row in opened.reasons):
        raise CacheError(f"{path} has reasons for rows that do not exist; was it altered?")
    files = np.zeros(n, FILE_DTYPE)
    files["size"], files["mtime_ns"] = columns["size"], columns["mtime_ns"]
    return Records(
        ids=check_ids(path, columns.get("ids"), n),
        labels=labels,
        splits=columns["splits"],
        status=status,
        digests=columns["digests"],
        files=files,
        reasons=opened.reasons,
        checksums=columns["checksums"],
    )


def check_ids(path: Path, ids: Any, n: int) -> list[str]:
    """N ids, all different.

    Raises:
        CacheError: they are not.
    """
    if not isinstance(ids, list) or len(ids) != n:
        raise CacheError(f"{path}: expected {n:,} ids, found {len(ids) if isinstance(ids, list) else 'none'}")
    check_names(path, "id", ids)
    known: set[str] = set()
    for row, name in enumerate(ids):
        if name in known:
            raise CacheError(f"{path}: the id {name!r} of row {row} is there twice: ids have to differ")
        known.add(name)
    return ids


def check_names(path: Path, what: str, names: Sequence[Any]) -> None:
    """Refuse names that no cache can hold: not text, too long, with null characters, or with half a character.

    Raises:
        CacheError: there is one; the message shows it.
    """
    for name in names:
        if not isinstance(name, str):
            raise CacheError(f"{path}: expected text as {what}, found {name!r:.60}")
        if "\0" in name or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
            raise CacheError(
                f"{path}: the {what} {name[:40]!r} has a null character, or more than {MAX_NAME_BYTES:,} bytes: shorten it"
            )
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise CacheError(f"{path}: the {what} {name[:40]!r} is no valid Unicode") from error


def check_expansion(path: Path, packed_bytes: int, n_bytes: int) -> None:
    """Refuse a small file that declares a huge content.

    Raises:
        CacheError: it does.
    """
    if n_bytes > max(_MAX_EXPANSION * packed_bytes, _UNSUSPICIOUS_BYTES):
        raise CacheError(f"{path} declares {n_bytes:,} bytes of content in {packed_bytes:,}: it is damaged, or a trap")


def check_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int]:
    """(N, D) of an array of features.

    Raises:
        CacheError: it is none.
    """
    if len(shape) != 2 or min(shape) < 1 or dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise CacheError(
            f"{path}: expected features (N, D) of float16, float32 or float64 with at least one row and column, got shape "
            f"{shape} {dtype}"
        )
    return shape[0], shape[1]


@contextmanager
def refusals(path: Path, kind: str) -> Iterator[None]:
    """What a library says about a damaged file becomes one line.

    Raises:
        CacheError: the block failed.
    """
    try:
        yield
    except TleError:
        raise
    # numpy, zipfile, pyarrow and safetensors raise nearly every type there is on damaged files.
    except Exception as error:
        raise CacheError(
            f"{path} cannot be read as {kind}, it is damaged or something else ({one_line(error)})"
        ) from error
