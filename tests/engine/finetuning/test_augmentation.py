import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tle.errors import ImageError, ShapeError, UsageError
from tle.finetuning.augmentation import Augmentation, draw, load_augmented
from tle.images import EXACT_DECODER, FAST_DECODER, GPU_DECODER, decode, load
from tle.preprocess import INTERPOLATIONS, Preprocess

PLAIN = Augmentation(flip=0.0)


def preprocess(crop: tuple[int, int] = (32, 32), interpolation: str = "bilinear", **options: Any) -> Preprocess:
    values = {"resize": 36, "mean": (0.5, 0.25, 0.75), "std": (1, 1, 1), **options}
    return Preprocess(crop=crop, interpolation=interpolation, **values)


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth, asymmetric picture that JPEG keeps well."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str = "JPEG", orientation: int | None = None, **options: Any) -> bytes:
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def view(
    data: bytes, how: Preprocess, augmentation: Augmentation = PLAIN, seed: int = 0, decoder: str = FAST_DECODER
) -> np.ndarray:
    return load_augmented(data, how, augmentation, np.random.default_rng(seed), decoder=decoder)


def difference(data: bytes, how: Preprocess, seeds: int = 4) -> int:
    """The largest difference of the two decoders' views in levels."""
    pairs = [
        (view(data, how, seed=s, decoder=EXACT_DECODER).astype(int), view(data, how, seed=s)) for s in range(seeds)
    ]
    return max(int(np.abs(exact - fast).max()) for exact, fast in pairs)


def outcome(load: Callable[[], object]) -> str:
    try:
        load()
    except ImageError as error:
        return str(error)
    return "good"


# Boxes


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (224, 224), (60, 200)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    augmentation, n = Augmentation(scale=(0.2, 0.9)), 4000
    rng = np.random.default_rng(0)
    boxes = [draw(augmentation, rng, height, width) for _ in range(n)]
    ours = np.array([(box.top, box.left, box.height, box.width) for box in boxes])
    theirs_transform = v2.RandomResizedCrop(10, scale=(0.2, 0.9))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        picture = [torch.zeros(3, height, width)]
        params = [theirs_transform.make_params(picture) for _ in range(n)]
    theirs = np.array([(p["top"], p["left"], p["height"], p["width"]) for p in params])
    assert ours.min(0).tolist() >= [0, 0, 1, 1]
    assert ((ours[:, 0] + ours[:, 2] <= height) & (ours[:, 1] + ours[:, 3] <= width)).all()
    # Quantiles of area, proportions and place: of 4,000 draws a quantile is known to about 2 % of the range.
    for measure in (
        lambda b: b[:, 2] * b[:, 3] / (height * width),
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: (b[:, 0] + b[:, 2] / 2) / height,
        lambda b: (b[:, 1] + b[:, 3] / 2) / width,
    ):
        at = np.linspace(0.05, 0.95, 10)
        np.testing.assert_allclose(np.quantile(measure(ours), at), np.quantile(measure(theirs), at), atol=0.04)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 200), (200, 1), (7, 3000), (3000, 7)])
def test_long_thin_pictures_fall_back_to_torchvisions_central_box(height: int, width: int) -> None:
    box = draw(Augmentation(scale=(0.9, 1.0)), np.random.default_rng(0), height, width)
    params = v2.RandomResizedCrop(10, scale=(0.9, 1.0)).make_params([torch.zeros(3, height, width)])
    assert (box.top, box.left, box.height, box.width) == tuple(params[k] for k in ("top", "left", "height", "width"))


# Pixels


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_exact_decoder_gives_torchvisions_pixels(interpolation: str, flip: float) -> None:
    data = encode(photo(61, 43), "PNG")
    augmentation = Augmentation(flip=flip)
    box = draw(augmentation, np.random.default_rng(3), 43, 61)
    how = preprocess((32, 24), interpolation)
    found = view(data, how, augmentation, seed=3, decoder=EXACT_DECODER)
    expected = v2.functional.resized_crop(
        decode(data), box.top, box.left, box.height, box.width, [32, 24], Image.Resampling[interpolation.upper()]
    )
    np.testing.assert_array_equal(found, np.asarray(expected)[:, ::-1] if flip else np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(61, 43), (43, 61), (41, 41)])
