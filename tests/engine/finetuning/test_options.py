import json

import pytest

from tle.errors import UsageError
from tle.finetuning.options import OPTIMIZERS, FinetuneOptions


def test_defaults_go_with_the_optimizer_and_what_is_given_counts():
    defaults = {name: FinetuneOptions(optimizer=name) for name in OPTIMIZERS}
    assert len({options.peak_lr for options in defaults.values()}) == len(OPTIMIZERS)
    assert defaults["adamw"].decay == 0.05
    for name in OPTIMIZERS:
        options = FinetuneOptions(optimizer=name, lr=0.5, weight_decay=0.0)
        assert (options.peak_lr, options.decay) == (0.5, 0.0)


def test_rates_fall_by_layer_unless_something_else_says_how_they_go():
    assert FinetuneOptions().by_layer == 0.75
    assert FinetuneOptions(lr_rules=(("head", 1e-3),), freeze_rest=True).by_layer is None
    assert FinetuneOptions(lr_range=(1e-5, 1e-3)).by_layer is None
    assert FinetuneOptions(lr_rules=(("head", 1e-3),), layer_decay=0.5).by_layer == 0.5


def test_the_record_is_json_with_defaults_filled_in():
    record = FinetuneOptions(lr_rules=(("head", 1e-3),), lr_rest=1e-5, freeze=("stem",)).to_dict()
    assert json.loads(json.dumps(record))["lr_rules"] == [["head", 1e-3]]
    assert (record["lr"], record["weight_decay"], record["freeze"]) == (3e-4, 0.05, ["stem"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "adam"}, "--optimizer takes adamw, sgd, lamb, lars, got 'adam'"),
        ({"schedule": "step"}, "--schedule takes"),
        ({"batchnorm": "off"}, "--bn takes"),
        ({"keep": "all"}, "--keep takes"),
        ({"precision": "int8"}, "--precision takes"),
        ({"epochs": 0}, "--epochs takes a whole number from 1 on, got 0"),
        ({"epochs": True}, "--epochs takes"),
        ({"batch_size": 2.5}, "--batch-size takes a whole number from 1 on, got 2.5"),
        ({"lr": 0.0}, "--lr takes a number above 0"),
        ({"lr": float("nan")}, "--lr takes a number above 0, got nan"),
        ({"momentum": 1.0, "optimizer": "sgd"}, "--momentum takes a number from 0 to below 1, got 1.0"),
        ({"ema": -0.1}, "--ema takes"),
        ({"weight_decay": float("nan")}, "--weight-decay takes a number of at least 0"),
        ({"patience": 1.5}, "--patience takes a number of epochs"),
        ({"seed": -1}, "seed"),
        ({"momentum": 0.9}, "--momentum is of sgd and lars, adamw has none"),
        ({"crop_scale": (0.5, 1.0), "random_crop": False}, "--no-random-crop leaves out"),
        ({"warmup_groups": ("head",), "schedule": "one-cycle"}, "--warmup-groups needs a warmup"),
        ({"warmup_groups": ("head",), "warmup": "0"}, "--warmup-groups needs a warmup"),
        ({"lr": 1e-3, "lr_range": (1e-5, 1e-3)}, "says nothing beside --lr-range"),
        ({"lr": 1e-3, "lr_rules": (("head", 1e-2),), "lr_rest": 1e-5}, "--lr 0.001 says nothing beside rules"),
        ({"lr_rules": (("head", 1e-2),)}, "leaves the other parameters open"),
        ({"class_weights": True, "balanced_sampling": True}, "the same twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(options, said):
    with pytest.raises(UsageError) as caught:
        FinetuneOptions(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
