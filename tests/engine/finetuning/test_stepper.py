"""What one step does to the weights, seen from outside: whole trainings of a few steps."""

import numpy as np
import pytest
import torch

from tle.bundle import read_bundle
from tle.errors import HeadError

PLAIN = {"keep": "last", "random_crop": False, "flip": 0.0, "warmup": "0", "lr": 0.05}


def test_two_batches_that_make_a_step_are_one_of_twice_the_size(train, weights_of, start_of):
    train("one.tle", **PLAIN, batch_size=8, clip=0.5)
    train("two.tle", **PLAIN, batch_size=4, accumulate=2, clip=0.5)
    one, two = weights_of("one.tle"), weights_of("two.tle")
    start = start_of()
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, rtol=0, atol=1e-6, err_msg=name)
    assert np.abs(one["high.0.weight"] - start["high.0.weight"]).max() > 1e-3


def test_a_step_that_all_pictures_do_not_fill_takes_them_all(train, weights_of):
    for name, options in (("one", {"batch_size": 32}), ("many", {"batch_size": 4, "accumulate": 7})):
        result = train(f"{name}.tle", **PLAIN, **options)
        assert [row["step"] for row in result.training["history"]] == [0, 1, 2]
    one, many = weights_of("one.tle"), weights_of("many.tle")
    for name, array in one.items():
        np.testing.assert_allclose(many[name], array, rtol=0, atol=1e-6, err_msg=name)


def test_what_is_frozen_stays_bit_for_bit_with_its_statistics(train, weights_of, start_of):
    options = {**PLAIN, "batchnorm": "train", "freeze": ("stem", "low")}
    train(**options)
    start = start_of()
    for name, array in weights_of("a.tle").items():
        assert np.array_equal(array, start[name]) == name.startswith(("stem", "low")), name


def test_statistics_stay_in_eval_and_affine_as_well_where_told(train, weights_of, start_of):
    start = start_of()
    train("eval.tle", **PLAIN)
    train("affine.tle", **PLAIN, batchnorm="frozen-affine")
    for name, array in weights_of("eval.tle").items():
        assert np.array_equal(array, start[name]) == ("running" in name or "batches" in name), name
    for name, array in weights_of("affine.tle").items():
        assert np.array_equal(array, start[name]) == (".1." in name), name


def test_rates_as_they_were_applied_start_at_zero_and_rise_in_a_line(train):
    result = train(warmup="4", layer_decay=0.5, lr=0.08, epochs=2, schedule="linear")
    lr_SG = read_bundle("a.tle").arrays["lr"]
    np.testing.assert_array_equal(lr_SG, result.lr)
    peaks = np.array([group["lr"] for group in result.training["groups"]])
    np.testing.assert_allclose(sorted(set(peaks)), [0.01, 0.02, 0.04, 0.08])
    for step in range(4):
        np.testing.assert_allclose(lr_SG[step], peaks * step / 4)
    for step in range(4, 10):
        np.testing.assert_allclose(lr_SG[step], peaks * (10 - step) / 6)


def test_only_the_groups_that_are_named_warm_up(train):
    result = train(warmup="1e", warmup_groups=("head",), schedule="constant")
    for column, group in enumerate(result.training["groups"]):
        expected = np.arange(5) / 5 if group["name"].startswith("head") else np.ones(5)
        np.testing.assert_allclose(result.lr[:5, column], expected * group["lr"])
        np.testing.assert_allclose(result.lr[5:, column], group["lr"])


def test_layers_are_released_one_an_epoch_and_do_not_move_before(train, weights_of, start_of):
    options = {**PLAIN, "unfreeze_schedule": True, "epochs": 4, "ema": 0.0}
    result = train("whole.tle", **options)
    names = [group["name"].split()[0] for group in result.training["groups"]]
    for epoch, moving in enumerate((["head"], ["high", "head"], ["low", "high", "head"], None)):
        rates = result.lr[5 * epoch : 5 * epoch + 5]
        for column, name in enumerate(names):
            assert ((rates[:, column] > 0) == (moving is None or name in moving)).all(), (epoch, name)
    start = start_of()
    # The first epoch of the same schedule, at a constant rate, is a training that freezes the backbone.
    options |= {"schedule": "constant", "epochs": 1}
    train("first.tle", **options)
    train("frozen.tle", **{**options, "unfreeze_schedule": False, "freeze": ("stem", "low", "high")})
    first, frozen = weights_of("first.tle"), weights_of("frozen.tle")
    for name, array in first.items():
        np.testing.assert_array_equal(array, frozen[name], err_msg=name)
        assert np.array_equal(array, start[name]) != name.startswith("head"), name


