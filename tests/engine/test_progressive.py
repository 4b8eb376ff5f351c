import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from tle.jpeg import read_header
from tle.progressive import Component, block_pixels, drop_unused_scans


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Large shapes under fine noise: coefficients of every kind."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(small, np.int16) + rng.integers(-20, 21, (height, width, 3), dtype=np.int16)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def eighth(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, "RGB", min_width=-(-width // 8), min_height=-(-height // 8)
    )
    assert pixels.shape == (-(-height // 8), -(-width // 8), 3)
    return pixels


def reduced(data: bytes, denominator: int = 8) -> bytes | None:
    header = read_header(data)
    assert header is not None
    assert header.progressive
    return drop_unused_scans(data, (header.height, header.width), header.components, denominator)


YUV_420 = (Component(1, 2, 2), Component(2, 1, 1), Component(3, 1, 1))
YUV_422 = (Component(1, 2, 1), Component(2, 1, 1), Component(3, 1, 1))


@pytest.mark.parametrize(
    ("components", "denominator", "expected"),
    [(YUV_420, 8, [1, 2, 2]), (YUV_420, 4, [2, 4, 4]), (YUV_420, 1, [8, 8, 8]), (YUV_422, 8, [1, 1, 1])],
)
def test_block_pixels(components: tuple[Component, ...], denominator: int, expected: list[int]) -> None:
    assert [block_pixels(component, components, denominator) for component in components] == expected


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(640, 480), (641, 487), (1000, 65), (64, 64), (2050, 1537)])
def test_an_eighth_without_the_unused_scans_is_the_same_to_the_bit(subsampling: str, size: tuple[int, int]) -> None:
    data = encode(photo(*size), progressive=True, subsampling=subsampling, quality=92)
    shorter = reduced(data)
    assert shorter is not None
    assert len(shorter) < 0.6 * len(data)
    np.testing.assert_array_equal(eighth(shorter, *size), eighth(data, *size))


def test_grey_and_restart_intervals() -> None:
    grey = encode(photo(640, 480).convert("L"), progressive=True)
    shorter = reduced(grey)
    assert shorter is not None
    np.testing.assert_array_equal(eighth(shorter, 640, 480), eighth(grey, 640, 480))
    restarts = encode(photo(640, 480), progressive=True, restart_marker_blocks=5)
    shorter = reduced(restarts)
    assert shorter is not None
    assert len(shorter) < len(restarts)
    np.testing.assert_array_equal(eighth(shorter, 640, 480), eighth(restarts, 640, 480))


def test_nothing_is_cut_where_all_is_looked_at() -> None:
    data = encode(photo(640, 480), progressive=True)
    assert reduced(data, 4) is data
    assert reduced(data, 1) is data


def test_an_incomplete_file_is_left_to_the_exact_decoder() -> None:
    data = encode(photo(160, 120), progressive=True)
    header = read_header(data)
    assert header is not None
    for size in range(len(data) - 1):
        assert drop_unused_scans(data[:size], (120, 160), header.components, 8) is None, size
    assert drop_unused_scans(data + b"trailing bytes", (120, 160), header.components, 8) is not None


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (4, 2),  # two components in an AC scan
        (5, 77),  # a component that is not in the frame
        (6, 0x03),  # a table that was never defined
        (7, 64),  # a band that starts behind the last coefficient
        (9, 0x0E),  # a shift of 14 bits
        (9, 0x31),  # bits 3 to 1 in one scan
    ],
)
def test_a_scan_that_libjpeg_refuses_is_not_cut(offset: int, value: int) -> None:
    data = bytearray(encode(photo(160, 120), progressive=True, subsampling="4:4:4"))
    last = data.rindex(b"\xff\xda")
    data[last + offset] = value
    assert reduced(bytes(data)) is None
