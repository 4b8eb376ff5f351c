from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tle.enums import Split, Target
from tle.errors import ImageError, SourceError
from tle.sources import Source, open_source


def manifest(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    """A manifest whose pictures a.jpg to d.jpg are there."""
    for letter in "abcd":
        (folder / f"{letter}.jpg").write_bytes(letter.encode())
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def parquet(folder: Path, columns: dict[str, Any], schema: Any = None) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    path = manifest(folder, b"", "list.parquet")
    writer.write_table(pyarrow.table(columns, schema=schema), path)
    return path


def names(source: Source) -> list[str | None]:
    return [(*source.classes, None)[label] for label in source.labels]


# CSV


def test_path_label_split(tmp_path: Path) -> None:
    source = open_source(manifest(tmp_path, "path,label,split\nb.jpg,dog,train\na.jpg,cat,Test\nc.jpg,,\n"))
    assert source.ids == ("b.jpg", "a.jpg", "c.jpg")  # the order of the rows
    assert source.classes == ("cat", "dog")
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [1, 0, -1]
    assert source.splits.tolist() == [Split.TRAIN, Split.TEST, Split.NONE]
    assert (source.target, source.kind, source.root) == (Target.CLASS, "manifest", tmp_path)
    assert source.notes == ("1 row of 3 with an empty label kept as unlabelled",)
    assert source.read(0) == b"b"


@pytest.mark.parametrize("column", ["path", "image_path", "filename", "Path", " FILENAME "])
def test_names_of_the_path_column(tmp_path: Path, column: str) -> None:
    assert open_source(manifest(tmp_path, f"{column}\na.jpg\n")).ids == ("a.jpg",)


def test_byte_order_mark_windows_lines_quotes_and_blank_lines(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbfpath,label\r\n\r\n"a.jpg","cats, big"\r\nb.jpg,"say ""hi"""\r\n\r\n'
    source = open_source(manifest(tmp_path, text))
    assert source.ids == ("a.jpg", "b.jpg")
    assert source.classes == ("cats, big", 'say "hi"')
    assert source.notes == ()


def test_class_names_are_strings_as_written_without_white_space(tmp_path: Path) -> None:
    source = open_source(manifest(tmp_path, "path,label\na.jpg, 01 \nb.jpg,1\nc.jpg,1.0\nd.jpg,nan\n"))
    assert names(source) == ["01", "1", "1.0", "nan"]
    assert source.classes == ("01", "1", "1.0", "nan")


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", Split.TRAIN),
        ("TRAIN", Split.TRAIN),
        ("val", Split.VAL),
        ("valid", Split.VAL),
        ("Validation", Split.VAL),
        (" test ", Split.TEST),
        ("", Split.NONE),
    ],
)
def test_names_of_splits(tmp_path: Path, word: str, split: Split) -> None:
    assert open_source(manifest(tmp_path, f"path,split\na.jpg,{word}\n")).splits.tolist() == [split]


