"""Minibatch heads: they learn, repeat with the seed, follow their schedule, and say when they diverge."""

import numpy as np
import pytest
import torch

from tle.enums import Target
from tle.errors import HeadError
from tle.heads import linear, logistic
from tle.heads.params import Params


def _fit(task, **settings):
    return linear.fit(task, Params("linear", settings))


@pytest.fixture(autouse=True)
def _one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_learns_digits(make_task, digits):
    x_ND, y_N = digits
    task = make_task(x_ND, y_N, n_val=200)
    fitted = _fit(task, lr=[3e-3, 1e-2], epochs=20, batch_size=32)
    accuracy = (fitted.val_scores.argmax(axis=1) == y_N[400:]).mean()
    exact = logistic.fit(task, Params("logistic", {})).val_scores
    assert accuracy > (exact.argmax(axis=1) == y_N[400:]).mean() - 0.03
    assert fitted.chosen["lr"] == max(fitted.trials, key=lambda trial: (trial["accuracy"], -trial["nll"]))["lr"]
    np.testing.assert_allclose(fitted.model.scores(x_ND[:5]).sum(axis=1), 1.0, rtol=1e-5)


def test_comes_near_the_optimum_of_a_convex_problem(make_task, blobs):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x_ND, y_N = blobs(300, 5, 3, spread=2.0)
    fitted = _fit(make_task(x_ND, y_N), lr=0.05, epochs=60, batch_size=30, weight_decay=0)
    z_ND = StandardScaler().fit_transform(x_ND.astype(np.float64))
    want = LogisticRegression(C=1e6, max_iter=2000).fit(z_ND, y_N).predict_proba(z_ND)
    np.testing.assert_allclose(fitted.model.scores(x_ND), want, atol=0.03)


def test_the_same_seed_gives_the_same_weights_and_torch_is_left_alone(make_task, blobs):
    x_ND, y_N = blobs(100, 5, 3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = _fit(make_task(x_ND, y_N, seed=3), epochs=3).model
    torch.set_rng_state(state)
    torch.rand(3)
    again = _fit(make_task(x_ND, y_N, seed=3), epochs=3).model
    other = _fit(make_task(x_ND, y_N, seed=4), epochs=3).model
    np.testing.assert_array_equal(first.weight_KD, again.weight_KD)
    assert not np.array_equal(first.weight_KD, other.weight_KD)


def test_few_samples_still_get_some_steps(make_task, blobs):
    x_ND, y_N = blobs(50, 4, 2)
    assert _fit(make_task(x_ND, y_N), epochs=1).chosen["batch_size"] == 5
    assert _fit(make_task(x_ND, y_N), epochs=1, batch_size=50).chosen["batch_size"] == 50


def test_warmup_starts_at_zero_and_the_decay_ends_there():
    schedule = linear._Schedule(0.0, 1, 1)
    rates = [schedule.lr(2.0, step, 100) for step in range(100)]
    assert rates[0] == 0.0
    np.testing.assert_allclose(np.diff(rates[:6]), 0.4, atol=0.02)  # 5 steps of warmup
    assert np.argmax(rates) == 5
    assert all(np.diff(rates[5:]) < 0)
    assert rates[-1] < 0.002


def test_the_rate_that_torch_sees_is_the_scheduled_one(make_task, blobs, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def watch(self, *args, **kwargs):
        seen.append([(group["lr"], group["weight_decay"]) for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    _fit(make_task(*blobs(40, 4, 2)), lr=0.1, epochs=5, batch_size=10, weight_decay=0.3)
    schedule = linear._Schedule(0.3, 5, 10)
    assert [groups[0] for groups in seen] == [(schedule.lr(0.1, number, 20), 0.3) for number in range(20)]
    assert [groups[1] for groups in seen] == [(schedule.lr(0.1, number, 20), 0.0) for number in range(20)]


def test_absent_classes(make_task, blobs):
    x_ND, y_N = blobs(90, 6, 3)
    fitted = _fit(make_task(x_ND, y_N * 2, n_classes=6), epochs=5)
    assert fitted.model.scores(x_ND)[:, [1, 3, 5]].max() < 1e-12


def test_regression_in_the_units_of_the_labels(make_task):
    rng = np.random.default_rng(0)
    x_ND = rng.normal(size=(300, 3)).astype(np.float32)
    y_N = (1000 + 50 * x_ND @ np.array([1.0, -2.0, 0.5])).astype(np.float32)
    fitted = _fit(make_task(x_ND, y_N, target=Target.REGRESSION), lr=0.03, epochs=40, batch_size=32, weight_decay=0)
    np.testing.assert_allclose(fitted.model.scores(x_ND)[:, 0], y_N, atol=3)


def test_multilabel(make_task, blobs):
    x_ND, y_N = blobs(200, 6, 3, spread=0.5)
    labels_NC = np.stack([y_N == 0, y_N >= 1], axis=1).astype(np.uint8)
    fitted = _fit(make_task(x_ND, labels_NC, n_val=50, target=Target.MULTILABEL), lr=0.03, epochs=20, batch_size=32)
    assert ((fitted.val_scores > 0.5) == labels_NC[150:]).mean() > 0.95


def test_divergence_is_said_and_a_head_of_nan_never_comes_out(make_task, blobs):
    x_ND, y_N = blobs(60, 4, 2)
    with pytest.raises(HeadError, match="training diverged at lr = 1e\\+30"):
        _fit(make_task(x_ND, y_N), lr=1e30, epochs=3, batch_size=8)
    fitted = _fit(make_task(x_ND, y_N, n_val=20), lr=[1e-2, 1e30], epochs=3, batch_size=8)
    assert fitted.chosen["lr"] == 1e-2
    assert "training diverged at lr = 1e+30" in fitted.notes
    assert fitted.trials[1] == {"lr": 1e30, "diverged": True}
