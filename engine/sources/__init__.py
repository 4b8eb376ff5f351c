"""Where pictures, labels, splits and ids come from."""

from pathlib import Path

from tle.enums import Target
from tle.errors import SourceError, UsageError
from tle.sources.folder import SUFFIXES, open_folder
from tle.sources.manifest import MANIFEST_SUFFIXES, open_manifest
from tle.sources.source import Source

__all__ = ["MANIFEST_SUFFIXES", "Source", "open_source"]


def open_source(path: str | Path, *, target: Target | str | None = None) -> Source:
    """List the pictures of a folder or a manifest, with their labels and splits; no picture is read.

    Args:
        path: a folder (`root/class/img`, `root/{train,val,test}/class/img` or flat), or a CSV, TSV or Parquet manifest
            with the columns `path` (or `image_path`, `filename`) and optionally `label` and `split`.
        target: what the labels are: "class", "multilabel", "regression" or "none"; None finds out: class names, or
            multilabel where a label cell holds a `;`, or none where there are no labels.

    Returns:
        The source.

    Raises:
        SourceError: missing, empty, not understood, or not fit for `target`; the message names what and where.
        UsageError: `target` is unknown.
        MissingPackageError: a Parquet manifest without pyarrow.
    """
    try:
        target = None if target is None else Target(target)
    except ValueError as error:
        raise UsageError(f"target should be one of {', '.join(Target)}, got {target!r}") from error
    path = Path(path).expanduser().absolute()
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise SourceError(f"cannot look at {path}: {error.strerror}") from error
    if is_folder:
        return open_folder(path, target)
    if not exists:
        raise SourceError(f"no such folder or manifest: {path}")
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        return open_manifest(path, target)
    if path.suffix.lower() in SUFFIXES:
        raise SourceError(f"{path} is a single picture; name its folder, or a manifest that lists it")
    raise SourceError(f"{path} is neither a folder nor a manifest ({', '.join(MANIFEST_SUFFIXES)})")
