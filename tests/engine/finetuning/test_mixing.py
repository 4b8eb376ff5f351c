import numpy as np
import pytest
import torch

from tle.errors import UsageError
from tle.finetuning.mixing import mix

LABELS = torch.tensor([0, 2, 1, 3, 0])
ON = {"mixup": 0.5, "cutmix": 0.0, "seed": 1, "epoch": 2, "batch": 3}


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 16, 12, 3), dtype=np.uint8))


def test_mixup_is_the_mean_of_two_pictures_with_the_targets_weights(pixels: torch.Tensor) -> None:
    before = pixels.clone()
    mixed, targets = mix(pixels, LABELS, 4, **ON)
    assert (mixed.dtype, mixed.shape, mixed.is_contiguous()) == (torch.float32, pixels.shape, True)
    assert (targets.dtype, targets.shape) == (torch.float32, (5, 4))
    own = targets[1, 2]  # picture 1 is of class 2, the one before it of class 0
    assert 0 < own < 1
    torch.testing.assert_close(targets[1], torch.tensor([1 - own, 0, own, 0]))
    torch.testing.assert_close(mixed, own * pixels.float() + (1 - own) * pixels.roll(1, 0).float())
    assert torch.equal(pixels, before)


def test_cutmix_pastes_a_box_and_keeps_bytes(pixels: torch.Tensor) -> None:
    mixed, targets = mix(pixels, LABELS, 4, **{**ON, "mixup": 0.0, "cutmix": 1.0})
    assert (mixed.dtype, mixed.shape, mixed.is_contiguous()) == (torch.uint8, pixels.shape, True)
    pasted = (mixed != pixels).any(-1).any(0)
    rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    assert torch.equal(mixed[:, *box], pixels.roll(1, 0)[:, *box])
    assert pasted.sum() == pasted[box].numel()
    assert float(targets[1, 0]) == pytest.approx(pasted.float().mean().item())


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_with_both_on_each_batch_gets_one_of_them(pixels: torch.Tensor, kind: torch.dtype) -> None:
    both = [mix(pixels.to(kind), LABELS, 4, **{**ON, "cutmix": 1.0, "batch": batch})[0] for batch in range(40)]
    assert all(mixed.dtype == torch.float32 for mixed in both)
    cut = sum(bool(((mixed == pixels) | (mixed == pixels.roll(1, 0))).all()) for mixed in both)
    assert 8 <= cut <= 32


def test_draws_follow_from_seed_epoch_and_batch_alone(pixels: torch.Tensor) -> None:
    first, targets = mix(pixels, LABELS, 4, **ON)
    torch.rand(7)
    again, same = mix(pixels, LABELS, 4, **ON)
    assert torch.equal(first, again)
    assert torch.equal(targets, same)
    for name in ("seed", "epoch", "batch"):
        assert not torch.equal(targets, mix(pixels, LABELS, 4, **{**ON, name: 9})[1])


def test_the_callers_generator_is_left_alone(pixels: torch.Tensor) -> None:
    state = torch.random.get_rng_state()
    mix(pixels, LABELS, 4, **{**ON, "cutmix": 1.0})
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_mixes_the_same_and_its_generator_is_left_alone(pixels: torch.Tensor) -> None:
    state = torch.cuda.get_rng_state()
    for kinds in ({"mixup": 0.5, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}):
        mixed, targets = mix(pixels.cuda(), LABELS.cuda(), 4, **{**ON, **kinds})
        expected, expected_targets = mix(pixels, LABELS, 4, **{**ON, **kinds})
        torch.testing.assert_close(mixed.cpu(), expected)
        torch.testing.assert_close(targets.cpu(), expected_targets)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_soft_labels_are_mixed_as_they_are(pixels: torch.Tensor) -> None:
    soft = torch.nn.functional.one_hot(LABELS, 4) * 0.9 + 0.025
    _, hard_targets = mix(pixels, LABELS, 4, **ON)
    _, targets = mix(pixels, soft, 4, **ON)
    torch.testing.assert_close(targets, hard_targets * 0.9 + 0.025)
    torch.testing.assert_close(targets.sum(1), torch.ones(5))


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("kinds", [{"mixup": 0.2}, {"mixup": 0.0, "cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_batches_too_small_to_mix(pixels: torch.Tensor, n: int, kinds: dict[str, float]) -> None:
    mixed, targets = mix(pixels[:n], LABELS[:n], 4, **{**ON, **kinds})
    torch.testing.assert_close(mixed.float(), pixels[:n].float())
    torch.testing.assert_close(targets, torch.nn.functional.one_hot(LABELS[:n], 4).float())


def test_off_means_one_hot_targets_and_the_same_pixels(pixels: torch.Tensor) -> None:
    mixed, targets = mix(pixels, LABELS, 4, **{**ON, "mixup": 0.0})
    assert torch.equal(mixed, pixels)
    assert torch.equal(targets, torch.nn.functional.one_hot(LABELS, 4).float())


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_parameter_below_0_is_told(pixels: torch.Tensor, value: float) -> None:
    with pytest.raises(UsageError, match=r"^mixup and cutmix should be 0 \(off\) or more, got"):
        mix(pixels, LABELS, 4, **{**ON, "cutmix": value})
