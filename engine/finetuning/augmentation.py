"""Random views of pictures for training: crop, mirror and RandAugment, straight from the file's bytes.

The random crop is taken while decoding. Of the usual JPEGs libjpeg-turbo decodes no more detail than the crop needs, and
torch's kernels resize the crop alone; everything else is decoded by Pillow, cropped and resized as torchvision does it, bit
for bit. Boxes are drawn on the upright picture, so both ways give the same view.

Every draw comes from the caller's generator and from the picture's size, so a view does not depend on threads, on batches
or on what else is decoded.

H, W size of the crop; R, S size of what is decoded.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tle import fast_resize, images, jpeg
from tle.errors import ImageError, UsageError
from tle.images import DECODERS, EXACT_DECODER, FAST_DECODER
from tle.orientation import turn_of
from tle.preprocess import Preprocess
from tle.resampling import Window, output_array
from tle.turbo import ask_orientation, stored_windows, turned

__all__ = ["Augmentation", "Box", "draw", "load_augmented"]

_TRIES = 10  # torchvision's
_MAX_RATIO = 100.0  # beyond, a number is a slip: no box of a photo is so long
MAX_MAGNITUDE = 30  # torchvision's RandAugment has 31 steps
# Less than the 4 of `tle.jpeg`, which keeps a cache's features: no two views of training are the same anyway. For 32
# baseline photos of 5 to 12 megapixels and views of 224x224, one core: milliseconds each; mean difference in levels from
# the view decoded in full; and the same for boxes on the grid of the scale, which is the blunter filter alone. The rest is
# the box, moved by up to half a decoded sample (`_scaled`), which is as good a draw.
#   at least    1x     1.5x   2x     3x     4x     never scaled
#   ms          13.0   14.9   16.9   18.7   22.3   26.5
#   levels      1.82   1.26   0.88   0.61   0.34   0
#   on grid     0.60   0.35   0.21   0.12   0.06   0
MIN_OVERSAMPLING = 2.0
# Below this a side has too few blocks for scales to mean anything, as in tle.jpeg.
_MIN_SCALED_SIDE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is drawn for each picture of a training batch.

    Attributes:
        crop: take a random box of the picture (torchvision's RandomResizedCrop) instead of the evaluation's resize and
            centre crop.
        scale: least and largest area of the box, as a share of the picture's. From 0.35 on objects appear as large as in
            the evaluation: by 1.26 on average against the whole picture resized, where a centre crop of 224 out of 256
            shows them 1.14 (square pictures) to 1.32 times (4:3) as large. The 0.08 that networks are trained from nothing
            with makes it 1.56, and needs epochs by the hundred. Source: Touvron et al., FixRes (2019), section 3. Chosen
            by this reckoning, not by races.
        ratio: least and largest width / height of the box; uniform in the logarithm.
        flip: probability of mirroring left to right. 0 where sides carry meaning, such as in text.
        rand_augment: (operations, magnitude) of RandAugment, or None. Magnitudes go from 0 to 30; (2, 9) are torchvision's.
            What its operations uncover gets the backbone's mean colour, which is zero to the network.

    Raises:
        UsageError: a value that cannot be used.
    """

    crop: bool = True
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rand_augment: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _interval("scale", self.scale, 1.0))
        object.__setattr__(self, "ratio", _interval("ratio", self.ratio, _MAX_RATIO))
        if not 0.0 <= self.flip <= 1.0:
            raise UsageError(f"flip should be a probability from 0 to 1, got {self.flip!r}")
        if self.rand_augment is not None:
            object.__setattr__(self, "rand_augment", _operations(self.rand_augment))

    def to_dict(self) -> dict[str, Any]:
        """The same as a JSON-able dictionary, tuples as lists."""
        return {
            "crop": self.crop,
            "scale": list(self.scale),
            "ratio": list(self.ratio),
            "flip": self.flip,
            "rand_augment": None if self.rand_augment is None else list(self.rand_augment),
        }


