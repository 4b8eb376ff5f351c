"""What is kept at the end, and what is said of it."""

import json
from pathlib import Path

import numpy as np

import tle
from tle.bundle import read_bundle
from tle.finetuning.training import Trainer


def test_what_is_kept_is_what_was_scored(train):
    for keep in ("best", "last"):
        result = train(f"{keep}.tle", keep=keep, lr=0.3, weight_decay=2.0, warmup="0", epochs=3, metric="nll")
        epoch = result.training["best_epoch"] if keep == "best" else 3
        bundle = read_bundle(f"{keep}.tle")
        assert bundle.metrics["val"]["nll"] == np.float64(result.training["history"][epoch]["val_nll"])
        assert bundle.head.fit["chosen"] == {"epoch": epoch}
        classifier = tle.load_classifier(f"{keep}.tle", execution=tle.Execution(runtime="torch", device="cpu"))
        scores = np.concatenate([part.scores for part in classifier.predict("photos/val")])
        nll = -np.log(scores[np.arange(9), np.repeat(np.arange(3), 3)]).mean()
        np.testing.assert_allclose(nll, result.training["history"][epoch]["val_nll"], rtol=1e-3)


def test_figures_of_the_last_epoch_are_those_of_its_weights_measured_again(train, fit):
    options = {
        "init": fit(),
        "keep": "last",
        "lr": 0.3,
        "weight_decay": 2.0,
        "warmup": "0",
        "metric": "nll",
        "epochs": 3,
    }
    assert train(**options).training["best_epoch"] < 3
    told = read_bundle("a.tle")
    Path("a.tle").unlink()
    train(**options)  # out of the checkpoint, which holds the last weights without their scores
    again = read_bundle("a.tle")
    assert (again.metrics, again.training["verdict"]) == (told.metrics, told.training["verdict"])


def test_no_weights_are_validated_twice(train, fit, monkeypatch):
    passes = []
    plain = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda self: passes.append(self.state.epoch) or plain(self))
    train(init=fit(), keep="last", epochs=2)
    assert passes == [0, 1, 2]


def test_the_result_is_json_and_repeats_the_notes(train, fit, capsys):
    result = train(init=fit(), epochs=1, progress=True)
    told = json.loads(json.dumps(result.to_dict()))
    assert (told["path"], told["checkpoint"], told["n_train"], told["n_val"]) == ("a.tle", "a.tle.checkpoint", 21, 9)
    assert "lr" not in told
    shown = capsys.readouterr().err
    assert told["notes"]
    assert all(f"note: {note}\n" in shown for note in told["notes"])
    assert Path(told["checkpoint"]).is_file()
