import io

import numpy as np
import torch

from tle.finetuning.pictures import select_pictures
from tle.finetuning.scoring import Scored
from tle.finetuning.state import State
from tle.sources import open_source


def test_a_state_comes_back_from_a_checkpoint_as_it_was(photos):
    pictures = select_pictures(open_source(photos), None, cache=None, val_fraction=0.1, seed=0)
    scored = Scored(pictures.val, np.ones((9, 3), np.float32), pictures.labels[pictures.val], 0.5, 0.75)
    state = State(
        epoch=1, batch=2, step=7, loss_sum=1.5, seen=9, seconds=2.0, train_s=3.0, train_images=40,
        history=[{"epoch": 0, "step": 0, "val_accuracy": None}], lr=[[0.0, 0.1], [0.5, 1 / 3]], failures={3: "why"},
        first=scored, parity={"n": 9}, best=scored, best_epoch=1, best_weights={"w": torch.arange(3)},
    )  # fmt: skip
    file = io.BytesIO()
    torch.save(state.to_checkpoint(), file)
    file.seek(0)
    found = State.from_checkpoint(torch.load(file, weights_only=True), pictures)
    for name in State.__slots__:
        ours, theirs = getattr(state, name), getattr(found, name)
        if isinstance(ours, Scored):
            for field in ("rows", "scores", "labels"):
                np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
            assert (ours.loss, ours.metric) == (theirs.loss, theirs.metric)
        elif name == "best_weights":
            assert torch.equal(ours["w"], theirs["w"])
        else:
            assert ours == theirs, name


def test_an_empty_state_comes_back_too(photos):
    pictures = select_pictures(open_source(photos), None, cache=None, val_fraction=0.1, seed=0)
    assert State.from_checkpoint(State().to_checkpoint(), pictures) == State()
