"""A training that is stopped, wherever that is, ends as one that was not."""

from pathlib import Path

import pytest

from tle.errors import HeadError, OutputError, UsageError
from tle.sources import Source

STATEFUL = {
    "momentum": {"lr": 0.05},
    "average": {"ema": 0.9, "optimizer": "adamw", "lr": 1e-3, "batchnorm": "train"},
    "accumulation": {"accumulate": 2, "batch_size": 3, "schedule": "linear"},
    "mixed": {"mixup": 0.4, "cutmix": 1.0, "rand_augment": (1, 9), "label_smoothing": 0.1},
    "dropout": {"network": "with_dropout", "schedule": "one-cycle", "balanced_sampling": True},
    "unfreezing": {"unfreeze_schedule": True, "epochs": 3, "optimizer": "lamb"},
}


@pytest.mark.parametrize("options", STATEFUL.values(), ids=STATEFUL)
def test_a_stopped_training_ends_bit_for_bit_as_one_that_was_not(train, interrupt_after, assert_same, options):
    options = {"keep": "last", **options}
    steps = train("whole.tle", **options).training["history"][-1]["step"]
    for after in (2, steps // 2 - 1):  # in the middle of an epoch; and again, after its end
        interrupt_after(after)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on at step"):
            train("parts.tle", **options)
        assert not Path("parts.tle").exists()
    result = train("parts.tle", **options)
    assert result.training["history"][-1]["step"] == steps
    assert_same("whole.tle", "parts.tle")


def test_the_best_epoch_is_kept_over_an_interruption(train, fit, interrupt_after, assert_same):
    head = fit()
    options = {"init": head, "lr": 3.0, "clip": 0.0, "keep": "finetuned", "epochs": 3, "metric": "nll"}
    train("whole.tle", **options)
    interrupt_after(13)
    with pytest.raises(KeyboardInterrupt, match="step 11 "):
        train("parts.tle", **options)
    train("parts.tle", **options)
    assert_same("whole.tle", "parts.tle")


def test_the_number_of_threads_and_what_to_keep_may_change_on_the_way(train, interrupt_after, assert_same):
    train("whole.tle", keep="last")
    interrupt_after(4)
    with pytest.raises(KeyboardInterrupt):
        train("parts.tle", keep="best", workers=1)
    train("parts.tle", keep="last", workers=3, checkpoint_minutes=1.0)
    assert_same("whole.tle", "parts.tle")


def test_nothing_that_was_done_is_read_again(train, interrupt_after, monkeypatch):
    interrupt_after(3)
    with pytest.raises(KeyboardInterrupt):
        train(epochs=1)
    rows = []
    plain = Source.read
    monkeypatch.setattr(Source, "read", lambda self, row: rows.append(row) or plain(self, row))
    result = train(epochs=1)
    assert result.training["history"][-1]["step"] == 5
    # Every picture for its digest, which says that the data are the same; then 2 of 5 batches of 4, and 9 to validate on.
    assert len(rows) == 30 + 2 * 4 + 9


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(train, interrupt_after):
    interrupt_after(3)
    with pytest.raises(KeyboardInterrupt):
        train()
    with pytest.raises(UsageError, match=r"another run \(lr: 0.01 instead of 0.02.*--overwrite") as caught:
        train(lr=0.02)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="epochs: 2 instead of 3; seed: 0 instead of 1"):
        train(seed=1, epochs=3)
    assert train(lr=0.02, overwrite=True).training["history"][-1]["step"] == 10


def test_other_pictures_are_another_run(train, interrupt_after, photos):
    interrupt_after(3)
    with pytest.raises(KeyboardInterrupt):
        train()
    (photos / "train" / "blue" / "000.jpg").unlink()
    with pytest.raises(UsageError, match=r"another run \(pictures: "):
        train()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", "half"])
def test_a_damaged_checkpoint_is_refused_until_it_may_be_replaced(train, interrupt_after, content):
    interrupt_after(3)
    with pytest.raises(KeyboardInterrupt):
        train()
    checkpoint = Path("a.tle.checkpoint")
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(HeadError, match="no readable checkpoint") as caught:
        train()
    assert "\n" not in str(caught.value)
    assert train(overwrite=True).path == Path("a.tle")


def test_a_finished_run_is_not_repeated_by_mistake_and_is_when_asked(train):
    first = train(patience=1, lr=1e-30, epochs=5)
    assert first.training["history"][-1]["epoch"] == 2  # nothing got better
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        train(patience=1, lr=1e-30, epochs=5)
    before = Path("a.tle.checkpoint").stat().st_mtime_ns
    again = train(patience=1, lr=1e-30, epochs=5, overwrite=True)
    assert Path("a.tle.checkpoint").stat().st_mtime_ns > before
    assert again.training["history"][1]["seconds"] != first.training["history"][1]["seconds"]


def test_a_lost_classifier_is_written_again_without_training(train, assert_same):
    result = train()
    Path("a.tle").rename("b.tle")
    again = train()
    assert again.training["history"] == result.training["history"]
    assert_same("a.tle", "b.tle")


def test_overwrite_goes_on_with_a_run_that_was_stopped(train, interrupt_after, assert_same):
    train("whole.tle")
    interrupt_after(4)
    with pytest.raises(KeyboardInterrupt):
        train(overwrite=True)
    train(overwrite=True)
    assert_same("a.tle", "whole.tle")
