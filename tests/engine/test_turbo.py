import io
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tle import images, jpeg
from tle.errors import ImageError, ShapeError, UsageError
from tle.images import EXACT_DECODER, FAST_DECODER, load
from tle.preprocess import INTERPOLATIONS, Preprocess


def preprocess(
    resize: int | tuple[int, int] | None = 36, crop: tuple[int, int] = (32, 32), interpolation: str = "bilinear"
) -> Preprocess:
    return Preprocess(resize=resize, crop=crop, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1))


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth, asymmetric picture that JPEG keeps well."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def difference(data: bytes, how: Preprocess) -> int:
    """The largest difference of the two decoders in levels."""
    exact, fast = load(data, how).astype(int), load(data, how, decoder=FAST_DECODER)
    assert (fast.dtype, fast.shape) == (np.uint8, exact.shape)
    return int(np.abs(exact - fast).max())


def outcome(data: bytes, decoder: str, how: Preprocess | None = None) -> str:
    try:
        load(data, how or preprocess(), decoder=decoder)
    except ImageError as error:
        return str(error)
    return "good"


# Pixels


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_full_size_pictures_are_within_a_level(interpolation: str, subsampling: str, progressive: bool) -> None:
    data = encode(photo(61, 43), subsampling=subsampling, progressive=progressive)
    assert difference(data, preprocess(interpolation=interpolation)) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(61, 43), (43, 61), (60, 41), (41, 41)])
@pytest.mark.parametrize(
    "how",
    [
        preprocess(),
        preprocess(crop=(33, 21)),
        preprocess(crop=(80, 31)),
        preprocess((30, 37), (27, 24)),
        preprocess((70, 31), (27, 24), "bicubic"),
        preprocess(None, (30, 29)),
        preprocess(None, (77, 70)),
    ],
)
def test_every_orientation_at_odd_sizes(orientation: int, size: tuple[int, int], how: Preprocess) -> None:
    data = encode(photo(*size), exif=exif_of(orientation))
    assert difference(data, how) <= 1


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(2048, 1536), (2051, 1541)])
def test_large_pictures_are_decoded_at_a_scale_and_stay_close(
    size: tuple[int, int], progressive: bool, orientation: int
) -> None:
    data = encode(photo(*size), progressive=progressive, exif=exif_of(orientation))
    for resize in (32, 64, 190):
        assert jpeg.denominator(size[1], size[0], (resize, resize * size[0] // size[1])) > 1
        assert difference(data, preprocess(resize, (resize, resize))) <= 3


def test_orientation_from_xmp() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encode(photo(61, 43), xmp=xmp)
    assert difference(data, preprocess()) <= 1
    assert np.abs(load(data, preprocess()).astype(int) - load(encode(photo(61, 43)), preprocess())).max() > 20


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 7), (8, 8), (9, 3)])
@pytest.mark.parametrize("how", [preprocess(), preprocess(None), preprocess(1, (1, 1)), preprocess((3, 2), (2, 2))])
def test_tiny_pictures(size: tuple[int, int], how: Preprocess) -> None:
    assert difference(encode(photo(*size)), how) <= 1


@pytest.mark.parametrize("size", [(1, 9000), (9000, 1), (12_000, 8)])
def test_thin_pictures_are_exact(size: tuple[int, int]) -> None:
    how = preprocess(256, (224, 224))
    assert difference(encode(photo(*size)), how) == 0


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_exact(format: str) -> None:
    assert difference(encode(photo(), format), preprocess()) == 0


def test_rare_jpegs_are_exact() -> None:
    assert difference(encode(photo().convert("CMYK")), preprocess()) == 0


def test_grey_jpegs() -> None:
    assert difference(encode(photo().convert("L")), preprocess()) <= 1


