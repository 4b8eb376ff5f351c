import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tle import images
from tle.errors import ImageError
from tle.images import decode, load
from tle.preprocess import Preprocess

PREPROCESS = Preprocess(resize=36, crop=(32, 32), interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth, asymmetric picture that JPEG keeps well."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> NDArray[np.uint8]:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], transparent: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + (chunk(b"tRNS", transparent) if transparent else b"") + body


BROKEN_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x010F, 2, 5000, 90_000) + bytes(4)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(), format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image)
    np.testing.assert_array_equal(pixels(data), np.asarray(expected.convert("RGB")))
    assert decode(data).size == ((40, 60) if orientation > 4 else (60, 40))


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_unknown_orientation_counts_as_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(pixels(encode(photo(), "PNG", exif=exif)), np.asarray(photo()))


def test_broken_metadata_takes_nothing_from_the_pixels_and_warns_nobody() -> None:
    data = encode(photo(), "JPEG", exif=BROKEN_EXIF)
    with pytest.warns(UserWarning, match="EXIF|Skipping tag|Truncated File Read"):
        expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels(data), expected)  # warnings are errors here


# Colour


def test_rgb_is_what_pillow_decodes() -> None:
    data = encode(photo(500, 375), "JPEG", quality=90)
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))


def test_one_bit_and_grey() -> None:
    grey = photo().convert("L")
    np.testing.assert_array_equal(pixels(encode(grey, "PNG")), np.asarray(grey.convert("RGB")))
    bits = grey.convert("1")
    assert set(np.unique(pixels(encode(bits, "PNG")))) == {0, 255}
    np.testing.assert_array_equal(pixels(encode(bits, "PNG"))[..., 0], np.asarray(bits) * 255)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(format: str) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(200, 0, 0, 255), (200, 0, 0, 0), (100, 0, 0, 51)])
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    result = pixels(encode(image, format, **options))[0]
    np.testing.assert_array_equal(result[:2], [(200, 0, 0), (255, 255, 255)])
    np.testing.assert_allclose(result[2], (0.2 * 100 + 0.8 * 255, 0.8 * 255, 0.8 * 255), atol=1)


def test_grey_with_alpha() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(10, 255), (10, 0)])
    np.testing.assert_array_equal(pixels(encode(image, "PNG"))[0, :, 0], [10, 255])


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    result = pixels(encode(image, "PNG", transparency=transparency))[0]
    np.testing.assert_array_equal(result, [(10, 20, 30), (255, 255, 255), (70, 80, 90)])


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, b"\x80", 1, [255, 0]),
        (2, b"\x60", 1, [255, 170]),  # samples 1, 2
        (4, b"\x5a", 5, [255, 170]),  # samples 5, 10
        (8, b"\x05\x0a", 5, [255, 10]),
        (16, struct.pack(">HH", 1000, 2000), 1000, [255, 8]),
    ],
)
def test_grey_png_with_a_transparent_colour_at_every_depth(
    depth: int, row: bytes, key: int, expected: list[int]
) -> None:
    data = png(2, 1, depth, 0, [row], struct.pack(">H", key))
    np.testing.assert_array_equal(pixels(data)[0, :, 0], expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_rgb_png_with_a_transparent_colour(depth: int) -> None:
    samples = [1, 2, 3, 4, 5, 6] if depth == 8 else [257, 514, 771, 1028, 1285, 1542]
    row = bytes(samples) if depth == 8 else struct.pack(">6H", *samples)
    data = png(2, 1, depth, 2, [row], struct.pack(">3H", *samples[:3]))
    np.testing.assert_array_equal(pixels(data)[0], [(255, 255, 255), (4, 5, 6)])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_spans_black_to_white(format: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65535]], np.uint16)
    result = pixels(encode(Image.fromarray(values), format))
    np.testing.assert_array_equal(result[0, :, 0], [0, 0, 1, 1, 128, 254, 255])
    assert (result == result[..., :1]).all()


def test_16_bit_pgm_and_big_endian_tiff() -> None:
    values = np.array([[0, 32768, 65535]], np.uint16)
    pgm = b"P5 3 1 65535\n" + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels(pgm)[0, :, 0], [0, 128, 255])
    big = Image.frombytes("I;16B", (3, 1), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels(encode(big, "TIFF"))[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),  # white is 1
        ([0, 100, 255], [0, 100, 255]),  # whole numbers: white is 255
        ([0, 257, 65535], [0, 1, 255]),  # white is 65,535
        ([-1, 0, 3], [0, 64, 255]),  # nothing agreed: from minimum to maximum
        ([0, 1.5, 3], [0, 128, 255]),
        ([float("nan"), 0.5, float("inf")], [0, 128, 255]),
        ([float("nan")] * 3, [0, 0, 0]),
        ([-7, -7, -7], [0, 0, 0]),
    ],
)
def test_float_pictures(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    np.testing.assert_array_equal(pixels(encode(image, "TIFF"))[0, :, 0], expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 100, 255], [0, 100, 255]), ([0, 257, 60000], [0, 1, 233]), ([0, 2**30, 2**31 - 1], [0, 128, 255])],
)
def test_32_bit_pictures(values: list[int], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.int32))
    np.testing.assert_array_equal(pixels(encode(image, "TIFF"))[0, :, 0], expected)


