"""Bad pictures, and the state of the process around decoding."""

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from tle import images
from tle.errors import ImageError
from tle.images import decode


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth, asymmetric picture that JPEG keeps well."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], transparent: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"tRNS", transparent) if transparent else b"") + body


BROKEN_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x010F, 2, 5000, 90_000) + bytes(4)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_picture_is_refused(format: str, share: float) -> None:
    data = encode(photo(200, 150), format)
    assert decode(data).size == (200, 150)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(share * len(data))])
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_and_foreign_files_have_plain_reasons() -> None:
    with pytest.raises(ImageError, match=r"^empty file \(0 bytes\)$"):
        decode(b"")
    with pytest.raises(ImageError, match=r"^not a picture .* bytes 3c 21 64 6f 63 74 79 70\)$"):
        decode(b"<!doctype html><title>404</title>")


def test_too_many_pixels_is_told_by_the_header_alone() -> None:
    header_only = png(60_000, 50_000, 8, 2, [])  # decoding it would fail for lack of data, or of memory
    with pytest.raises(ImageError, match=r"^too many pixels: 3000000000, more than the 178956970 allowed$"):
        decode(header_only)
    with pytest.raises(ImageError, match=r"^too many pixels: 60 x 40 = 2400, more than the 2399 allowed$"):
        decode(encode(photo(), "PNG"), max_pixels=2399)
    assert decode(encode(photo(), "PNG"), max_pixels=2400).size == (60, 40)


def test_pillows_own_limit_does_not_interfere(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo(), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # plain Pillow would warn
    assert decode(data).size == (60, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # plain Pillow would refuse
    with ThreadPoolExecutor(8) as pool:
        sizes = set(pool.map(lambda _: decode(data).size, range(200)))
    assert sizes == {(60, 40)}
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.fixture
def raising() -> Iterator[Callable[[BaseException], bytes]]:
    """A function that makes the bytes of a picture whose decoder raises a given exception."""
    error: list[BaseException] = []

    class Plugin(ImageFile.ImageFile):
        format = "TLETEST"
        format_description = "raises"

        def _open(self) -> None:
            self._size, self._mode = (4, 4), "RGB"

        def load(self) -> Any:
            raise error[0]

    def make(exception: BaseException) -> bytes:
        error[:] = [exception]
        return b"TLETEST"

    images.load_plugins()
    Image.register_open("TLETEST", Plugin, lambda prefix: prefix.startswith(b"TLETEST"))
    yield make
    Image.ID.remove("TLETEST")
    del Image.OPEN["TLETEST"]


@pytest.mark.parametrize(
    ("exception", "reason"),
    [
        (OSError("image file is truncated"), "image file is truncated"),
        (SyntaxError("broken\n  PNG file"), "broken PNG file"),
        (ValueError(), "cannot be decoded: ValueError"),
        (MemoryError(), "cannot be decoded: MemoryError"),
        (struct.error("unpack requires 4 bytes"), "struct.error: unpack requires 4 bytes"),
        (zlib.error("Error -3"), "zlib.error: Error -3"),
        (KeyError("Huffman"), "KeyError: 'Huffman'"),
        (IndexError("list index out of range"), "IndexError: list index out of range"),
        (RecursionError("deep"), "RecursionError: deep"),
        (OverflowError("big"), "OverflowError: big"),
        (AttributeError("x"), "AttributeError: x"),
        (TypeError("y"), "TypeError: y"),
        (EOFError(), "cannot be decoded: EOFError"),
        (SystemError("tile cannot extend outside image"), "SystemError: tile cannot extend outside image"),
        (NotImplementedError("z"), "NotImplementedError: z"),
        (ValueError("x" * 5000), "x" * 197 + "..."),
    ],
)
def test_whatever_a_decoder_raises_becomes_a_reason(
    raising: Callable[[BaseException], bytes], exception: BaseException, reason: str
) -> None:
    with pytest.raises(ImageError) as caught:
        decode(raising(exception))
    assert str(caught.value) == reason
    assert caught.value.__cause__ is exception


def test_an_interrupt_is_no_bad_picture(raising: Callable[[BaseException], bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        decode(raising(KeyboardInterrupt()))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_damaged_bytes_give_pixels_or_a_reason(format: str) -> None:
    rng = np.random.default_rng(0)
    good = np.frombuffer(encode(photo(), format, exif=BROKEN_EXIF[6:] if format == "PNG" else b""), np.uint8)
    reasons = []
    for _ in range(60):
        data = good.copy()
        places = rng.integers(0, len(data), rng.integers(1, 9))
        data[places] = rng.integers(0, 256, len(places))
        try:
            assert decode(data.tobytes(), max_pixels=1_000_000).mode == "RGB"
        except ImageError as error:
            reasons.append(str(error))
    assert len(reasons) < 60
    assert all(0 < len(reason) <= 200 and "\n" not in reason for reason in reasons)


# Threads and process state


def test_threads_decode_alike_and_silently_under_errors_for_warnings() -> None:
    good = [encode(photo(80, 60, seed), "JPEG", exif=BROKEN_EXIF if seed % 2 else b"") for seed in range(16)]
    expected = [np.asarray(decode(data)) for data in good]
    start = threading.Barrier(8)

    def work(_: int) -> None:
        start.wait()
        for data, pixels in zip(good * 3, expected * 3, strict=True):
            np.testing.assert_array_equal(np.asarray(decode(data)), pixels)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))


def test_a_fresh_process_decodes_rare_formats_in_many_threads_without_a_word(tmp_path: Path) -> None:
    # Pillow registers rare formats at the first file that needs one; the first files come in several threads here.
    sgi, broken = tmp_path / "a.sgi", tmp_path / "b.jpg"
    sgi.write_bytes(encode(photo(), "SGI"))
    broken.write_bytes(encode(photo(), "JPEG", exif=BROKEN_EXIF))
    code = (
        "import pathlib, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from tle.images import decode\n"
        "files = [pathlib.Path(name).read_bytes() for name in sys.argv[1:]] * 20\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    print(set(pool.map(lambda data: decode(data).size, files)), 'torch' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, sgi, broken], capture_output=True, text=True, check=True
    )
    assert result.stdout == "{(60, 40)} False\n"
    assert result.stderr == ""


def test_truncated_pictures_stay_a_choice_of_the_program() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    with pytest.raises(ImageError, match="truncated"):
        decode(encode(photo(200, 150), "JPEG")[:-500])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_png_text_bombs_are_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    with pytest.raises(ImageError, match="too large"):
        decode(encode(photo(), "PNG", pnginfo=info))
