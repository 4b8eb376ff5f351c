"""One container for everything fitted: a ZIP of stored entries with one JSON document and one safetensors file.

    head.json             the document; the caller may give it another name
    tensors.safetensors   named arrays
    ...                   further files that the caller names, such as estimator.skops

No entry is a pickle, and none is compressed: what a file can make its reader allocate is bounded by its own size. The
same content gives the same bytes (fixed order, times and permissions), so artefacts can be compared and de-duplicated.
"""

import json
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tle.errors import HeadError, one_line
from tle.files import check_output, publish

DOCUMENT = "head.json"
TENSORS = "tensors.safetensors"
# A document with 100,000 class names, a sweep and metrics is below 10 MiB; JSON takes several times its size in memory.
MAX_DOCUMENT_BYTES = 64 * 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that ZIP can write
_REGULAR_FILE = 0o100644 << 16
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class Artefact:
    """What `read_artefact` found.

    Attributes:
        document: the JSON object.
        tensors: arrays by name.
        files: bytes by name, of the further files that were allowed and present.
    """

    document: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    files: dict[str, bytes]


def write_artefact(
    path: str | Path,
    document: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    files: Mapping[str, bytes] | None = None,
    *,
    document_name: str = DOCUMENT,
) -> Path:
    """Write an artefact atomically: under `path` is either what was there before or the whole new file.

    Args:
        path: the file; one that exists is replaced.
        document: JSON-able; NaN and infinity are refused, since JSON has no such numbers.
        tensors: arrays by name, of any shape; bool, integer or float up to 64 bits.
        files: further entries by name.
        document_name: name of the JSON entry.

    Returns:
        `path`.

    Raises:
        OutputError: the folder is missing, `path` is no regular file, or the file system refused.
        HeadError: the document is not JSON-able.
    """
    from safetensors.numpy import save

    path = Path(path)
    try:
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise HeadError(f"cannot write {path}: its record is not JSON ({one_line(error)})") from error
    # safetensors writes the buffer as it lies: a transposed or strided view must become contiguous first.
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    entries = {document_name: text.encode(), TENSORS: save(contiguous), **dict(sorted((files or {}).items()))}
    check_output(path, overwrite=True)
    with publish(path) as file:
        write_entries(file, entries)
    return path


def read_artefact(path: str | Path, *, document_name: str = DOCUMENT, allowed: Collection[str] = ()) -> Artefact:
    """Read and validate an artefact; nothing in it is executed.

    Args:
        path: the file.
        document_name: name of the JSON entry.
        allowed: names of further files that may be present.

    Returns:
        Its document, tensors and further files.

    Raises:
        HeadError: the file is missing, is no such artefact, is damaged, or holds anything unexpected.
    """
    path = Path(path)
    if not path.is_file():
        raise HeadError(f"no such file: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(path, archive.infolist(), {document_name, TENSORS}, {document_name, TENSORS, *allowed})
            contents = {info.filename: archive.read(info) for info in archive.infolist()}
    except HeadError:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise HeadError(
            f"{path} is no readable .head or .tle file ({one_line(error)}): it is damaged, or another kind of file"
        ) from error
    return Artefact(
        _parse_document(path, document_name, contents.pop(document_name)),
        _parse_tensors(path, contents.pop(TENSORS)),
        contents,
    )


def write_entries(file: IO[bytes], entries: Mapping[str, bytes]) -> None:
    """Write a ZIP of stored entries in the order given; the same entries give the same bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, whatever writes it: the bytes must not depend on the machine
            info.external_attr = _REGULAR_FILE
            archive.writestr(info, content)


def _check_entries(path: Path, infos: list[zipfile.ZipInfo], required: set[str], allowed: set[str]) -> None:
    """Refuse whatever `write_artefact` would not have written, before anything is read."""
    names = [info.filename for info in infos]
    if unexpected := sorted(set(names) - allowed):
        expected = ", ".join(sorted(allowed))
        raise HeadError(f"{path} holds an unexpected entry {unexpected[0]!r} (expected only {expected})")
    if len(names) != len(set(names)):
        raise HeadError(f"{path} holds an entry twice: it was not written by tle")
    if missing := sorted(required - set(names)):
        raise HeadError(f"{path} is not a tle artefact: it has no entry {missing[0]!r}")
    for info in infos:
        plain = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        if not plain or info.flag_bits & _ENCRYPTED:
            raise HeadError(f"{path}: {info.filename} is compressed or encrypted, which tle never writes; refused")
        if info.filename.endswith(".json") and info.file_size > MAX_DOCUMENT_BYTES:
            raise HeadError(
                f"{path}: {info.filename} has {info.file_size:,} bytes, more than the {MAX_DOCUMENT_BYTES:,} allowed"
            )
    # Entries that overlap could unpack to many times the file.
    if (total := sum(info.file_size for info in infos)) > (size := path.stat().st_size):
        raise HeadError(f"{path} is damaged: its entries claim {total:,} bytes in a file of {size:,}")


def _parse_document(path: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise HeadError(f"{path}: {name} is not valid JSON ({one_line(error)})") from error
    if not isinstance(document, dict):
        raise HeadError(f"{path}: {name} should be a JSON object, found {type(document).__name__}")
    return document


def _parse_tensors(path: Path, content: bytes) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(content))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise HeadError(f"{path}: {TENSORS} cannot be read ({one_line(error)})") from error
