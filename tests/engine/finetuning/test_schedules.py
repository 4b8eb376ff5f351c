"""The learning rate of every step."""

import math

import numpy as np
import pytest
import torch

from tle.errors import UsageError
from tle.finetuning.schedules import KINDS, Schedule, parse_warmup


def factors(kind, total=100, warmup_steps=10, *, warmup=True, released=0):
    schedule = Schedule(kind=kind, total_steps=total, warmup_steps=warmup_steps)
    return np.array([schedule.factor(step, warmup=warmup, released=released) for step in range(total)])


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_a_warmed_group_rises_linearly_from_zero(kind):
    rates = factors(kind)
    assert rates[0] == 0.0
    np.testing.assert_allclose(rates[:11], np.arange(11) / 10, rtol=1e-15)
    assert rates.max() == rates[10] == 1.0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cosine", lambda t: (1 + math.cos(math.pi * t)) / 2),
        ("linear", lambda t: 1 - t),
        ("constant", lambda t: 1.0),
    ],
)
def test_the_decay_runs_over_what_the_warmup_leaves(kind, expected):
    rates = factors(kind)
    np.testing.assert_allclose(rates[10:], [expected(step / 90) for step in range(90)], rtol=1e-12)
    cold = factors(kind, warmup=False)
    np.testing.assert_array_equal(cold[:10], 1.0)
    np.testing.assert_array_equal(cold[10:], rates[10:])


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_it_ends_next_to_zero(kind):
    schedule = Schedule(kind=kind, total_steps=100, warmup_steps=10)
    assert 0.0 < schedule.factor(99, warmup=True) < 0.02
    assert schedule.factor(100, warmup=True) == 0.0


def test_a_group_released_later_warms_up_then_and_joins_the_decay():
    rates, released = factors("cosine"), factors("cosine", released=40)
    np.testing.assert_array_equal(released[:41], 0.0)
    np.testing.assert_allclose(released[40:50], rates[40:50] * np.arange(10) / 10, rtol=1e-12)
    np.testing.assert_array_equal(released[50:], rates[50:])
    cold = factors("cosine", warmup=False, released=40)
    np.testing.assert_array_equal(cold[:40], 0.0)
    np.testing.assert_array_equal(cold[40:], rates[40:])


@pytest.mark.parametrize("total", [4, 7, 10, 33, 1000])
def test_one_cycle_is_that_of_torch(total):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total)
    rates = []
    for step in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < total - 1:
            theirs.step()
    np.testing.assert_allclose(factors("one-cycle", total, 0), rates, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_trainings_have_finite_rates(kind, total):
    for warmup_steps in range(1 if kind == "one-cycle" else total + 1):
        rates = factors(kind, total, warmup_steps)
        assert np.isfinite(rates).all()
        assert (rates >= 0).all()
        assert (rates <= 1).all()
        assert warmup_steps or rates.max() == 1.0


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("100", 100),
        ("0", 0),
        ("1e", 50),
        ("0.5e", 25),
        ("2e", 100),
        ("5%", 25),
        ("0.01%", 1),
        ("100%", 500),
        (" 10 ", 10),
    ],
)
def test_a_warmup_is_read_in_steps_epochs_or_percent(text, steps):
    assert parse_warmup(text, steps_per_epoch=50, total_steps=500) == steps


@pytest.mark.parametrize("text", ["", "e", "%", "1.5", "-1", "1e3", "5 percent", "nan%", "1ee"])
def test_another_form_of_warmup_is_refused_with_those_that_there_are(text):
    with pytest.raises(UsageError, match=r"100.*0\.5e.*5%"):
        parse_warmup(text, steps_per_epoch=50, total_steps=500)


def test_a_warmup_longer_than_the_training_is_refused():
    with pytest.raises(UsageError, match="550 steps, and the training has 500"):
        parse_warmup("11e", steps_per_epoch=50, total_steps=500)
    with pytest.raises(UsageError, match="--warmup"):
        Schedule(kind="cosine", total_steps=10, warmup_steps=11)


def test_schedules_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="cosine, linear, constant, one-cycle"):
        Schedule(kind="cubic", total_steps=10)
    with pytest.raises(UsageError, match="at least one step"):
        Schedule(kind="cosine", total_steps=0)
    with pytest.raises(UsageError, match="warmup of its own"):
        Schedule(kind="one-cycle", total_steps=10, warmup_steps=1)
