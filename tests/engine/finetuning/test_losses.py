import numpy as np
import pytest
import torch
from torch.nn import functional

from tle.enums import Target
from tle.finetuning.losses import balanced_weights, make_loss

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.3, -2.0], [1.0, 1.0, 1.0], [-3.0, 4.0, 0.0]])
LABELS = torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torch_s(smoothing):
    found = make_loss(Target.CLASS, label_smoothing=smoothing)(LOGITS, LABELS)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(LOGITS, LABELS)
    torch.testing.assert_close(found.mean(), expected)
    mixed = functional.one_hot(LABELS, 3) * 0.7 + functional.one_hot(LABELS.roll(1), 3) * 0.3
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(LOGITS, mixed)
    torch.testing.assert_close(make_loss(Target.CLASS, label_smoothing=smoothing)(LOGITS, mixed).mean(), expected)


def test_weights_count_each_class_alike_and_are_one_on_average():
    labels = np.array([0] * 8 + [1] * 2 + [3] * 2)
    weights = balanced_weights(labels, 5)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([0.5, 2.0, 0.0, 2.0, 0.0]))
    assert float(weights[labels].mean()) == pytest.approx(1.0)
    losses = make_loss(Target.CLASS, weights_C=torch.tensor([0.5, 1.0, 4.0]))(LOGITS, LABELS)
    plain = make_loss(Target.CLASS)(LOGITS, LABELS)
    torch.testing.assert_close(losses, plain * torch.tensor([0.5, 4.0, 1.0, 1.0]))


def test_several_labels_and_numbers():
    indicators = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.uint8)
    found = make_loss(Target.MULTILABEL)(LOGITS, indicators)
    assert found.shape == (4,)
    torch.testing.assert_close(found.mean(), torch.nn.BCEWithLogitsLoss()(LOGITS, indicators.float()))
    found = make_loss(Target.REGRESSION)(LOGITS[:, :1], torch.tensor([1.0, 0.0, 4.0, -3.0]))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.0, 4.5, 0.0]))


@pytest.mark.parametrize("target", [Target.CLASS, Target.MULTILABEL, Target.REGRESSION])
def test_no_picture_has_no_loss(target):
    labels = {Target.CLASS: torch.zeros(0, dtype=torch.int64), Target.MULTILABEL: torch.zeros(0, 3, dtype=torch.uint8)}
    assert float(make_loss(target)(LOGITS[:0], labels.get(target, torch.zeros(0))).sum()) == 0.0
