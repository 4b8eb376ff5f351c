import sys

import pytest
import torch

from tle.errors import MissingPackageError
from tle.finetuning.optimizers import make_optimizer
from tle.finetuning.options import FinetuneOptions


def groups():
    return [
        {"params": [torch.nn.Parameter(torch.ones(2, 2))], "lr": 0.1, "weight_decay": 0.3, "name": "a"},
        {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.2, "weight_decay": 0.0, "name": "b"},
    ]


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("sgd", "SGD"), ("lamb", "Lamb"), ("lars", "Lars")])
def test_groups_keep_their_own_rate_and_decay(name, kind):
    momentum = 0.8 if name in ("sgd", "lars") else None
    optimizer = make_optimizer(groups(), FinetuneOptions(optimizer=name, momentum=momentum))
    assert type(optimizer).__name__ == kind
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        ("a", 0.1, 0.3),
        ("b", 0.2, 0.0),
    ]
    if momentum is not None:
        assert [group["momentum"] for group in optimizer.param_groups] == [0.8, 0.8]


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_lamb_and_lars_without_timm_are_one_line(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(MissingPackageError, match=f"--optimizer {name} needs timm: pip install timm"):
        make_optimizer(groups(), FinetuneOptions(optimizer=name))
    assert make_optimizer(groups(), FinetuneOptions(optimizer="sgd")) is not None
