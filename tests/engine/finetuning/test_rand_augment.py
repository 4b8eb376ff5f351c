from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from tle.finetuning.rand_augment import rand_augment

FILL = (120, 110, 100)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Not a single operation leaves it as it is, and no two make the same of it."""
    rng = np.random.default_rng(0)
    small = rng.integers(30, 200, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((40, 36), Image.Resampling.BICUBIC))


def ours(picture: np.ndarray, seed: int, n_operations: int = 1, magnitude: int = 9) -> bytes:
    rng = np.random.default_rng(seed)
    return rand_augment(picture, rng, n_operations=n_operations, magnitude=magnitude, fill=FILL).tobytes()


@pytest.mark.parametrize("magnitude", [9, 15])
def test_one_operation_makes_exactly_what_torchvisions_transform_makes(picture: np.ndarray, magnitude: int) -> None:
    """Every operation with either sign, and nothing else: each comes with probability 1/28 at least."""
    theirs_transform = v2.RandAugment(1, magnitude, interpolation=InterpolationMode.BILINEAR, fill=list(FILL))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = Image.fromarray(picture)
        theirs = {np.asarray(theirs_transform(image)).tobytes() for _ in range(800)}
    assert {ours(picture, seed, magnitude=magnitude) for seed in range(800)} == theirs
    assert len(theirs) == 14 + 9  # operations, and those of them that have a sign


def test_operations_follow_one_another(picture: np.ndarray) -> None:
    once = {ours(picture, seed) for seed in range(300)}
    twice = [ours(picture, seed, n_operations=2) for seed in range(40)]
    assert sum(one not in once for one in twice) > 20


def test_the_picture_and_torchs_generator_stay_as_they_are(picture: np.ndarray) -> None:
    before, state = picture.copy(), torch.random.get_rng_state()
    for seed in range(60):
        ours(picture, seed)
    np.testing.assert_array_equal(picture, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_threads_do_not_change_what_a_picture_gets(picture: np.ndarray) -> None:
    alone = [ours(picture, seed, n_operations=3) for seed in range(120)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda seed: ours(picture, seed, n_operations=3), range(120))) == alone
