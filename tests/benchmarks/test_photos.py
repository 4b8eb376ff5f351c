from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tle.benchmarks import photos, registries


def test_every_photo_gives_one_window_in_turn() -> None:
    a, b = Path("a"), Path("b")
    windows = {a: [(n, 0, 1, 1) for n in range(5)], b: [(n, 0, 1, 1) for n in range(2)]}
    assert {path: len(own) for path, own in photos._in_turn(windows, 6).items()} == {a: 4, b: 2}
    with pytest.raises(registries.DatasetUnavailableError, match="room for 8 pictures in the photos, found 7"):
        photos._in_turn(windows, 8)


@pytest.mark.parametrize("size", [(6028, 3391), (4272, 2848), (2880, 2160), (2056, 3088)])
def test_large_windows_are_of_5_to_12_megapixels_and_inside(size: tuple[int, int]) -> None:
    windows = photos._large_windows(*size)
    assert len(windows) == len(set(windows)) >= 6
    for left, top, right, bottom in windows:
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        assert 5e6 < (right - left) * (bottom - top) <= 12e6


def test_small_photos_have_no_large_window() -> None:
    assert photos._large_windows(2560, 1600) == []


@pytest.mark.realdata
def test_crops(realdata: Callable[[str], Path]) -> None:
    realdata("wallpapers")
    files = sorted(photos.crops().rglob("*.jpg"))
    assert len(files) == len({file.read_bytes() for file in files}) == photos.N_CROPS
    with Image.open(files[0]) as image:
        assert (image.format, image.size) == ("JPEG", photos.CROP)


@pytest.mark.realdata
def test_small(realdata: Callable[[str], Path]) -> None:
    realdata("photo_tiles")
    files = sorted(photos.small(1000).rglob("*.jpg"))
    assert len(files) == 1000
    with Image.open(files[-1]) as image:
        assert image.size == (photos.SMALL, photos.SMALL)
