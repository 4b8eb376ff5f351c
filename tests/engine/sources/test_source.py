import os
from pathlib import Path

import numpy as np
import pytest

from tle.errors import ImageError
from tle.sources import open_source
from tle.sources.source import class_labels, plural, printable, some


def test_a_picture_is_read_whole_from_where_its_path_says(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_bytes(b"\xff\xd8 and the rest")
    source = open_source(tmp_path)
    assert source.path(0) == tmp_path / "cat" / "a.jpg"
    assert source.read(0) == b"\xff\xd8 and the rest"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="^not a regular file$"):
        open_source(tmp_path).read(0)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "list.csv").write_text("path\nfolder\n", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ImageError, match="^a folder, not a file$"):
        open_source(tmp_path / "list.csv").read(0)


def test_a_file_that_vanished_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    source = open_source(tmp_path)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ImageError, match="^no such file$"):
        source.read(0)
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="^a link to a file that does not exist$"):
        source.read(0)


def test_an_enormous_file_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(3 << 30)  # sparse
    with pytest.raises(ImageError, match="^file of 3221225472 bytes, more than"):
        open_source(tmp_path).read(0)


def test_class_labels_are_sorted_by_code_point_and_none_is_unlabelled() -> None:
    labels, classes = class_labels(["b", None, "a", "Z", "b"])
    assert classes == ("Z", "a", "b")
    np.testing.assert_array_equal(labels, [2, -1, 1, 0, 2])
    assert class_labels([None])[1] == ()


def test_names_in_messages_stay_short_and_on_one_line() -> None:
    assert (plural(1, "class"), plural(1234, "file"), plural(2, "class")) == ("1 class", "1,234 files", "2 classes")
    assert some(["a", "b"]) == "a, b"
    assert some(["a", "b\n", "c", "d", "e"]) == "a, b\\n, c and 2 more"
    assert printable("caf\u00e9\x1b[31m\udcff") == "caf\u00e9\\x1b[31m\\udcff"