def test_the_moving_average_is_what_is_kept(train, weights_of):
    options = {**PLAIN, "schedule": "constant", "batch_size": 21, "batchnorm": "train"}
    points = [weights_of(train(f"{n}.tle", **options, epochs=n).path) for n in (1, 2, 3)]
    train("average.tle", **options, epochs=3, ema=0.7)
    found = weights_of("average.tle")
    for name, array in found.items():
        if "running" in name or "batches" in name:  # statistics of BatchNorm are those of the training
            np.testing.assert_array_equal(array, points[2][name])
            continue
        expected = points[0][name].astype(np.float64)
        for point, decay in zip(points[1:], (2 / 11, 3 / 12), strict=True):  # on their way to 0.7
            expected = decay * expected + (1 - decay) * point[name]
        np.testing.assert_allclose(array, expected, atol=1e-6, err_msg=name)


def test_clipping_bounds_what_a_step_can_do(train, weights_of, start_of):
    options = {
        **PLAIN,
        "epochs": 1,
        "batch_size": 21,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "layer_decay": 1.0,
        "lr": 1.0,
    }
    start = start_of()
    for clip in (0.01, 0.02):
        train(f"{clip}.tle", **options, clip=clip)
        moved = weights_of(f"{clip}.tle")
        squares = sum(float(np.square(moved[name] - start[name]).sum()) for name in moved if "batches" not in name)
        assert squares**0.5 == pytest.approx(clip, rel=1e-3)


def test_a_loss_that_is_not_finite_is_one_line(train):
    with pytest.raises(HeadError, match=r"the loss is not finite at step \d+: lower --lr") as caught:
        train(lr=1e30, clip=0.0, warmup="0", optimizer="sgd", epochs=3)
    assert "\n" not in str(caught.value)


def test_weights_and_draws_of_rare_classes(train, weights_of, photos):
    for file in sorted((photos / "train" / "red").iterdir())[2:]:
        file.unlink()
    options = {**PLAIN, "batch_size": 4}
    train("plain.tle", **options)
    train("weighted.tle", **options, class_weights=True)
    train("drawn.tle", **options, balanced_sampling=True)
    rare = [float(weights_of(f"{name}.tle")["head.bias"][2]) for name in ("plain", "weighted", "drawn")]
    assert rare[0] < min(rare[1:])  # the rare class is called for more often


def test_one_picture_has_no_statistics_of_its_own(train, photos, network_folder):
    with pytest.raises(HeadError, match="--bn train needs the statistics of a batch.*raise --batch-size"):
        train(network="tail", batchnorm="train", batch_size=1)
    assert train(network="tail", batchnorm="eval", batch_size=1, epochs=1).training["history"][-1]["step"] == 21


def test_a_batch_of_bad_pictures_alone_is_passed_over(train, photos, weights_of):
    for file in (photos / "train").rglob("*.jpg"):
        if file.name != "000.jpg":
            file.write_bytes(b"no picture")
    result = train(**PLAIN, batch_size=3, batchnorm="train", epochs=1)
    assert len(result.failures) == 18
    assert result.training["history"][-1]["step"] == 7
    assert all(np.isfinite(array).all() for array in weights_of("a.tle").values())


@pytest.mark.parametrize("optimizer", ["lamb", "lars", "adamw"])
def test_every_optimizer_trains(train, optimizer):
    history = train(optimizer=optimizer, lr=0.01, epochs=3).training["history"]
    assert history[-1]["train_loss"] < history[1]["train_loss"]


def test_bfloat16_is_autocast_and_weights_stay_float32(train, weights_of):
    half, full = (weights_of(train(f"{name}.tle", **PLAIN, precision=name).path) for name in ("bfloat16", "float32"))
    assert {array.dtype for name, array in half.items() if "batches" not in name} == {np.dtype("float32")}
    assert read_bundle("bfloat16.tle").training["options"]["precision"] == "bfloat16"
    for name in ("stem.0.weight", "high.0.weight", "head.weight"):
        difference = np.abs(half[name] - full[name]).max()
        assert 1e-6 < difference < 0.02, name  # of 8 bits' roundings, and no other training


def test_the_caller_s_generator_is_left_alone(train):
    before = torch.get_rng_state()
    train(mixup=0.2, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
