"""Epochs: what is reported of them, and when there are enough."""

import pytest

from tle.finetuning.options import FinetuneOptions
from tle.finetuning.processes import Processes
from tle.finetuning.training import steps_an_epoch


@pytest.mark.parametrize(
    ("n", "batch", "accumulate", "world", "steps"),
    [
        (21, 4, 1, 1, 5),
        (21, 4, 2, 1, 2),
        (21, 4, 1, 2, 2),
        (21, 32, 1, 1, 1),
        (21, 4, 3, 2, 1),
        (1, 8, 1, 4, 1),
        (24, 4, 3, 2, 1),
    ],
)
def test_steps_are_full_and_at_least_one(n, batch, accumulate, world, steps):
    options = FinetuneOptions(batch_size=batch, accumulate=accumulate)
    assert steps_an_epoch(n, options, Processes(world=world)) == steps


def test_history_has_a_row_an_epoch_and_one_before(train, capsys):
    history = train(epochs=3, progress=True).training["history"]
    assert [(row["epoch"], row["step"]) for row in history] == [(0, 0), (1, 5), (2, 10), (3, 15)]
    assert set(history[0]) == {"epoch", "step", "val_loss", "val_accuracy"}
    for row in history[1:]:
        assert row["images_per_s"] > 0 < row["seconds"]
        assert row["train_loss"] > 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "epoch " in line]
    assert [line.split(":")[1].strip() for line in lines if "train loss" in line] == [
        f"epoch {n} of 3" for n in (1, 2, 3)
    ]


def test_patience_stops_when_nothing_gets_better(train):
    result = train(lr=0.3, weight_decay=3.0, warmup="0", epochs=9, patience=2, metric="nll")
    history, best = result.training["history"], result.training["best_epoch"]
    assert history[-1]["epoch"] == best + 2 < 9
    assert min(history[1:], key=lambda row: row["val_nll"])["epoch"] == best


def test_the_best_epoch_is_what_is_kept(train, weights_of):
    import numpy as np

    harm = {"lr": 0.3, "weight_decay": 3.0, "warmup": "0", "schedule": "constant", "metric": "nll"}
    result = train(epochs=4, **harm)
    best = result.training["best_epoch"]
    train("short.tle", epochs=best, keep="last", **harm)
    for name, array in weights_of("a.tle").items():
        np.testing.assert_array_equal(array, weights_of("short.tle")[name])


def test_the_seed_decides_everything(train, assert_same, weights_of):
    import numpy as np

    options = {"mixup": 0.2, "network": "with_dropout", "keep": "last"}
    train("one.tle", seed=1, workers=1, **options)
    train("same.tle", seed=1, workers=3, **options)
    train("other.tle", seed=2, **options)
    assert_same("one.tle", "same.tle")
    assert not np.array_equal(weights_of("one.tle")["high.0.weight"], weights_of("other.tle")["high.0.weight"])
