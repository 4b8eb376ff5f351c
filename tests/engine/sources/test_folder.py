import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tle.enums import Split, Target
from tle.errors import ImageError, SourceError, UsageError
from tle.sources import Source, open_source


def touch(root: Path, *names: str) -> Path:
    """Empty files; a source never looks inside."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def class_of(source: Source) -> dict[str, str | None]:
    names = (*source.classes, None)
    return {id_: names[label] for id_, label in zip(source.ids, source.labels, strict=True)}


def split_of(source: Source) -> dict[str, str]:
    return {id_: Split(split).name for id_, split in zip(source.ids, source.splits, strict=True)}


# Layouts


def test_class_folders_with_real_pictures(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    root = make_images(tmp_path / "photos", classes=("dog", "cat"), per_class=2)
    source = open_source(root)
    assert source.ids == ("cat/000.jpg", "cat/001.jpg", "dog/000.jpg", "dog/001.jpg")
    assert source.classes == ("cat", "dog")
    assert source.labels.dtype == np.int64
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 1])
    assert source.splits.dtype == np.uint8
    assert not source.splits.any()
    assert (source.target, source.kind, source.notes, len(source)) == (Target.CLASS, "folder", (), 4)
    assert source.root == root
    assert source.read(2) == (root / "dog" / "000.jpg").read_bytes()


def test_deeper_folders_belong_to_their_class(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "cat/2020/june/a.jpg", "cat/b.jpg", "dog/c.jpg"))
    assert class_of(source) == {"cat/2020/june/a.jpg": "cat", "cat/b.jpg": "cat", "dog/c.jpg": "dog"}


def test_split_folders_in_any_case(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "Train/a/1.jpg", "TRAIN2/..keep/x", "valid/a/1.jpg", "TEST/b/deep/1.jpg"))
    assert split_of(source) == {"TEST/b/deep/1.jpg": "TEST", "Train/a/1.jpg": "TRAIN", "valid/a/1.jpg": "VAL"}
    assert class_of(source) == {"TEST/b/deep/1.jpg": "b", "Train/a/1.jpg": "a", "valid/a/1.jpg": "a"}
    assert "1 class without a picture in the train split: b" in source.notes


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation"])
def test_names_of_the_validation_split(tmp_path: Path, name: str) -> None:
    assert open_source(touch(tmp_path, f"{name}/a/1.jpg")).splits.tolist() == [Split.VAL]


def test_two_folders_for_one_split_are_joined_and_told(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "validation/a/1.jpg"))
    assert source.splits.tolist() == [Split.TRAIN, Split.VAL, Split.VAL]
    assert "several folders are the same split: train, val, validation" in source.notes


def test_splits_without_class_folders_are_unlabelled(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "train/1.jpg", "train/2.jpg", "test/1.jpg"))
    assert source.ids == ("test/1.jpg", "train/1.jpg", "train/2.jpg")
    assert source.splits.tolist() == [Split.TEST, Split.TRAIN, Split.TRAIN]
    assert (source.target, source.classes, source.labels.tolist()) == (Target.NONE, (), [-1, -1, -1])
    assert source.notes == ()


def test_an_unlabelled_test_split_beside_a_labelled_train_split(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/1.jpg"))
    assert source.labels.tolist() == [-1, 0, 1]
    assert source.notes == ("1 picture without a class folder kept as unlabelled, for example test/1.jpg",)


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "b.jpg", "a.png"))
    assert (source.ids, source.target, source.classes) == (("a.png", "b.jpg"), Target.NONE, ())
    assert source.labels.tolist() == [-1, -1]


def test_pictures_beside_class_folders_are_kept_and_told(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "cat/a.jpg", "stray.jpg"))
    assert class_of(source) == {"cat/a.jpg": "cat", "stray.jpg": None}
    assert "1 picture without a class folder kept as unlabelled, for example stray.jpg" in source.notes


def test_split_folders_beside_others_are_refused_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "test/a/1.jpg", "extra/1.jpg", "more/1.jpg")
    with pytest.raises(SourceError, match=r"split folders \(test, train\) beside .* with pictures \(extra, more\)"):
        open_source(tmp_path)


def test_a_folder_without_pictures_beside_split_folders_does_no_harm(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "train/a/1.jpg", "docs/readme.md"))
    assert source.splits.tolist() == [Split.TRAIN]
    assert "1 folder without pictures left out: docs" in source.notes


def test_splits_inside_of_classes_are_told(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "cat/train/1.jpg", "cat/test/2.jpg", "dog/train/3.jpg"))
    assert source.classes == ("cat", "dog")
    assert not source.splits.any()
    expected = "cat/test, cat/train, dog/train: not read as splits, which lie right below the source"
    assert source.notes == (expected,)


def test_a_folder_around_the_data_set_is_told(tmp_path: Path) -> None:
    (note,) = open_source(touch(tmp_path, "dataset/cat/1.jpg", "dataset/dog/2.jpg")).notes
    assert note.startswith("all pictures lie in one folder, read as the class dataset; ")
    assert note.endswith(f"name {tmp_path / 'dataset'} instead")
    (note,) = open_source(touch(tmp_path / "b", "data/train/cat/1.jpg")).notes
    assert note.endswith(f"name {tmp_path / 'b' / 'data'} instead")


# Which files


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "Png", "webp", "BMP", "tif", "TIFF", "gif", "avif"])
def test_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    assert open_source(touch(tmp_path, f"a.{suffix}")).ids == (f"a.{suffix}",)


def test_litter_is_left_out_and_foreign_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "cat/Thumbs.db", ".DS_Store", "__MACOSX/cat/a.jpg", ".git/x.jpg", "cat/@eaDir/a.jpg")
    touch(tmp_path, "cat/notes.txt", "labels.csv", "cat/._a.jpg", "cat/b.jpg.part")
    source = open_source(tmp_path)
    assert source.ids == ("cat/a.jpg",)
    assert source.notes == (
        "3 files without a picture's suffix left out, for example cat/b.jpg.part",
        "1 hidden picture left out, for example cat/._a.jpg",
    )


def test_empty_class_folders_are_no_classes_and_told(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "empty/notes.txt")
    (tmp_path / "void").mkdir()
    source = open_source(tmp_path)
    assert source.classes == ("cat",)
    assert "2 folders without pictures left out: empty, void" in source.notes
    touch(tmp_path / "s", "train/cat/a.jpg", "train/dog/notes.txt", "train/cat/inner/notes.txt")
    assert "1 folder without pictures left out: train/dog" in open_source(tmp_path / "s").notes


def test_order_is_by_code_point_of_the_whole_id(tmp_path: Path) -> None:
    names = ["a/b.jpg", "a-b/c.jpg", "B/a.jpg", "a/B.jpg", "é/a.jpg", "a/b.JPG", "a/10.jpg", "a/9.jpg"]
    assert list(open_source(touch(tmp_path, *names)).ids) == sorted(names)


def test_names_that_are_not_utf8_are_kept_under_escaped_ids(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"pixels")
    touch(tmp_path, "cat/a.jpg")
    source = open_source(tmp_path)
    assert source.ids == (r"caf\xe9/\xff.jpg", "cat/a.jpg")
    assert source.classes == (r"caf\xe9", "cat")
    assert source.read(0) == b"pixels"
    assert source.notes == ()
    assert "\n".join(source.ids).encode()


def test_an_escaped_id_must_not_meet_another_file(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    touch(tmp_path, r"\xff.jpg")
    with pytest.raises(SourceError, match="would both be called"):
        open_source(tmp_path)


def test_notes_are_one_printable_line(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "a.jpg", "bad\nname\x1b.txt"))
    assert source.notes == (r"1 file without a picture's suffix left out, for example bad\nname\x1b.txt",)


# Links and permissions


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.jpg")
    touch(tmp_path / "root", "dog/b.jpg")
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    assert open_source(tmp_path / "root").ids == ("cat/a.jpg", "dog/b.jpg")


def test_links_never_loop(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "dog" / "self").symlink_to(tmp_path / "dog")
    source = open_source(tmp_path)
    assert source.ids == ("cat/a.jpg", "dog/b.jpg")
    assert "2 links to a folder above itself left out: cat/up, dog/self" in source.notes


def test_two_links_to_one_folder_are_two_folders(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.jpg")
    root = tmp_path / "root"
    root.mkdir()
    (root / "x").symlink_to(tmp_path / "elsewhere")
    (root / "y").symlink_to(tmp_path / "elsewhere")
    assert open_source(root).ids == ("x/a.jpg", "y/a.jpg")


def test_links_to_nothing_and_to_themselves_are_rows_that_cannot_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "c.jpg")
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "b.jpg")
    source = open_source(tmp_path)
    assert source.ids == ("a.jpg", "b.jpg", "c.jpg")
    with pytest.raises(ImageError, match="^a link to a file that does not exist$"):
        source.read(0)
    with pytest.raises(ImageError, match="^cannot be read: Too many levels of symbolic links$"):
        source.read(1)
    assert source.read(2) == b""


def test_unreadable_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    scandir = os.scandir

    def refuse(path: Path) -> object:  # root may read everything, so permissions alone do not show it
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = open_source(tmp_path)
    assert source.ids == ("cat/a.jpg",)
    assert source.notes == ("1 folder that cannot be read left out: dog (Permission denied)",)
    with pytest.raises(SourceError, match=r"no pictures .* 1 folder cannot be read: dog \(Permission denied\)"):
        (tmp_path / "cat" / "a.jpg").unlink()
        open_source(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_root_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with pytest.raises(SourceError, match="Permission denied"):
            open_source(tmp_path)
    finally:
        tmp_path.chmod(0o700)


# Refusals


def test_missing_empty_and_foreign_paths_are_one_clear_line(tmp_path: Path) -> None:
    touch(tmp_path, "notes.md", "a.jpg", "only/text.txt")
    (tmp_path / "void").mkdir()
    for name, message in [
        ("gone", "no such folder or manifest: .*gone$"),
        ("void", "no pictures in .*void; expected root/class/picture.jpg"),
        ("only", "no pictures in .*only, only 1 other file, for example text.txt; expected names that end in .jpg"),
        ("notes.md", "neither a folder nor a manifest"),
        ("a.jpg", "a single picture; name its folder"),
    ]:
        with pytest.raises(SourceError, match=message) as caught:
            open_source(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_targets_that_folders_cannot_give(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    for target in ("multilabel", "regression"):
        with pytest.raises(SourceError, match=f"target {target} needs a manifest"):
            open_source(tmp_path, target=target)
    with pytest.raises(SourceError, match="needs one folder a class"):
        open_source(tmp_path, target=Target.CLASS)
    with pytest.raises(UsageError, match="class, multilabel, regression, none, got 'classes'"):
        open_source(tmp_path, target="classes")


def test_labels_can_be_declined(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "cat/a.jpg", "dog/b.jpg"), target="none")
    assert (source.target, source.classes, source.labels.tolist()) == (Target.NONE, (), [-1, -1])


def test_a_relative_path_survives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    source = open_source("photos")
    monkeypatch.chdir("/")
    assert source.read(0) == b""


def test_listing_loads_no_torch(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    code = "import sys, tle.sources; tle.sources.open_source(sys.argv[1]); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_files_tells_size_and_time_and_zero_where_there_is_none(tmp_path):
    touch(tmp_path, "cat/a.jpg", "cat/b.jpg")
    (tmp_path / "cat" / "a.jpg").write_bytes(b"12345")
    source = open_source(tmp_path)
    (tmp_path / "cat" / "b.jpg").unlink()
    files = source.files()
    status = (tmp_path / "cat" / "a.jpg").stat()
    assert files.tolist() == [(5, status.st_mtime_ns), (0, 0)]


def test_a_subset_keeps_what_belongs_together(tmp_path):
    touch(tmp_path, "cat/a.jpg", "cat/b.jpg", "dog/c.jpg", "dog/d.jpg")
    source = open_source(tmp_path)
    part = source.subset(np.array([1, 2]))
    assert part.ids == ("cat/b.jpg", "dog/c.jpg")
    assert part.labels.tolist() == [0, 1]
    assert source.subset(np.arange(4)) is source