@pytest.mark.parametrize("crop", [(32, 32), (21, 33), (80, 31)])
def test_both_decoders_give_the_same_view_of_every_orientation(
    orientation: int, size: tuple[int, int], crop: tuple[int, int]
) -> None:
    data = encode(photo(*size), orientation=orientation)
    assert difference(data, preprocess(crop)) <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_both_decoders_give_the_same_view_of_every_usual_jpeg(mode: str, progressive: bool, interpolation: str) -> None:
    data = encode(photo(61, 43).convert(mode), progressive=progressive)
    assert difference(data, preprocess(interpolation=interpolation)) <= 2


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(2048, 1536), (2051, 1541)])
def test_boxes_of_large_pictures_are_decoded_at_a_scale_and_stay_close(
    size: tuple[int, int], progressive: bool, orientation: int
) -> None:
    data = encode(photo(*size), orientation=orientation, progressive=progressive)
    for side in (32, 90, 190):
        assert difference(data, preprocess((side, side))) <= 6


def test_orientation_from_xmp() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert difference(encode(photo(61, 43), xmp=xmp), preprocess()) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 3), (1, 9000), (9000, 2)])
def test_tiny_and_thin_pictures(size: tuple[int, int]) -> None:
    assert difference(encode(photo(*size)), preprocess((224, 224))) <= 1


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_exact(format: str) -> None:
    assert difference(encode(photo(), format), preprocess()) == 0


def test_transparency_is_white_as_in_the_evaluation() -> None:
    clear = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    assert (view(encode(clear, "PNG"), preprocess()) == 255).all()


@pytest.mark.parametrize("decoder", [EXACT_DECODER, FAST_DECODER])
def test_without_a_crop_the_view_is_the_evaluations(decoder: str) -> None:
    data, how = encode(photo()), preprocess()
    plain = load(data, how, decoder=decoder)
    np.testing.assert_array_equal(view(data, how, Augmentation(crop=False, flip=0.0), decoder=decoder), plain)
    np.testing.assert_array_equal(view(data, how, Augmentation(crop=False, flip=1.0), decoder=decoder), plain[:, ::-1])


def test_views_differ_by_the_generator_alone() -> None:
    data, how, augmentation = encode(photo()), preprocess(), Augmentation(rand_augment=(2, 9))
    first = [view(data, how, augmentation, seed=seed) for seed in range(8)]
    again = [view(data, how, augmentation, seed=seed) for seed in range(8)]
    np.testing.assert_array_equal(first, again)
    assert len({one.tobytes() for one in first}) == 8


def test_half_of_the_views_are_mirrored() -> None:
    data = encode(photo(), "PNG")
    how, augmentation = preprocess(), Augmentation(crop=False, flip=0.5)
    plain = load(data, how)
    mirrored = sum(
        np.array_equal(view(data, how, augmentation, seed=seed, decoder=EXACT_DECODER), plain[:, ::-1])
        for seed in range(400)
    )
    assert 160 <= mirrored <= 240  # four standard deviations


@pytest.mark.parametrize(("channels", "colour"), [("rgb", (128, 64, 191)), ("bgr", (191, 64, 128))])
def test_what_rand_augment_uncovers_gets_the_mean_colour(channels: str, colour: tuple[int, int, int]) -> None:
    data = encode(Image.new("RGB", (40, 40), (1, 2, 3)), "PNG")
    how, augmentation = preprocess(channels=channels), Augmentation(crop=False, rand_augment=(1, 30))
    seen = {tuple(pixel) for s in range(60) for pixel in view(data, how, augmentation, seed=s).reshape(-1, 3).tolist()}
    assert colour in seen


# Out, limits, errors


