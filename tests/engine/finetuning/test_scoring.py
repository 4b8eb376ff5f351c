import numpy as np
import pytest
import torch

from tle.enums import Target
from tle.errors import HeadError
from tle.finetuning.loader import Batch
from tle.finetuning.processes import Processes
from tle.finetuning.scoring import Scored, score_network

LABELS = np.array([0, 1, 1, 0, 1, 0, 2])
ROWS = np.array([1, 2, 4, 6])


class Means(torch.nn.Module):
    """Logits are means of the colours."""

    def forward(self, pixels):
        assert not self.training
        return pixels.float().mean((1, 2))


def batches(*wanted):
    for number, rows in enumerate(wanted):
        pixels = torch.zeros(len(rows), 2, 2, 3, dtype=torch.uint8)
        for place, row in enumerate(rows):
            pixels[place, :, :, LABELS[row]] = 10
        yield Batch(number, pixels, np.array(rows, np.int64), {})


def score(network, found, **options):
    values = {"rows": ROWS, "outputs": 3, "target": Target.CLASS, "metric": "accuracy", "device": "cpu", **options}
    return score_network(network, found, LABELS, processes=Processes(), **values)


def test_scores_stand_by_row_whatever_the_batches():
    for wanted in (([1, 2, 4, 6],), ([1], [2, 4], [], [6])):
        found = score(Means().train(), batches(*wanted))
        np.testing.assert_array_equal(found.rows, ROWS)
        np.testing.assert_array_equal(found.scores.argmax(1), LABELS[ROWS])
        assert found.metric == 1.0
        assert found.loss == pytest.approx(np.log(1 + 2 * np.exp(-10)), abs=1e-6)


def test_pictures_that_could_not_be_read_are_left_out():
    found = score(Means(), batches([1, 6]))
    np.testing.assert_array_equal(found.rows, [1, 6])
    np.testing.assert_array_equal(found.labels, [1, 2])
    with pytest.raises(HeadError, match="not one of 4 validation pictures could be read"):
        score(Means(), batches([]))


def test_scores_that_are_not_finite_are_one_line():
    class Broken(torch.nn.Module):
        def forward(self, pixels):
            return pixels.float().mean((1, 2)) / 0.0

    with pytest.raises(HeadError, match="not finite: lower --lr"):
        score(Broken(), batches([1, 2, 4, 6]))


def test_what_a_network_keeps_of_its_first_forward_can_be_trained_through():
    class Positions(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.places = torch.nn.Parameter(torch.ones(())), None

        def forward(self, pixels):
            if self.places is None:
                self.places = torch.linspace(1, 2, pixels.shape[1])
            return (pixels.float().mean(2) * self.scale * self.places[:, None]).mean(1)

    network = Positions()
    score(network, batches([1, 2, 4, 6]))
    (batch,) = batches([1, 2])
    network.train()(batch.pixels).sum().backward()
    assert network.scale.grad == 2 * 1.5 * 10


def scored(metric, loss, right=0, n=100):
    """Two classes, of which the first `right` of n pictures are told rightly."""
    labels = np.zeros(n, np.int64)
    hit = (np.arange(n) < right).astype(np.float32)
    return Scored(np.arange(n), np.stack([hit, 1 - hit], 1), labels, loss, metric)


def test_better_is_by_the_metric_then_by_the_loss():
    assert not scored(0.9, 1.0).beats(scored(0.8, 5.0), "nll")
    assert scored(0.8, 1.0).beats(scored(0.8, 2.0), "mAP")
    assert not scored(0.8, 2.0).beats(scored(0.8, 2.0), "mAP")
    assert scored(None, 1.0).beats(scored(0.5, 2.0), "mAP")


def test_a_picture_more_right_is_luck_and_the_loss_decides():
    assert scored(0.9, 5.0, 90).beats(scored(0.8, 1.0, 80), "accuracy")
    assert not scored(0.8, 1.0, 80).beats(scored(0.9, 5.0, 90), "accuracy")
    assert not scored(0.81, 5.0, 81).beats(scored(0.8, 1.0, 80), "accuracy")
    assert scored(0.8, 1.0, 80).beats(scored(0.81, 5.0, 81), "accuracy")
    assert scored(0.82, 5.0, 82).beats(scored(0.8, 1.0, 80), "accuracy")  # both of 2 that changed, for the better
