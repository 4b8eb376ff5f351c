"""scikit-learn estimators as bytes and back, through skops, trusting classes of scikit-learn only."""

import importlib
import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from tle.artefact import write_entries
from tle.errors import HeadError, one_line

FILE = "estimator.skops"
_SCHEMA = "schema.json"


def _skops() -> Any:
    """The package, imported when it is needed; it looks into every loaded module, and some of torch's warn of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import skops.io
    return skops


def dump_estimator(estimator: Any) -> bytes:
    """An estimator as the bytes of a skops file; equal estimators give equal bytes.

    Raises:
        HeadError: it holds something that could not be read back: an object that is not scikit-learn's or NumPy's.
    """
    skops = _skops()

    try:
        content: bytes = skops.io.dumps(estimator)
    except Exception as error:
        raise HeadError(f"this estimator cannot be stored without a pickle: {one_line(error)}") from error
    _trusted_types(content)
    return _without_addresses(content)


def load_estimator(content: bytes) -> Any:
    """An estimator from the bytes of a skops file.

    Raises:
        HeadError: the bytes are damaged, or name a type that is not a class of scikit-learn.
    """
    from sklearn.pipeline import Pipeline

    skops = _skops()

    _check_stored(content)
    trusted = _trusted_types(content)
    try:
        estimator = skops.io.loads(content, trusted=trusted)
    except Exception as error:
        raise HeadError(f"the stored estimator cannot be read: {one_line(error)}") from error
    if not isinstance(estimator, Pipeline):
        raise HeadError(f"expected a stored scikit-learn pipeline, found {type(estimator).__name__}")
    return estimator


def _without_addresses(content: bytes) -> bytes:
    """The same skops file with memory addresses and times taken out.

    skops names nodes and files after the addresses of the objects. They are numbered instead, in order of appearance.
    Plain values get a number each, since which of them share an object is up to the interpreter.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        schema = json.loads(archive.read(_SCHEMA))
        numbers: dict[int, int] = {}
        files: dict[str, bytes] = {}
        names: dict[str, str] = {}
        for count, node in enumerate(_nodes(schema)):
            if "__id__" in node:
                node["__id__"] = count if "is_json" in node else numbers.setdefault(node["__id__"], count)
            if isinstance(name := node.get("file"), str):
                if name not in names:
                    names[name] = f"{len(names)}.{name.rpartition('.')[2]}"
                    files[names[name]] = archive.read(name)
                node["file"] = names[name]
        if unnamed := set(archive.namelist()) - {*names, _SCHEMA}:
            raise HeadError(f"this version of skops stores {min(unnamed)} in a way that tle does not know")
    buffer = io.BytesIO()
    write_entries(buffer, {**files, _SCHEMA: json.dumps(schema).encode()})
    return buffer.getvalue()


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON tree, in order."""
    if isinstance(tree, dict):
        yield tree
    if isinstance(tree, dict | list):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from _nodes(child)


def _check_stored(content: bytes) -> None:
    """Refuse compressed entries: what reading allocates is then bounded by the size of the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise HeadError(f"the stored estimator is damaged ({one_line(error)})") from error
    stored = all(info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size for info in infos)
    if not stored or sum(info.file_size for info in infos) > len(content):
        raise HeadError("the stored estimator holds compressed or overlapping entries, which tle never writes; refused")


def _trusted_types(content: bytes) -> list[str]:
    """The types beyond skops' own list that the content needs, all of them classes of scikit-learn.

    skops trusts scikit-learn's public estimators and NumPy's arrays by itself. What remains for them are private
    classes such as `sklearn.tree._tree.Tree`. Functions are never trusted, of no package: NumPy and SciPy have some that
    run code given as text.

    Raises:
        HeadError: another type is named.
    """
    skops = _skops()

    try:
        unknown = skops.io.get_untrusted_types(data=content)
    except Exception as error:
        raise HeadError(f"the stored estimator cannot be read: {one_line(error)}") from error
    for name in unknown:
        if not _is_sklearn_class(name):
            raise HeadError(f"the estimator holds {name}, which is not a class of scikit-learn: refused as unsafe")
    return list(unknown)


def _is_sklearn_class(name: str) -> bool:
    module_name, _, attribute = name.rpartition(".")
    parts = module_name.split(".")
    if parts[0] != "sklearn" or {"tests", "conftest", "externals"} & set(parts):
        return False
    try:
        return isinstance(getattr(importlib.import_module(module_name), attribute, None), type)
    except ImportError:
        return False


def warn_of_version(stored: str) -> None:
    """Warn where an estimator was stored by another version of scikit-learn than the one that is to read it."""
    import sklearn

    if stored.split(".")[:2] != sklearn.__version__.split(".")[:2]:
        warnings.warn(
            f"this head's estimator was stored by scikit-learn {stored} and is read by {sklearn.__version__}: it may fail or "
            "predict differently; fit it again to be sure",
            UserWarning,
            stacklevel=2,
        )
