"""Folders of pictures: `root/class/img`, `root/{train,val,test}/class/img`, or flat."""

import os
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tle.enums import Split, Target
from tle.errors import SourceError
from tle.sources.source import SPLIT_NAMES, Source, class_labels, plural, printable, some, unlabelled

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
# What file managers and archivers leave behind, beside everything that starts with a dot; in lower case.
LITTER = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eadir",
        "$recycle.bin",
        "system volume information",
    }
)


@dataclass(slots=True)
class _Scan:
    """What lies below a folder; paths are relative to it, with slashes."""

    pictures: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # folder -> reason


def open_folder(root: Path, target: Target | None) -> Source:
    """Read a folder of pictures as a source.

    A class is the first folder below the root, or below a split folder (train, val, valid, validation, test, in any
    case); deeper folders belong to it. Linked folders are followed, but never into themselves.

    Args:
        root: the folder, absolute.
        target: None or CLASS: the folders are the classes; NONE: labels are not wanted.

    Returns:
        The source; its order is that of the ids by code point, whatever the file system says.

    Raises:
        SourceError: no pictures, unreadable, split folders beside others, or a target that folders cannot give.
    """
    if target in (Target.MULTILABEL, Target.REGRESSION):
        raise SourceError(f"target {target} needs a manifest with a label column; {root} is a folder")
    scan = _scan(root)
    if not scan.pictures:
        raise SourceError(_nothing_in(root, scan))
    ids, odd_paths = _ids(root, scan.pictures)
    splits, names, notes = _layout(root, ids)
    labelled = any(name is not None for name in names)
    if target is Target.CLASS and not labelled:
        raise SourceError(f"target class needs one folder a class; the pictures in {root} lie in none")
    if labelled and target is not Target.NONE:
        target = Target.CLASS
        labels, classes = class_labels(names)
        if loose := [id_ for id_, name in zip(ids, names, strict=True) if name is None]:
            kept = f"{plural(len(loose), 'picture')} without a class folder kept as unlabelled"
            notes.append(f"{kept}, for example {printable(loose[0])}")
    else:
        target, labels, classes = Target.NONE, unlabelled(len(ids)), ()
    notes += _left_out(scan, ids)
    return Source(root, tuple(ids), labels, classes, splits, target, "folder", tuple(notes), odd_paths)


def _scan(root: Path) -> _Scan:
    """Walk `root` without recursion: one `scandir` a folder, no system call a file."""
    found = _Scan()
    # Each entry carries the identities of the folders above it: a link is a loop where it leads to one of them.
    stack: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while stack:
        folder, above = stack.pop()
        prefix = f"{folder}/" if folder else ""
        path = root / folder
        try:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                found.loops.append(folder)
                continue
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    lower = name.lower()
                    if name.startswith(".") or lower in LITTER:
                        if lower.endswith(SUFFIXES):
                            found.hidden.append(prefix + name)
                    elif _is_folder(entry):
                        found.folders.append(prefix + name)
                        stack.append((prefix + name, above | {identity}))
                    elif lower.endswith(SUFFIXES):
                        # links to nothing and pipes as well: reading them fails, and is recorded under their id
                        found.pictures.append(prefix + name)
                    else:
                        found.others.append(prefix + name)
        except OSError as error:
            if not folder:
                raise SourceError(f"cannot read the folder {root}: {error.strerror}") from error
            found.unreadable[folder] = error.strerror or str(error)
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether `entry` is a folder or links to one; a link that cannot be followed is a (bad) file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _nothing_in(root: Path, scan: _Scan) -> str:
    if scan.unreadable:
        folders = [f"{folder} ({reason})" for folder, reason in sorted(scan.unreadable.items())]
        return f"no pictures in {root}: {plural(len(folders), 'folder')} cannot be read: {some(folders)}"
    if scan.others:
        files = f"{plural(len(scan.others), 'other file')}, for example {printable(min(scan.others))}"
        return f"no pictures in {root}, only {files}; expected names that end in {' '.join(SUFFIXES)}"
    return f"no pictures in {root}; expected root/class/picture.jpg, root/train/class/picture.jpg or root/picture.jpg"


def _ids(root: Path, pictures: list[str]) -> tuple[list[str], dict[int, Path]]:
    r"""Sorted ids: the paths, but for names that are no UTF-8, whose stray bytes become `\xNN`.

    Returns:
        The ids, and the true paths of those that were escaped, by index.
    """
    ids = sorted(_escape(path) for path in pictures)
    odd = {escaped: path for path in pictures if (escaped := _escape(path)) != path}
    counts = Counter(ids) if odd else {}
    for escaped in odd:
        if counts[escaped] > 1:
            raise SourceError(
                f"two pictures in {root} would both be called {escaped}: rename the one that is not UTF-8"
            )
    return ids, {bisect_left(ids, escaped): root / path for escaped, path in odd.items()}