def _interval(name: str, value: Any, limit: float) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not 0.0 < value[0] <= value[1] <= limit:
        raise UsageError(f"{name} should be (least, largest), above 0, at most {limit:g}, got {value!r}")
    return float(value[0]), float(value[1])


def _operations(value: Any) -> tuple[int, int]:
    whole = isinstance(value, (tuple, list)) and len(value) == 2 and all(type(number) is int for number in value)
    if not whole or value[0] < 1 or not 0 <= value[1] <= MAX_MAGNITUDE:
        raise UsageError(
            f"rand_augment should be (operations, magnitude), at least 1 and 0 to {MAX_MAGNITUDE}, got {value!r}"
        )
    return value[0], value[1]


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture, in pixels of the upright one."""

    top: int
    left: int
    height: int
    width: int


def draw(augmentation: Augmentation, rng: np.random.Generator, height: int, width: int) -> Box:
    """Draw the box of a random crop.

    Ten tries to place a box of random area and proportions inside of the picture; then the largest central box whose
    proportions are allowed.

    Args:
        augmentation: its `scale` and `ratio` are used.
        rng: gives the draws.
        height: of the upright picture, in pixels.
        width: likewise.

    Returns:
        A box inside of the picture, at least one pixel.

    Source: torchvision.transforms.v2.RandomResizedCrop.make_params.
    """
    low, high = augmentation.ratio
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*augmentation.scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            top, left = int(rng.integers(height - down + 1)), int(rng.integers(width - across + 1))
            return Box(top, left, down, across)
    across, down = width, height
    if width < low * height:
        down = min(height, max(1, round(width / low)))
    elif width > high * height:
        across = min(width, max(1, round(height * high)))
    return Box((height - down) // 2, (width - across) // 2, down, across)


def load_augmented(
    data: bytes,
    preprocess: Preprocess,
    augmentation: Augmentation,
    rng: np.random.Generator,
    *,
    decoder: str = EXACT_DECODER,
    max_pixels: int = images.DEFAULT_MAX_PIXELS,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Decode a random view of one picture; safe to call from many threads at once, with a generator each.

    Args:
        data: the bytes of the file.
        preprocess: crop size, interpolation and mean colour; its resize only where the augmentation does not crop.
        augmentation: what is drawn.
        rng: gives the draws.
        decoder: as in `tle.images.load`.
        max_pixels: pictures of more pixels (width x height) are refused.
        out: (H, W, 3) uint8 array to write into, such as a row of a batch.

    Returns:
        (H, W, 3) uint8 in RGB order, `out` itself if that was given.

    Raises:
        ImageError: as `tle.images.load`, for the same reasons.
        ShapeError: `out` is not (H, W, 3) uint8 for the crop.
        UsageError: no such decoder.
    """
    out = output_array(preprocess.crop, out)
    if not augmentation.crop:
        images.load(data, preprocess, decoder=decoder, max_pixels=max_pixels, out=out)
    elif decoder in DECODERS:
        _load_crop(data, preprocess, augmentation, rng, decoder=decoder, max_pixels=max_pixels, out=out)
    else:
        raise UsageError(f"decoder should be one of {', '.join(DECODERS)}, got {decoder!r}")
    if rng.random() < augmentation.flip:
        _mirror(out)
    if augmentation.rand_augment is not None:
        from tle.finetuning.rand_augment import rand_augment

        n_operations, magnitude = augmentation.rand_augment
        out[...] = rand_augment(out, rng, n_operations=n_operations, magnitude=magnitude, fill=_mean_colour(preprocess))
    return out


def _mean_colour(preprocess: Preprocess) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(255 * mean))) for mean in preprocess.mean)
    return (red, green, blue) if preprocess.channels == "rgb" else (blue, green, red)


def _mirror(pixels_HW3: NDArray[np.uint8]) -> None:
    """Mirror left to right, in place; numpy's copy against the grain takes 0.69 ms for 224x224, torch's 0.05."""
    import torch

    pixels_HW3[...] = torch.from_numpy(pixels_HW3).flip(1).numpy()