def test_cmyk_jpeg_has_its_true_colours() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red; Pillow writes it inverted, as Adobe does
    np.testing.assert_allclose(pixels(encode(cmyk, "JPEG", quality=95))[8, 8], (255, 0, 0), atol=8)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "CMYK", "RGBX", "RGBa", "La", "PA", "LA", "I;16B"])
def test_every_mode_of_pillow_becomes_rgb(mode: str) -> None:
    base = photo().convert("RGBA")
    if mode == "La":
        image = base.convert("LA").convert("La")
    elif mode == "PA":
        image = base.convert("RGB").convert("P").convert("PA")
    elif mode == "I;16B":
        image = Image.frombytes("I;16B", (60, 40), bytes(60 * 40 * 2))
    else:
        image = base.convert(mode) if mode not in ("HSV", "LAB", "YCbCr") else base.convert("RGB").convert(mode)
    rgb = images._to_rgb(image)
    assert (rgb.mode, rgb.size) == ("RGB", (60, 40))
    if mode in ("YCbCr", "HSV", "LAB", "RGBX", "RGBa"):
        assert np.abs(np.asarray(rgb, int) - np.asarray(photo(), int)).mean() < 3


# Frames


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several_is_taken(format: str) -> None:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    data = encode(first, format, save_all=True, append_images=[second])
    np.testing.assert_allclose(pixels(data)[4, 4], (255, 0, 0), atol=4)


# load


def test_load_is_decode_and_resize_crop_into_a_batch() -> None:
    data = encode(photo(), "JPEG")
    batch = np.zeros((2, 32, 32, 3), np.uint8)
    result = load(data, PREPROCESS, out=batch[1])
    assert result.base is batch
    np.testing.assert_array_equal(batch[1], images.resize_crop(decode(data), PREPROCESS))
    assert not batch[0].any()
    with pytest.raises(ImageError, match="too many pixels"):
        load(data, PREPROCESS, max_pixels=100)


def test_decoder_is_named_with_its_libraries() -> None:
    assert images.DECODER == "pillow/1"
    versions = images.decoder_versions()
    assert versions["pillow"] == Image.__version__
    assert "libjpeg_turbo" in versions


# Real pictures


@pytest.mark.realdata
@pytest.mark.parametrize(
    "weights",
    ["MobileNet_V2_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2", "ViT_B_16_Weights.IMAGENET1K_V1"],
)
def test_real_jpegs_through_load_equal_the_transforms_of_the_weights(
    realdata: Callable[[str], Path], weights: str
) -> None:
    from torchvision import models

    transforms = models.get_weight(weights).transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    (resize,), (crop,) = transforms.resize_size, transforms.crop_size
    preprocess = Preprocess(
        resize=resize, crop=(crop, crop), interpolation=transforms.interpolation.value, mean=mean, std=std
    )
    files = sorted(realdata("art4apps").rglob("*.jpg"))[::30] + sorted(realdata("photo_tiles").rglob("*.jpg"))[::200]
    assert len(files) > 25
    for file in files:
        ours_HW3 = (load(file.read_bytes(), preprocess) / np.float32(255) - np.float32(mean)) / np.float32(std)
        with Image.open(file) as image:
            theirs_3HW = transforms(image.convert("RGB")).numpy()
        np.testing.assert_allclose(ours_HW3.transpose(2, 0, 1), theirs_3HW, rtol=0, atol=1e-6)


@pytest.mark.realdata
def test_whatever_pillow_opens_of_its_own_odd_files_becomes_pixels(realdata: Callable[[str], Path]) -> None:
    from tle.benchmarks import odd_images

    outcomes = list(odd_images.run(realdata("pillow_images")))
    assert len(outcomes) > 700
    assert sum(outcome.row for outcome in outcomes) > 600
    assert [outcome for outcome in outcomes if outcome.lost] == []
    assert [outcome for outcome in outcomes if outcome.reason.startswith(("CRASH", "HANG"))] == []
    assert all(outcome.row or outcome.reason for outcome in outcomes)
