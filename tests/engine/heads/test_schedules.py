"""Learning rates over a training, and its end."""

import numpy as np

from tle.heads.schedules import Patience, warmup_cosine


def test_warmup_starts_at_zero_and_the_decay_ends_there():
    rates = [2.0 * warmup_cosine(step, 100) for step in range(100)]
    assert rates[0] == 0.0
    np.testing.assert_allclose(np.diff(rates[:6]), 0.4, atol=0.02)  # 5 steps of warmup
    assert np.argmax(rates) == 5
    assert all(np.diff(rates[5:]) < 0)
    assert rates[-1] < 0.002


def test_one_step_is_a_schedule():
    assert warmup_cosine(0, 1) == 0.0


def test_patience_counts_from_the_first_of_equal_losses():
    patience = Patience(2)
    said = [(patience.improves(epoch, loss), patience.is_over(epoch)) for epoch, loss in enumerate([3, 2, 2, 2.5], 1)]
    assert said == [(True, False), (True, False), (False, False), (False, True)]
    assert (patience.best, patience.best_epoch) == (2, 2)
