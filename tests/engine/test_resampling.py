import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tle import resampling
from tle.errors import ImageError, ShapeError
from tle.preprocess import INTERPOLATIONS, Preprocess
from tle.resampling import resize_crop


def spec(resize: int | tuple[int, int] | None, crop: tuple[int, int], interpolation: str = "bilinear") -> Preprocess:
    return Preprocess(resize=resize, crop=crop, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1))


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """The hardest picture for a comparison to the bit."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def torchvision_result(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    if preprocess.resize is not None:
        mode = InterpolationMode(preprocess.interpolation)
        size = preprocess.resize if isinstance(preprocess.resize, int) else list(preprocess.resize)
        image = Resize(size, interpolation=mode, antialias=True)(image)
    return np.asarray(CenterCrop(preprocess.crop)(image))


SIZES = [(500, 375), (375, 500), (256, 256), (257, 255), (37, 61), (300, 20), (7, 400), (1, 1)]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize", [256, 232, 64, (50, 70), (224, 224), None])
def test_equals_torchvision_to_the_bit(interpolation: str, resize: int | tuple[int, int] | None) -> None:
    for size in SIZES:
        image = noise(*size)
        for crop in [(224, 224), (1, 1), (33, 300)]:
            preprocess = spec(resize, crop, interpolation)
            result = resize_crop(image, preprocess)
            np.testing.assert_array_equal(result, torchvision_result(image, preprocess), f"{size} {crop}")
            assert result.flags.c_contiguous


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(2, 1100), (1100, 2)])
def test_extreme_aspect_ratios_equal_torchvision_to_the_bit(interpolation: str, size: tuple[int, int]) -> None:
    # large enough for the windowed way, small enough that torchvision's own (144 MB) can still be compared with
    image = noise(*size)
    preprocess = spec(256, (224, 224), interpolation)
    assert resampling.MAX_BUFFER_PIXELS < 256 * 256 * 550
    np.testing.assert_array_equal(resize_crop(image, preprocess), torchvision_result(image, preprocess))


def test_one_by_3000_equals_torchvision_to_the_bit() -> None:
    image = noise(1, 3000)
    preprocess = spec(256, (224, 224), "bicubic")
    np.testing.assert_array_equal(resize_crop(image, preprocess), torchvision_result(image, preprocess))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_windowed_way_equals_torchvision_at_ordinary_sizes(
    interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "MAX_BUFFER_PIXELS", 0)
    for size in [(37, 61), (61, 37), (100, 100), (1, 9), (200, 3)]:
        for resize, crop in [(256, (224, 224)), (201, (300, 64)), ((70, 111), (33, 40))]:
            image, preprocess = noise(*size), spec(resize, crop, interpolation)
            expected = torchvision_result(image, preprocess)
            np.testing.assert_array_equal(resize_crop(image, preprocess), expected, f"{size} {resize}")


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "lanczos"])
def test_long_and_thin_needs_little_memory(size: tuple[int, int], interpolation: str) -> None:
    import tracemalloc

    image = Image.new("RGB", size, (9, 8, 7))
    tracemalloc.start()  # numpy reports its buffers; Pillow's would be 15 gigabytes and fail
    try:
        result = resize_crop(image, spec(256, (224, 224), interpolation))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert (result == (9, 8, 7)).all()


def test_absurdly_long_and_thin_is_refused_with_a_reason() -> None:
    with pytest.raises(ImageError, match="too long and thin: 1 x 20000000 would be resized to 256 x 5120000000"):
        resize_crop(Image.new("RGB", (1, 20_000_000)), spec(256, (224, 224)))


def test_smaller_than_the_crop_is_centred_on_black() -> None:
    result = resize_crop(Image.new("RGB", (4, 2), "white"), spec(None, (5, 7)))
    expected = np.zeros((5, 7, 3), np.uint8)
    expected[1:3, 1:5] = 255
    np.testing.assert_array_equal(result, expected)


def test_writes_into_a_row_of_a_batch_and_overwrites_what_was_there() -> None:
    batch = np.full((3, 8, 8, 3), 77, np.uint8)
    image = noise(4, 30)
    result = resize_crop(image, spec(None, (8, 8)), out=batch[1])
    assert result.base is batch
    np.testing.assert_array_equal(batch[1], torchvision_result(image, spec(None, (8, 8))))
    assert (batch[0] == 77).all()
    assert (batch[2] == 77).all()


@pytest.mark.parametrize("out", [np.zeros((8, 8), np.uint8), np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8, 3))])
def test_refuses_another_output(out: NDArray[np.uint8]) -> None:
    with pytest.raises(ShapeError, match=r"\(8, 8, 3\) uint8"):
        resize_crop(noise(8, 8), spec(8, (8, 8)), out=out)


def test_refuses_other_modes() -> None:
    with pytest.raises(ShapeError, match="got L"):
        resize_crop(Image.new("L", (8, 8)), spec(8, (8, 8)))


@pytest.mark.parametrize(
    ("weights", "crop", "resize", "interpolation"),
    [
        ("MobileNet_V2_Weights.IMAGENET1K_V1", 224, 256, "bilinear"),
        ("ResNet50_Weights.IMAGENET1K_V2", 224, 232, "bilinear"),
        ("ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1", 384, 384, "bicubic"),
    ],
)
@pytest.mark.parametrize("size", [(500, 375), (333, 500), (200, 200), (60, 90)])
def test_with_normalisation_equals_the_transforms_of_the_weights(
    weights: str, crop: int, resize: int, interpolation: str, size: tuple[int, int]
) -> None:
    from torchvision import models

    transforms = models.get_weight(weights).transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    preprocess = Preprocess(resize=resize, crop=(crop, crop), interpolation=interpolation, mean=mean, std=std)
    image = noise(*size)
    ours_HW3 = (resize_crop(image, preprocess) / np.float32(255) - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(ours_HW3.transpose(2, 0, 1), transforms(image).numpy(), rtol=0, atol=1e-6)
