import sys
from pathlib import Path

import pytest

from tle.errors import MissingPackageError, SourceError
from tle.sources.table import read_csv, read_parquet

WANTED, REQUIRED = ("path", "label"), ("path",)


def table(folder: Path, content: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_only_wanted_columns_are_kept_whatever_the_delimiter(tmp_path: Path, delimiter: str) -> None:
    text = "Path,width, LABEL \r\na.jpg,3,cat\r\nb.jpg,4,\r\n".replace(",", delimiter)
    found = read_csv(table(tmp_path, b"\xef\xbb\xbf" + text.encode()), WANTED, REQUIRED)
    assert found.names == ("Path", "width", "LABEL")
    assert found.columns == {"path": ["a.jpg", "b.jpg"], "label": ["cat", ""]}
    assert bool(found.notes) == (delimiter != ",")


def test_rows_are_counted_as_a_spreadsheet_shows_them(tmp_path: Path) -> None:
    found = read_csv(table(tmp_path, 'path,label\n\n"a\nb.jpg",x\nc.jpg,y\n'), WANTED, REQUIRED)
    assert found.columns["path"] == ["a\nb.jpg", "c.jpg"]
    assert list(found.rows) == [3, 4]


def test_an_ambiguous_delimiter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="can be read with commas and semicolons"):
        read_csv(table(tmp_path, "path,x;path\na.jpg,1;2\n"), WANTED, REQUIRED)


def test_a_cell_with_the_delimiter_needs_quotes(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="row 2: 3 cells, but the header has 2; a cell that holds commas"):
        read_csv(table(tmp_path, "path,label\na.jpg,cat, black\n"), WANTED, REQUIRED)
    found = read_csv(table(tmp_path, 'path,label\na.jpg,"cat, black"\n'), WANTED, REQUIRED)
    assert found.columns["label"] == ["cat, black"]


def test_a_folder_in_the_place_of_the_table(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read the manifest .*: Is a directory"):
        read_csv(tmp_path, WANTED, REQUIRED)


def test_parquet_keeps_types_and_nulls(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "list.parquet"
    parquet.write_table(pyarrow.table({"Path": ["a", None], "label": [["x"], []], "width": [1, 2]}), path)
    found = read_parquet(path, WANTED, REQUIRED)
    assert found.columns == {"path": ["a", None], "label": [["x"], []]}
    assert list(found.rows) == [1, 2]
    with pytest.raises(SourceError, match="has no column img; .*: Path, label, width$"):
        read_parquet(path, ("img",), ("img",))


def test_without_pyarrow_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(MissingPackageError, match=r"list\.parquet needs pyarrow: pip install pyarrow$"):
        read_parquet(table(tmp_path, b"", "list.parquet"), WANTED, REQUIRED)