def test_out_is_a_row_of_a_batch() -> None:
    batch = np.full((2, 32, 32, 3), 9, np.uint8)
    data, how, augmentation = encode(photo()), preprocess(), Augmentation(flip=1.0, rand_augment=(2, 9))
    found = load_augmented(data, how, augmentation, np.random.default_rng(0), decoder=FAST_DECODER, out=batch[1])
    assert found.base is batch
    np.testing.assert_array_equal(batch[1], view(data, how, augmentation))
    assert (batch[0] == 9).all()
    with pytest.raises(ShapeError, match=r"out should be \(32, 32, 3\) uint8"):
        load_augmented(data, how, augmentation, np.random.default_rng(0), out=np.empty((32, 31, 3), np.uint8))


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("decoder", [EXACT_DECODER, FAST_DECODER])
def test_bad_pictures_are_bad_for_the_reasons_of_the_evaluation(crop: bool, decoder: str) -> None:
    how, augmentation = preprocess(), Augmentation(crop=crop)
    whole = encode(photo(300, 200))
    png = encode(photo(300, 200), "PNG")
    for data in (b"", b"not a picture", whole[: len(whole) // 2], whole[:-2], png[: len(png) // 2], whole[:300]):
        expected = outcome(lambda data=data: load(data, how, decoder=decoder))
        assert expected != "good"
        assert outcome(lambda data=data: view(data, how, augmentation, decoder=decoder)) == expected


@pytest.mark.parametrize("decoder", [EXACT_DECODER, FAST_DECODER])
def test_too_many_pixels(decoder: str) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ImageError, match=r"^too many pixels: 60 x 40 = 2400, more than the 2399 allowed$"):
        load_augmented(encode(photo()), preprocess(), PLAIN, rng, decoder=decoder, max_pixels=2399)


@pytest.mark.parametrize("decoder", ["turbo", GPU_DECODER])
@pytest.mark.parametrize("crop", [True, False])
def test_an_unknown_decoder_is_told(decoder: str, crop: bool) -> None:
    with pytest.raises(UsageError, match=r"^decoder should be one of pillow/1, turbo/1, got"):
        view(encode(photo()), preprocess(), Augmentation(crop=crop), decoder=decoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"^scale should be \(least, largest\), above 0, at most 1, got \(0.0, 1.0\)$"),
        ({"scale": (0.5, 0.4)}, "^scale should be"),
        ({"scale": (0.5, 1.1)}, "^scale should be"),
        ({"scale": (float("nan"), 1.0)}, "^scale should be"),
        ({"scale": 0.5}, "^scale should be"),
        ({"ratio": (0.0, 1.0)}, r"^ratio should be \(least, largest\), above 0, at most 100, got"),
        ({"ratio": (1.0, float("inf"))}, "^ratio should be"),
        ({"flip": 1.5}, "^flip should be a probability from 0 to 1, got 1.5$"),
        ({"flip": float("nan")}, "^flip should be"),
        ({"rand_augment": (0, 9)}, r"^rand_augment should be \(operations, magnitude\), at least 1 and 0 to 30"),
        ({"rand_augment": (2, 31)}, "^rand_augment should be"),
        ({"rand_augment": (2, 9.5)}, "^rand_augment should be"),
        ({"rand_augment": 2}, "^rand_augment should be"),
    ],
)
def test_values_that_cannot_be_used_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Augmentation(**options)


def test_to_dict_makes_the_same_again() -> None:
    augmentation = Augmentation(scale=(0.5, 0.9), flip=0.25, rand_augment=(2, 9))
    assert Augmentation(**augmentation.to_dict()) == augmentation


# Threads


def test_many_threads_at_once() -> None:
    files = [encode(photo(300 + 7 * seed, 200 + 5 * seed, seed), progressive=bool(seed % 2)) for seed in range(16)]
    how, augmentation = preprocess((64, 64)), Augmentation(rand_augment=(2, 9))
    expected = [view(files[i % 16], how, augmentation, seed=i) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: view(files[i % 16], how, augmentation, seed=i), range(200)))
    np.testing.assert_array_equal(found, expected)


# Real pictures


@pytest.mark.realdata
def test_views_of_real_photos_are_close(realdata: Callable[[str], Path]) -> None:
    """Both ways: the box may be moved by half a decoded sample, a quarter of a pixel of the view."""
    how = preprocess((224, 224))
    for seed, path in enumerate(sorted(realdata("wallpapers").iterdir())[::4]):
        data = path.read_bytes()
        exact, fast = view(data, how, seed=seed, decoder=EXACT_DECODER).astype(int), view(data, how, seed=seed)
        assert np.abs(exact - fast).mean() < 5