@pytest.mark.parametrize(("delimiter", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_delimiters_are_seen_and_told(tmp_path: Path, delimiter: str, word: str) -> None:
    text = "path,label\na.jpg,x\nb.jpg,y\n".replace(",", delimiter)
    source = open_source(manifest(tmp_path, text, "list.tsv"))
    assert names(source) == ["x", "y"]
    assert source.notes == (f"list.tsv: columns are separated by {word}",)


def test_any_file_name_may_be_listed_and_paths_may_be_absolute(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "data.bin").write_bytes(b"bin")
    path = manifest(tmp_path / "sub", f"path\n../data.bin\n{tmp_path}/sub/a.jpg\n./b.jpg\n")
    source = open_source(path)
    assert source.ids == ("../data.bin", f"{tmp_path}/sub/a.jpg", "b.jpg")
    assert [source.read(index) for index in range(3)] == [b"bin", b"a", b"b"]


def test_backslashes_are_slashes_unless_a_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"inner")
    (tmp_path / "odd\\name.jpg").write_bytes(b"odd")
    source = open_source(manifest(tmp_path, "path\nsub\\a.jpg\nodd\\name.jpg\n"))
    assert source.ids == ("sub/a.jpg", "odd\\name.jpg")
    assert [source.read(0), source.read(1)] == [b"inner", b"odd"]
    assert source.notes == ("1 path with backslashes read as slashes",)


def test_missing_files_are_rows_that_cannot_be_read(tmp_path: Path) -> None:
    source = open_source(manifest(tmp_path, "path,label\na.jpg,x\ngone.jpg,y\n.,z\nnul\0.jpg,z\n"))
    assert len(source) == 4
    assert source.read(0) == b"a"
    for index, reason in [(1, "^no such file$"), (2, "^a folder, not a file$"), (3, "^cannot be read: ")]:
        with pytest.raises(ImageError, match=reason):
            source.read(index)


def test_a_manifest_whose_paths_start_elsewhere_is_told(tmp_path: Path) -> None:
    source = open_source(manifest(tmp_path, "path\nimages/a.jpg\nimages/b.jpg\n"))
    assert source.notes == (f"none of the first 2 files exists; relative paths start from {tmp_path}",)


def test_unused_columns_are_told(tmp_path: Path) -> None:
    source = open_source(manifest(tmp_path, "path,label,width,filename\na.jpg,x,3,old.jpg\n"))
    assert source.notes == ("2 columns not used: width, filename",)


def test_no_label_column_is_unlabelled_and_told_if_another_could_be_meant(tmp_path: Path) -> None:
    plain = open_source(manifest(tmp_path, "path,split\na.jpg,train\n"))
    assert (plain.target, plain.labels.tolist(), plain.notes) == (Target.NONE, [-1], ())
    other = open_source(manifest(tmp_path, "path,class\na.jpg,cat\n"))
    assert other.target is Target.NONE
    assert other.notes == ("no column is called label, so all pictures are unlabelled; not used: class",)


def test_empty_labels_are_no_labels(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label\na.jpg,\nb.jpg, \n")
    source = open_source(path)
    assert (source.target, source.labels.tolist()) == (Target.NONE, [-1, -1])
    assert source.notes == ("the label column is empty: all pictures are unlabelled",)
    with pytest.raises(SourceError, match="target class needs labels; the label column of .* is empty"):
        open_source(path, target="class")


def test_labels_can_be_declined(tmp_path: Path) -> None:
    source = open_source(manifest(tmp_path, "path,label\na.jpg,x;y\n"), target="none")
    assert (source.target, source.classes, source.labels.tolist()) == (Target.NONE, (), [-1])


# Multi-label and regression


def test_multilabel_is_seen_by_its_semicolons(tmp_path: Path) -> None:
    text = 'path,label\na.jpg,sun; sea\nb.jpg,\nc.jpg,sea;\nd.jpg,";"\n'
    source = open_source(manifest(tmp_path, text))
    assert (source.target, source.classes) == (Target.MULTILABEL, ("sea", "sun"))
    assert source.labels.dtype == np.uint8
    np.testing.assert_array_equal(source.labels, [[1, 1], [255, 255], [1, 0], [0, 0]])
    assert "labels hold several names (lists or ';'), so this is multi-label" in source.notes


def test_multilabel_can_be_asked_for_and_declined(tmp_path: Path) -> None:
    single = open_source(manifest(tmp_path, "path,label\na.jpg,x\nb.jpg,y\n"), target="multilabel")
    np.testing.assert_array_equal(single.labels, [[1, 0], [0, 1]])
    declined = open_source(manifest(tmp_path, "path,label\na.jpg,x;y\nb.jpg,y\n"), target="class")
    assert (declined.target, declined.classes) == (Target.CLASS, ("x;y", "y"))


def test_regression(tmp_path: Path) -> None:
    source = open_source(manifest(tmp_path, "path,label\na.jpg,1.5\nb.jpg,-2e3\nc.jpg,\n"), target="regression")
    assert (source.target, source.classes, source.labels.dtype) == (Target.REGRESSION, (), np.float32)
    np.testing.assert_array_equal(source.labels, np.array([1.5, -2000, np.nan], np.float32))


@pytest.mark.parametrize("value", ["tall", "1,5", "nan", "inf", "-Infinity", "1e39"])
def test_a_label_that_is_no_finite_number_is_named(tmp_path: Path, value: str) -> None:
    path = manifest(tmp_path, f'path,label\na.jpg,1\nb.jpg,"{value}"\n')
    with pytest.raises(SourceError, match=rf"row 3: expected a (finite float32 )?number as label, got '{value}'"):
        open_source(path, target=Target.REGRESSION)


def test_class_names_that_look_like_measurements_are_told(tmp_path: Path) -> None:
    (note,) = open_source(manifest(tmp_path, "path,label\na.jpg,1.5\nb.jpg,2.25\n")).notes
    assert note == "labels such as 1.5 are read as class names; for numbers use target regression"


# Refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a header"),
        ("path,label\n", "lists no pictures"),
        ("file,label\na.jpg,x\n", "has no column path or image_path or filename; .*: file, label$"),
        ("a.jpg,cat\nb.jpg,dog\n", "its first row names the columns: a.jpg, cat$"),
        ("path,label,Label\na.jpg,x,y\n", "two columns called label"),
        ("path,label\na.jpg,x\n,y\n", "row 3: expected a file name in column path, got ''"),
        ("path,label\na.jpg,x\n\nb.jpg,x,y\n", "row 4: 3 cells, but the header has 2"),
        ("path,label\na.jpg\n", "row 2: 1 cells, but the header has 2"),
        ("path,split\na.jpg,train\nb.jpg,dev\n", "row 3: split should be train, .* or empty, got 'dev'"),
        ("path,label\na.jpg,x\nb.jpg,y\na.jpg,z\n", "rows 2 and 4 both name a.jpg; list each picture once"),
        ("path\na.jpg\n./a.jpg\n", "rows 2 and 3 both name a.jpg"),
        ('path,label\na.jpg,"x\nb.jpg,y\n', "near row 2: unexpected end of data; is a quote missing"),
        (b"path,label\na.jpg,caf\xe9\n", "line 2: not UTF-8 .byte 0xe9.; save it in UTF-8"),
        ("path,label\na.jpg,x\n".encode("utf-16"), "is UTF-16; save it as CSV in UTF-8"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(manifest(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "list.csv" in str(caught.value)


@pytest.mark.parametrize("target", ["class", "multilabel", "regression"])
def test_a_target_without_a_label_column_lists_the_columns(tmp_path: Path, target: str) -> None:
    path = manifest(tmp_path, "path,class,age\na.jpg,x,3\n")
    with pytest.raises(
        SourceError, match=f"target {target} needs a column label; .* has the columns path, class, age$"
    ):
        open_source(path, target=target)


def test_many_duplicates_are_summed_up(tmp_path: Path) -> None:
    text = "path\n" + "a.jpg\n" * 10
    with pytest.raises(SourceError, match="rows 2 and 3 .*, rows 2 and 5 both name a.jpg and 6 more"):
        open_source(manifest(tmp_path, text))


# Parquet


def test_parquet_equals_csv(tmp_path: Path) -> None:
    columns = {
        "image_path": ["b.jpg", "a.jpg", "c.jpg"],
        "label": ["dog", "cat", None],
        "split": ["train", None, "val"],
        "width": [1, 2, 3],
    }
    source = open_source(parquet(tmp_path, columns))
    assert source.ids == ("b.jpg", "a.jpg", "c.jpg")
    assert names(source) == ["dog", "cat", None]
    assert source.splits.tolist() == [Split.TRAIN, Split.NONE, Split.VAL]
    assert "1 column not used: width" in source.notes
    assert source.read(1) == b"a"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([10, 9, None], ["10", "9", None]),
        ([1.0, 2.0, float("nan")], ["1", "2", None]),  # as pandas stores integers with one missing
        (["01", " x ", ""], ["01", "x", None]),
    ],
)
def test_parquet_class_labels_of_other_types(tmp_path: Path, labels: list[Any], expected: list[str | None]) -> None:
    source = open_source(parquet(tmp_path, {"path": ["a.jpg", "b.jpg", "c.jpg"], "label": labels}))
    assert names(source) == expected


def test_parquet_numbers_as_classes_are_told_unless_asked_for(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"path": ["a.jpg", "b.jpg", "c.jpg"], "label": [2.0, 1.0, None]})
    note = "label holds numbers, read as the class names 1, 2; --target regression treats them as values"
    assert note in open_source(path).notes
    assert note not in open_source(path, target="class").notes
    np.testing.assert_array_equal(open_source(path, target="regression").labels, np.float32([2, 1, np.nan]))
    whole = parquet(tmp_path, {"path": ["a.jpg", "b.jpg"], "label": [2, 1]})
    assert open_source(whole).notes == ()


def test_parquet_lists_are_multilabel(tmp_path: Path) -> None:
    labels = [["sun", "sea"], None, [], ["sea"]]
    source = open_source(parquet(tmp_path, {"path": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "label": labels}))
    assert (source.target, source.classes) == (Target.MULTILABEL, ("sea", "sun"))
    np.testing.assert_array_equal(source.labels, [[1, 1], [255, 255], [0, 0], [1, 0]])


def test_parquet_regression(tmp_path: Path) -> None:
    columns = {"path": ["a.jpg", "b.jpg", "c.jpg"], "label": [1.5, 2.5, None]}
    np.testing.assert_array_equal(
        open_source(parquet(tmp_path, columns), target="regression").labels, np.float32([1.5, 2.5, np.nan])
    )
    columns["label"] = [1.5, float("nan"), 1.0]
    with pytest.raises(SourceError, match="row 2: expected a finite float32 number as label, got nan"):
        open_source(parquet(tmp_path, columns), target="regression")


def test_parquet_refusals(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"row 2: expected a class name, got 2.5; for numbers use target regression"):
        open_source(parquet(tmp_path, {"path": ["a.jpg", "b.jpg"], "label": [1.0, 2.5]}))
    with pytest.raises(SourceError, match="row 1: expected a file name in column path, got 3"):
        open_source(parquet(tmp_path, {"path": [3]}))
    with pytest.raises(SourceError, match="has no column path or image_path or filename; .*: img, label"):
        open_source(parquet(tmp_path, {"img": ["a.jpg"], "label": ["x"]}))
    with pytest.raises(SourceError, match="lists no pictures"):
        open_source(parquet(tmp_path, {"path": []}))
    with pytest.raises(SourceError, match="cannot read .* as Parquet: "):
        open_source(manifest(tmp_path, "path\na.jpg\n", "list.parquet"))


@pytest.mark.realdata
def test_the_manifest_of_the_photo_tiles(realdata: Callable[[str], Path]) -> None:
    source = open_source(realdata("photo_tiles") / "manifest.csv")
    assert (len(source), len(source.classes), source.notes) == (1939, 36, ())
    assert set(source.splits.tolist()) == {Split.TRAIN, Split.TEST}
    assert source.read(0)[:2] == b"\xff\xd8"
