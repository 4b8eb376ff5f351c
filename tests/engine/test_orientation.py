import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tle.orientation import UPRIGHT, orientation_of, parse_exif, turn_of

PIXELS = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)


def exif_body(order: str, entries: list[tuple[int, int, int, int]]) -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    return b"Exif\0\0" + head + struct.pack(order + "IH", 8, len(entries)) + body + bytes(4)


def short(order: str, value: int) -> int:
    return value if order == "<" else value << 16


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turn_is_what_pillow_transposes(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
    turn = turn_of(orientation)
    turned = PIXELS.swapaxes(0, 1) if turn.swap else PIXELS
    turned = turned[::-1] if turn.mirror_rows else turned
    turned = turned[:, ::-1] if turn.mirror_columns else turned
    np.testing.assert_array_equal(turned, expected)


@pytest.mark.parametrize("orientation", [0, 1, 9, None, "6", (6,)])
def test_anything_else_is_upright(orientation: Any) -> None:
    assert turn_of(orientation) == UPRIGHT


@pytest.mark.parametrize("order", ["<", ">"])
def test_parse_exif(order: str) -> None:
    assert parse_exif(exif_body(order, [(0x010F, 2, 4, 0), (0x0112, 3, 1, short(order, 6))])) == 6
    assert parse_exif(exif_body(order, [(0x010F, 2, 4, 0)])) == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "entry",
    [
        (0x0112, 4, 1, 6),  # another type
        (0x0112, 3, 2, 6),  # two values
        (0x0112, 3, 0, 6),  # none
        (0x010F, 2, 5000, 90_000),  # a value that lies outside
        (0x010F, 77, 1, 0),  # an unknown type
    ],
)
def test_parse_exif_leaves_the_unusual_to_pillow(order: str, entry: tuple[int, int, int, int]) -> None:
    assert parse_exif(exif_body(order, [entry])) is None
    assert parse_exif(exif_body(order, [(0x0112, 3, 1, short(order, 6)), entry])) is None


def test_parse_exif_of_a_cut_segment() -> None:
    body = exif_body("<", [(0x0112, 3, 1, 6), (0x010F, 2, 4, 0)])
    assert all(parse_exif(body[:size]) is None for size in range(len(body) - 4))
    assert parse_exif(b"Exif\0\0" + b"XX" + body[8:]) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_parse_exif_agrees_with_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = orientation, "a camera", 72.0
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", exif=exif)
    with Image.open(buffer) as image:
        assert orientation_of(image) == parse_exif(image.info["exif"]) == orientation
