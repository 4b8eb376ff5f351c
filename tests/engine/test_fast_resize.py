import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tle import fast_resize
from tle.fast_resize import INTERPOLATIONS, resize_window
from tle.resampling import Window, crop_window


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow(
    pixels: NDArray[np.uint8], size: tuple[int, int], rows: Window, columns: Window, method: str
) -> NDArray[np.int64]:
    resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling[method.upper()])
    rows_kept = slice(rows.source, rows.source + rows.length)
    return np.asarray(resized, np.int64)[rows_kept, columns.source : columns.source + columns.length]


SHAPES = [
    ((375, 500), (256, 341)),
    ((500, 375), (341, 256)),
    ((1025, 767), (256, 191)),
    ((257, 333), (256, 331)),
    ((255, 333), (256, 334)),  # enlarged a little
    ((33, 47), (256, 364)),
    ((1, 1), (8, 8)),
    ((1, 300), (8, 2400)),
    ((64, 64), (64, 32)),  # one axis as it is
    ((64, 64), (32, 64)),
    ((64, 64), (96, 32)),
    ((64, 64), (32, 96)),
    ((100, 900), (64, 576)),  # columns cut
    ((199, 200), (198, 199)),
]


@pytest.mark.parametrize("method", sorted(INTERPOLATIONS))
@pytest.mark.parametrize(("before", "after"), SHAPES)
@pytest.mark.parametrize("crop", [1, 7, 32, 224])
def test_a_window_is_within_one_level_of_pillows(
    before: tuple[int, int], after: tuple[int, int], crop: int, method: str
) -> None:
    pixels = noise(*before)
    rows, columns = crop_window(after[0], crop), crop_window(after[1], crop)
    result = resize_window(pixels, before, after, rows, columns, method)
    assert (result.dtype, result.shape) == (np.uint8, (rows.length, columns.length, 3))
    assert np.abs(result - pillow(pixels, after, rows, columns, method)).max() <= (1 if method == "bilinear" else 2)


@pytest.mark.parametrize("method", sorted(INTERPOLATIONS))
def test_any_window_of_an_enlargement(method: str) -> None:
    pixels = noise(99, 200)
    after = (100, 201)
    for source in range(0, 96):
        rows, columns = Window(source, 0, 4), Window(2 * source, 0, 5)
        result = resize_window(pixels, (99, 200), after, rows, columns, method)
        assert np.abs(result - pillow(pixels, after, rows, columns, method)).max() <= 2, source


def test_a_partly_covered_last_sample_keeps_the_rest_in_place() -> None:
    # 8 samples that stand for 7.5: their centres are at 0.5, 1.5, ... of 7.5, wherever the last one ends
    ramp = np.broadcast_to((np.arange(8, dtype=np.uint8) * 16)[:, None, None], (8, 8, 3)).copy()
    whole = Window(0, 0, 15)
    result = resize_window(ramp, (7.5, 8.0), (15, 8), whole, Window(0, 0, 8), "bilinear")
    expected = np.clip(((np.arange(15) + 0.5) / 2 - 0.5) * 16, 0, 112)
    np.testing.assert_allclose(result[:, 0, 0], expected, atol=1)


@pytest.mark.parametrize("method", sorted(INTERPOLATIONS))
def test_pillow_takes_over_where_torch_has_no_vector_kernels(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, rows, columns = noise(375, 500), crop_window(256, 224), crop_window(341, 224)
    usual = resize_window(pixels, (375, 500), (256, 341), rows, columns, method).astype(int)
    monkeypatch.setattr(fast_resize, "_kernels", lambda: None)
    other = resize_window(pixels, (375, 500), (256, 341), rows, columns, method)
    assert np.abs(usual - other).max() <= 2
    assert np.abs(usual - other).mean() < 0.05


def test_the_buffers_of_one_call_do_not_show_in_the_next() -> None:
    small, large = noise(40, 50, 1), noise(375, 500, 2)
    window = crop_window(32, 32)
    first = resize_window(small, (40, 50), (32, 40), window, window, "bilinear").copy()
    resize_window(large, (375, 500), (256, 341), crop_window(256, 224), crop_window(341, 224), "bilinear")
    np.testing.assert_array_equal(resize_window(small, (40, 50), (32, 40), window, window, "bilinear"), first)
