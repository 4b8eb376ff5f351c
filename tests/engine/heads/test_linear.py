"""Minibatch heads: they learn, repeat with the seed, follow their schedule, and say when they diverge."""

import numpy as np
import pytest
import torch

from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.heads import linear
from tle.heads.driver import fit_task
from tle.heads.params import Params

GRID_2X2 = {"lr": [1e-2, 1e-3], "weight_decay": [0, 0.1], "epochs": 2, "patience": 5}


def _fit(task, **settings):
    return fit_task(task, "linear", settings)


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
    exact = fit_task(task, "logistic", {}).val_scores
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
    assert any(note.startswith("training diverged at lr = 1e+30") for note in fitted.notes)
    assert fitted.trials[1]["lr"] == 1e30
    assert fitted.trials[1]["diverged"] is True
    task = make_task(x_ND, y_N, n_val=20)
    wild = list(linear.attempts(task, Params("linear", {"lr": 1e30}), task.train, task.val))
    assert wild[0].scores is None
    assert wild[0].details == {"diverged_in_epoch": 1}


def test_every_rate_with_every_decay_the_most_regularised_first(make_task, blobs):
    task = make_task(*blobs(60, 4, 2), n_val=20)
    tried = list(linear.attempts(task, Params("linear", GRID_2X2), task.train, task.val))
    pairs = [(attempt.settings["lr"], attempt.settings["weight_decay"]) for attempt in tried]
    assert pairs == [(1e-3, 0.1), (1e-3, 0.0), (1e-2, 0.1), (1e-2, 0.0)]
    assert all(attempt.carry == {"epoch": attempt.details["epoch"]} for attempt in tried)
    assert len(linear.GRID) == 13


def test_the_last_fit_trains_as_long_as_was_best(make_task, blobs):
    task = make_task(*blobs(120, 30, 3, spread=4.0), n_val=40)
    fitted = _fit(task, lr=0.05, epochs=30, patience=3, batch_size=20)
    epoch = fitted.trials[0]["epoch"]
    assert epoch < 10  # noise: it over-fits at once
    assert fitted.chosen["epoch"] == epoch
    assert fitted.chosen["epochs"] == 30
    params, settings = Params("linear", {"epochs": 30}), {"lr": 0.05, "weight_decay": 0.0}
    folds = [{"epoch": 3}, {"epoch": 6}]
    assert linear.refit(task, params, task.both, settings, folds, 80).details["epoch"] == 4  # 4.5, to even
    assert linear.refit(task, params, task.both, settings, (), 80).details["epoch"] == 30


def test_without_validation_one_value_of_each_is_needed(make_task, blobs):
    task = make_task(*blobs(50, 4, 2))
    assert linear.default_settings(Params("linear", {})) == {"lr": 3e-3, "weight_decay": 1e-2}
    assert linear.default_settings(Params("linear", {"optimizer": "sgd"})) == {"lr": 5e-3, "weight_decay": 0.0}
    with pytest.raises(HeadError, match="2 values of weight_decay were given and no validation pictures"):
        _fit(task, weight_decay=[0, 0.1], lr=0.1)


def test_sgd_learns_too(make_task, digits):
    x_ND, y_N = digits
    fitted = _fit(make_task(x_ND, y_N, n_val=200), optimizer="sgd", epochs=15, batch_size=32)
    assert (fitted.val_scores.argmax(axis=1) == y_N[400:]).mean() > 0.9
    assert fitted.chosen["optimizer"] == "sgd"
    assert fitted.chosen["momentum"] == 0.9
    assert len(fitted.trials) == 13


def test_class_weights_move_the_threshold(make_task, blobs):
    x_ND, y_N = blobs(300, 3, 2, spread=3.0)
    rare = np.flatnonzero((y_N == 0) | (np.arange(300) % 10 == 1))
    task = make_task(x_ND[rare], y_N[rare])
    plain, balanced, named = (
        _fit(task, lr=0.03, epochs=20, class_weight=weight).model.scores(x_ND)[:, 1].mean()
        for weight in (None, "balanced", {"class 1": 50})
    )
    assert plain < 0.3
    assert plain + 0.1 < balanced < named


def test_refusals(make_task, blobs):
    task = make_task(*blobs(40, 4, 2))
    for settings, message in [
        ({"optimizer": "adam"}, "optimizer of head linear is one of adamw, sgd, got 'adam'"),
        ({"momentum": 0.9}, "momentum of head linear belongs to optimizer=sgd"),
        ({"optimizer": "sgd", "momentum": 1}, "momentum of head linear takes a number below 1, got 1"),
        ({"weight_decay": [0, -1]}, "weight_decay of head linear takes a number of at least 0, got -1"),
        ({"weight_decay": []}, "weight_decay of head linear is an empty list"),
        ({"class_weight": "heavy"}, "class_weight of head linear is balanced or weights by class name, got 'heavy'"),
        ({"class_weight": {"cat": 2}}, "class_weight names 'cat', which is no class"),
        ({"class_weight": {"class 0": 0, "class 1": 0}}, "class_weight is 0 for every class"),
        ({"device": "tpu"}, "device of head linear is cpu or cuda, got 'tpu'"),
    ]:
        with pytest.raises(UsageError, match=message):
            _fit(task, lr=0.1, epochs=1, **settings)
    regression = make_task(task.train.features, np.arange(40, dtype=np.float32), target=Target.REGRESSION)
    with pytest.raises(UsageError, match="class_weight is for target class, got target regression"):
        _fit(regression, class_weight="balanced")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_said(make_task, blobs):
    with pytest.raises(UsageError, match="torch finds no CUDA device: take device=cpu"):
        _fit(make_task(*blobs(40, 4, 2)), device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives(make_task, blobs):
    task = make_task(*blobs(200, 8, 3), n_val=50)
    cpu, cuda = (_fit(task, lr=[1e-3, 1e-2], epochs=5, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda.val_scores, cpu.val_scores, atol=1e-4)


def test_a_grid_that_is_too_large_for_memory_goes_in_parts(make_task, blobs, monkeypatch):
    task = make_task(*blobs(60, 4, 2), n_val=20)
    at_once = list(linear.attempts(task, Params("linear", GRID_2X2), task.train, task.val))
    monkeypatch.setattr(linear, "_STATE_BYTES", 1)
    in_parts = list(linear.attempts(task, Params("linear", GRID_2X2), task.train, task.val))
    for one, other in zip(at_once, in_parts, strict=True):
        assert one.settings == other.settings
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)
