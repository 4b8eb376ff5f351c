"""Scores of a network in training on the validation pictures, float32, and the figures that epochs are compared by.

# n pictures, K outputs
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tle.bootstrap import COUNTED, is_right
from tle.enums import Target
from tle.errors import HeadError
from tle.finetuning.loader import Batch
from tle.finetuning.losses import make_loss
from tle.finetuning.processes import Processes
from tle.heads.affine import Link, apply_link
from tle.heads.figures import LOWER_IS_BETTER, measure_figures


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Scores of pictures that could be read.

    Attributes:
        rows: (n,) int64 rows of the source, ascending.
        scores: (n, K) float32, after the link.
        labels: of those rows.
        loss: mean loss a picture.
        metric: the figure that epochs are compared by; None where it is not defined.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    labels: NDArray[Any]
    loss: float
    metric: float | None

    def beats(self, other: "Scored", metric: str) -> bool:
        """Whether it is better by the metric; where that does not tell the two apart, by the loss.

        Right answers tell two epochs apart when the difference is more than its standard error, sqrt(pictures that changed).
        By the bare figure the luckiest epoch would be taken: on 120 pictures an early one, with 2 more right, once was, and
        was 5 points behind the last one on 740 others.
        """
        ours, theirs = self.metric, other.metric
        if ours is None or theirs is None or ours == theirs:
            return self.loss < other.loss
        if metric in COUNTED:
            _, mine, its = np.intersect1d(self.rows, other.rows, assume_unique=True, return_indices=True)
            right = is_right(metric, self.scores[mine], self.labels[mine])
            was_right = is_right(metric, other.scores[its], other.labels[its])
            gained = int(right.sum()) - int(was_right.sum())
            if gained**2 <= int((right != was_right).sum()):
                return self.loss < other.loss
        return ours < theirs if metric in LOWER_IS_BETTER else ours > theirs


def score_network(
    network: nn.Module,
    batches: Iterable[Batch],
    labels: NDArray[Any],
    *,
    rows: NDArray[np.int64],
    outputs: int,
    target: Target,
    metric: str,
    device: str,
    processes: Processes,
) -> Scored:
    """Run a network, in eval mode, over validation pictures; the processes share the work.

    Args:
        network: pixels -> logits; put into eval mode.
        batches: this process's part of the pictures.
        labels: by row of the source.
        rows: (n,) rows of all processes together, ascending.
        outputs: K.
        target: what the labels are.
        metric: see `tle.heads.figures`.
        device: where the network is.
        processes: which process this is.

    Raises:
        HeadError: not one picture could be read, or a score is not finite.
    """
    network.eval()
    logits_nK = torch.zeros(len(rows), outputs, device=device)
    seen_n = torch.zeros(len(rows), device=device)
    # Not inference_mode: what a network makes in its first forward and keeps, such as positions for a size of picture, is made
    # here, before any step, and training has to go through it.
    with torch.no_grad():
        for batch in batches:
            if not len(batch.rows):
                continue
            places = torch.from_numpy(np.searchsorted(rows, batch.rows)).to(device)
            logits_nK[places] = network(batch.pixels.to(device, non_blocking=True)).float()
            seen_n[places] = 1
    processes.total(logits_nK)
    processes.total(seen_n)
    good = seen_n.cpu().numpy() > 0
    if not good.any():
        raise HeadError(f"not one of {len(rows)} validation pictures could be read")
    logits = logits_nK.cpu()[torch.from_numpy(good)]
    if not torch.isfinite(logits).all():
        raise HeadError("the network gives scores that are not finite: lower --lr, or pass --precision float32")
    found = labels[rows[good]]
    loss = float(make_loss(target)(logits, torch.from_numpy(np.ascontiguousarray(found))).mean())
    scores = apply_link(logits.numpy().copy(), Link.of(target))
    figure = measure_figures(target, [metric], scores, found)[metric].value
    return Scored(rows[good], scores, found, loss, figure)
