import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tle import jpeg
from tle.jpeg import Header, decode, denominator, read_header


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth, asymmetric picture that JPEG keeps well."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def header_of(data: bytes) -> Header:
    header = read_header(data)
    assert header is not None
    return header


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body


def inserted(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + segment(marker, body) + data[2:]


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pixels(data: bytes, scale: int = 1) -> NDArray[np.uint8] | None:
    result = decode(data, header_of(data), scale)
    return None if result is None else result.copy()


# Header


def test_read_header() -> None:
    header = header_of(encode(photo(), subsampling="4:2:0"))
    assert (header.height, header.width, header.progressive, header.orientation) == (40, 60, False, 1)
    assert [(c.number, c.across, c.down) for c in header.components] == [(1, 2, 2), (2, 1, 1), (3, 1, 1)]
    grey = header_of(encode(photo().convert("L"), progressive=True))
    assert (len(grey.components), grey.progressive) == (1, True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_header_knows_the_orientation(orientation: int) -> None:
    assert header_of(encode(photo(), exif=exif_of(orientation))).orientation == orientation


def test_odd_metadata_is_for_pillow() -> None:
    data = encode(photo())
    once = encode(photo(), exif=exif_of(6))
    body = exif_of(6).tobytes()
    assert header_of(inserted(once, 0xE1, body)).orientation is None  # two Exif segments
    assert header_of(inserted(data, 0xE1, b"Exif\0\0nonsense")).orientation is None
    assert header_of(inserted(data, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")).orientation is None
    assert header_of(inserted(once, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")).orientation is None
    assert header_of(inserted(data, 0xE2, b"MPF\0")).orientation is None
    assert header_of(inserted(data, 0xED, b"Photoshop 3.0\0" + b"8BIM")).orientation is None
    assert header_of(inserted(data, 0xEE, b"Adobe")).orientation is None
    assert header_of(inserted(data, 0xE2, b"ICC_PROFILE\0\1\1" + bytes(200))).orientation == 1
    assert header_of(inserted(data, 0xFE, b"a comment")).orientation == 1


def test_all_else_is_not_read() -> None:
    data = encode(photo())
    for format in ("PNG", "WEBP", "GIF", "BMP", "TIFF"):
        assert read_header(encode(photo(), format)) is None
    assert read_header(encode(photo().convert("CMYK"))) is None
    assert read_header(inserted(data, 0xC8, b"")) is None  # an unknown segment
    assert read_header(data.replace(b"\xff\xc0", b"\xff\xc9")) is None  # arithmetic coding
    assert read_header(data[:2] + b"\xff" + data[2:]) is None  # a fill byte
    at = data.index(b"\xff\xc0")
    assert read_header(data[:at] + data[at : at + 19] + data[at:]) is None  # two frames
    assert read_header(data[: at + 4] + b"\x0c" + data[at + 5 :]) is None  # 12 bits
    assert all(read_header(data[:size]) is None for size in range(data.index(b"\xff\xda")))


# Decoding


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (60, 40), (257, 131)])
def test_full_size_is_what_pillow_decodes(size: tuple[int, int], subsampling: str, progressive: bool) -> None:
    data = encode(photo(*size), subsampling=subsampling, progressive=progressive, restart_marker_blocks=3)
    result = pixels(data)
    assert result is not None
    np.testing.assert_array_equal(result, np.asarray(Image.open(io.BytesIO(data))))


def test_grey_and_rgb_coded() -> None:
    grey = encode(photo().convert("L"))
    np.testing.assert_array_equal(pixels(grey), np.asarray(Image.open(io.BytesIO(grey)).convert("RGB")))
    rgb = encode(photo(), keep_rgb=True)
    np.testing.assert_array_equal(pixels(rgb), np.asarray(Image.open(io.BytesIO(rgb))))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("size", [(640, 480), (641, 487)])
def test_a_scale_is_what_pillow_drafts(scale: int, size: tuple[int, int], subsampling: str, progressive: bool) -> None:
    data = encode(photo(*size), subsampling=subsampling, progressive=progressive)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (size[0] // scale, size[1] // scale))
        expected = np.asarray(image)
    assert expected.shape == (-(-size[1] // scale), -(-size[0] // scale), 3)
    np.testing.assert_array_equal(pixels(data, scale), expected)


def test_what_libjpeg_only_warns_of_is_refused() -> None:
    data = encode(photo(600, 400), quality=95)
    middle = len(data) // 2
    assert pixels(data[:-2]) is None
    assert pixels(data[:middle] + b"\xff\xd9") is None
    assert pixels(data[:middle] + b"\xff\xd3" + data[middle:]) is None


def test_large_pictures_are_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo(64, 64))
    monkeypatch.setattr(jpeg, "_KEPT_BYTES", 100)
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))


# Scale


def test_denominator_keeps_the_oversampling() -> None:
    k = jpeg.MIN_OVERSAMPLING
    for scale in (2, 4, 8):
        side = int(np.ceil(scale * k * 256))
        assert denominator(side, side, (256, 256)) == scale
        assert denominator(side - 1, side + 100, (256, 256)) == max(scale // 2, 1)
        assert denominator(side + 100, side - 1, (256, 256)) == max(scale // 2, 1)
    assert denominator(375, 500, (256, 341)) == 1
    assert denominator(100_000, 100_000, (1, 1)) == 8
    assert denominator(60, 100_000, (1, 1)) == 1