def _escape(path: str) -> str:
    """`path`, with bytes that are no UTF-8 as escapes."""
    if path.isascii():
        return path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _layout(root: Path, ids: list[str]) -> tuple[NDArray[np.uint8], list[str | None], list[str]]:
    """Tell splits and classes from the folders.

    Returns:
        (N,) splits; N class names, None where there is none; notes.
    """
    tops = sorted({id_.split("/", 1)[0] for id_ in ids if "/" in id_})
    split_folders = [top for top in tops if top.lower() in SPLIT_NAMES]
    splits = np.full(len(ids), Split.NONE, np.uint8)
    if not split_folders:
        names = [id_.split("/", 1)[0] if "/" in id_ else None for id_ in ids]
        return splits, names, _doubts_about_classes(root, ids, tops)
    if others := [top for top in tops if top not in split_folders]:
        raise SourceError(
            f"{root} has split folders ({some(split_folders)}) beside other folders with pictures ({some(others)}): "
            "move one kind elsewhere, or list the pictures in a manifest"
        )
    names = []
    for index, id_ in enumerate(ids):
        parts = id_.split("/", 2)
        if len(parts) > 1:
            splits[index] = SPLIT_NAMES[parts[0].lower()]
        names.append(parts[1] if len(parts) > 2 else None)
    notes = []
    if len({SPLIT_NAMES[top.lower()] for top in split_folders}) < len(split_folders):
        notes.append(f"several folders are the same split: {', '.join(split_folders)}")
    trained = {name for name, split in zip(names, splits, strict=True) if split == Split.TRAIN and name is not None}
    untrained = sorted({name for name in names if name is not None} - trained)
    if trained and untrained:
        notes.append(f"{plural(len(untrained), 'class')} without a picture in the train split: {some(untrained)}")
    return splits, names, notes


def _doubts_about_classes(root: Path, ids: list[str], tops: list[str]) -> list[str]:
    """Notes on folders that are taken for classes but look like something else."""
    pairs = {tuple(id_.split("/", 2)[:2]) for id_ in ids if id_.count("/") > 1}
    inner_splits = sorted("/".join(pair) for pair in pairs if pair[1].lower() in SPLIT_NAMES)
    wrapper = len(tops) == 1 and all(id_.count("/") > 1 for id_ in ids)
    instead = f"; if it holds the classes, name {root / printable(tops[0])} instead" if wrapper else ""
    if inner_splits:
        return [f"{some(inner_splits)}: not read as splits, which lie right below the source{instead}"]
    return [f"all pictures lie in one folder, read as the class {printable(tops[0])}{instead}"] if wrapper else []


def _left_out(scan: _Scan, ids: list[str]) -> list[str]:
    """Notes on what was not taken, and why."""
    notes = []
    if scan.others:
        left_out = f"{plural(len(scan.others), 'file')} without a picture's suffix left out"
        notes.append(f"{left_out}, for example {printable(min(scan.others))}")
    if scan.hidden:
        notes.append(
            f"{plural(len(scan.hidden), 'hidden picture')} left out, for example {printable(min(scan.hidden))}"
        )
    if scan.unreadable:
        folders = [f"{folder} ({reason})" for folder, reason in sorted(scan.unreadable.items())]
        notes.append(f"{plural(len(folders), 'folder')} that cannot be read left out: {some(folders)}")
    if scan.loops:
        notes.append(f"{plural(len(scan.loops), 'link')} to a folder above itself left out: {some(sorted(scan.loops))}")
    # A class folder without pictures is no class, and an empty split no split: worth a word.
    used = {id_[: id_.find("/")] for id_ in ids if "/" in id_}
    used |= {"/".join(id_.split("/", 2)[:2]) for id_ in ids if id_.count("/") > 1}
    told = {*scan.unreadable, *scan.loops}
    empty = []
    for folder in sorted(scan.folders):
        top, _, below = folder.partition("/")
        is_class_or_split = not below or (top.lower() in SPLIT_NAMES and top in used and "/" not in below)
        if is_class_or_split and _escape(folder) not in used and folder not in told:
            empty.append(folder)
    if empty:
        notes.append(f"{plural(len(empty), 'folder')} without pictures left out: {some(empty)}")
    return notes