def test_damaged_bits_are_what_the_exact_decoder_makes_of_them() -> None:
    data = bytearray(encode(photo(600, 400), quality=95))
    data[len(data) // 2 : len(data) // 2 + 2] = b"\xff\xd3"
    assert outcome(bytes(data), EXACT_DECODER) == "good"  # a warning to libjpeg, which Pillow does not pass on
    assert difference(bytes(data), preprocess()) == 0


# Out, limits, errors


def test_out_is_a_row_of_a_batch() -> None:
    batch = np.full((2, 32, 32, 3), 9, np.uint8)
    data = encode(photo())
    result = load(data, preprocess(), decoder=FAST_DECODER, out=batch[1])
    assert result.base is batch
    np.testing.assert_array_equal(batch[1], load(data, preprocess(), decoder=FAST_DECODER))
    assert (batch[0] == 9).all()
    padded = np.full((50, 70, 3), 9, np.uint8)
    load(data, preprocess(None, (50, 70)), decoder=FAST_DECODER, out=padded)
    np.testing.assert_array_equal(padded, load(data, preprocess(None, (50, 70))))
    with pytest.raises(ShapeError, match=r"out should be \(32, 32, 3\) uint8"):
        load(data, preprocess(), decoder=FAST_DECODER, out=np.empty((32, 31, 3), np.uint8))


def test_the_result_is_the_callers() -> None:
    first = load(encode(photo(seed=1)), preprocess(None, (40, 60)), decoder=FAST_DECODER)
    kept = first.copy()
    load(encode(photo(seed=2)), preprocess(None, (40, 60)), decoder=FAST_DECODER)
    np.testing.assert_array_equal(first, kept)


def test_an_unknown_decoder_is_told() -> None:
    with pytest.raises(UsageError, match=r"^decoder should be one of pillow/1, turbo/1, got 'turbo'$"):
        load(encode(photo()), preprocess(), decoder="turbo")
    assert images.DECODER == EXACT_DECODER


def test_too_many_pixels() -> None:
    data = encode(photo())
    with pytest.raises(ImageError, match=r"^too many pixels: 60 x 40 = 2400, more than the 2399 allowed$"):
        load(data, preprocess(), decoder=FAST_DECODER, max_pixels=2399)
    load(data, preprocess(), decoder=FAST_DECODER, max_pixels=2400)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_beginning_of_a_file_is_as_bad_to_both(mode: str, progressive: bool) -> None:
    image = photo(160, 130).convert(mode)
    data = encode(image, progressive=progressive, exif=exif_of(6), restart_marker_blocks=7)
    small = preprocess(4, (4, 4))  # decoded at 1/8, without the unused scans
    assert jpeg.denominator(130, 160, (4, 4)) == 8
    for size in range(len(data)):
        reason = outcome(data[:size], FAST_DECODER, small)
        assert reason == outcome(data[:size], EXACT_DECODER, small)
        assert reason != "good"
    assert outcome(data, FAST_DECODER, small) == outcome(data + b"more", FAST_DECODER, small) == "good"


@pytest.mark.parametrize("progressive", [False, True])
def test_every_changed_byte_of_a_header_is_as_bad_to_both(progressive: bool) -> None:
    data = encode(photo(160, 130), progressive=progressive, exif=exif_of(6))
    small = preprocess(4, (4, 4))
    scans = [match.start() for match in re.finditer(rb"\xff[\xda\xc4]", data)]
    places = {*range(data.index(b"\xff\xda") + 14), *(scan + i for scan in scans for i in range(16))}
    for at in sorted(places):
        for value in (0x00, 0x01, 0x7F, 0xFF):
            changed = data[:at] + bytes((value,)) + data[at + 1 :]
            fast, exact = outcome(changed, FAST_DECODER, small), outcome(changed, EXACT_DECODER, small)
            assert fast == exact, (at, value)


# Threads


def test_many_threads_at_once() -> None:
    files = [encode(photo(300 + 7 * seed, 200 + 5 * seed, seed), progressive=bool(seed % 2)) for seed in range(16)]
    how = preprocess(64, (64, 64))
    expected = [load(data, how, decoder=FAST_DECODER) for data in files]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: load(files[i % 16], how, decoder=FAST_DECODER), range(400)))
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result, expected[i % 16])


def test_decoding_leaves_torch_and_the_number_of_threads_alone() -> None:
    import torch

    threads, before = torch.get_num_threads(), threading.active_count()
    load(encode(photo(600, 400)), preprocess(256, (224, 224)), decoder=FAST_DECODER)
    assert torch.get_num_threads() == threads
    assert threading.active_count() == before


# Real pictures


@pytest.mark.realdata
def test_pillows_odd_files_are_good_or_bad_to_both(realdata: Callable[[str], Path]) -> None:
    files = sorted(
        path for path in realdata("pillow_images").rglob("*") if path.is_file() and path.stat().st_size < 1 << 22
    )
    jpegs = [data for path in files if (data := path.read_bytes())[:2] == b"\xff\xd8"]
    assert len(jpegs) > 60
    how = preprocess(64, (56, 56))
    for data in jpegs:
        assert outcome(data, FAST_DECODER, how) == outcome(data, EXACT_DECODER, how)


@pytest.mark.realdata
def test_real_photos_are_close(realdata: Callable[[str], Path]) -> None:
    how = preprocess(256, (224, 224))
    for path in sorted(realdata("wallpapers").iterdir())[::4]:
        data = path.read_bytes()
        exact, fast = load(data, how).astype(int), load(data, how, decoder=FAST_DECODER).astype(int)
        assert np.abs(exact - fast).mean() < 1