def _load_crop(
    data: bytes,
    preprocess: Preprocess,
    augmentation: Augmentation,
    rng: np.random.Generator,
    *,
    decoder: str,
    max_pixels: int,
    out: NDArray[np.uint8],
) -> None:
    """Write a random box of the picture, resized to `out`."""
    box = None
    if decoder == FAST_DECODER and preprocess.interpolation in fast_resize.INTERPOLATIONS:
        header = jpeg.read_header(data)
        if header is not None and 0 < header.height * header.width <= max_pixels:
            orientation = header.orientation if header.orientation is not None else ask_orientation(data, max_pixels)
            if orientation is not None:
                swap = turn_of(orientation).swap
                box = draw(
                    augmentation, rng, *((header.width, header.height) if swap else (header.height, header.width))
                )
                if _load_jpeg_box(data, header, orientation, box, preprocess.interpolation, out):
                    return
    image = images.decode(data, max_pixels=max_pixels)
    if box is None:
        box = draw(augmentation, rng, image.height, image.width)
    _resize_box(image, box, preprocess.interpolation, out)


def _load_jpeg_box(
    data: bytes, header: jpeg.Header, orientation: int, box: Box, interpolation: str, out: NDArray[np.uint8]
) -> bool:
    """Write the box of a JPEG of the usual kind, resized, into `out`; False where the exact decoder has to do it."""
    turn = turn_of(orientation)
    upright = (header.width, header.height) if turn.swap else (header.height, header.width)
    _, rows, columns = stored_windows(upright, Window(box.top, 0, box.height), Window(box.left, 0, box.width), turn)
    size = (out.shape[1], out.shape[0]) if turn.swap else (out.shape[0], out.shape[1])
    scale = _denominator((rows.length, columns.length), size)
    pixels_RS3 = jpeg.decode(data, header, scale)
    if pixels_RS3 is None:
        return False
    down, across = _scaled(rows, scale, pixels_RS3.shape[0]), _scaled(columns, scale, pixels_RS3.shape[1])
    extent = (rows.length / scale, columns.length / scale)
    whole = (Window(0, 0, size[0]), Window(0, 0, size[1]))
    try:
        window = fast_resize.resize_window(
            np.ascontiguousarray(pixels_RS3[down, across]), extent, size, *whole, interpolation
        )
    except (MemoryError, RuntimeError):  # the latter is what torch says when memory runs out
        return False
    out[...] = turned(window, turn)
    return True


def _denominator(box: tuple[int, int], size: tuple[int, int]) -> int:
    """The scale 1/n at which a box is decoded: the smallest that leaves `MIN_OVERSAMPLING` times `size` on both axes."""
    if min(box) >= _MIN_SCALED_SIDE:
        for scale in (8, 4, 2):
            if all(side >= scale * MIN_OVERSAMPLING * target for side, target in zip(box, size, strict=True)):
                return scale
    return 1


def _scaled(window: Window, scale: int, length: int) -> slice:
    """The samples of an axis of `length`, decoded at 1/`scale`, that hold a window: off by half a sample at most."""
    n = math.ceil(window.length / scale)
    start = min(round(window.source / scale), length - n)
    return slice(start, start + n)


def _resize_box(image: Image.Image, box: Box, interpolation: str, out: NDArray[np.uint8]) -> None:
    """Write a box of a picture, resized, into `out`.

    Cropped first, as torchvision does: Pillow's `resize(box=...)` would blend in pixels from outside of the box.
    """
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    try:
        part = image if corners == (0, 0, *image.size) else image.crop(corners)
        out[...] = np.asarray(part.resize((out.shape[1], out.shape[0]), Image.Resampling[interpolation.upper()]))
    except MemoryError as error:
        raise ImageError(
            f"not enough memory to resize {box.width} x {box.height} to {out.shape[1]} x {out.shape[0]}"
        ) from error
