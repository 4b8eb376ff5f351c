"""How the learning rate goes over a training, and when a training is long enough."""

import math
from dataclasses import dataclass, field

WARMUP = 0.05


def warmup_cosine(step: int, steps: int) -> float:
    """Factor of the learning rate: linear warmup from zero, times a cosine that decays to zero.

    f(s) = min(1, s / w) (1 + cos(pi s / S)) / 2,   w = 5 % of S, at least 1

    The warmup counts inside the S steps, and the cosine runs during it.

    Args:
        step: s, from 0 to `steps` - 1.
        steps: S, at least 1; what was planned, even if the training ends before.
    """
    warmup = max(1, round(WARMUP * steps))
    return min(1.0, step / warmup) * (1.0 + math.cos(math.pi * step / steps)) / 2.0


@dataclass(slots=True)
class Patience:
    """Watches one training's validation loss.

    Attributes:
        epochs: epochs without a better loss after which to stop.
        best: least loss so far.
        best_epoch: the epoch that gave it, from 1; 0 before the first.
    """

    epochs: int
    best: float = field(default=math.inf)
    best_epoch: int = 0

    def improves(self, epoch: int, loss: float) -> bool:
        """Take note of an epoch's loss, which is finite; whether it is the least so far. Equal losses: the earlier."""
        if loss < self.best:
            self.best, self.best_epoch = loss, epoch
            return True
        return False

    def is_over(self, epoch: int) -> bool:
        """Whether to stop after this epoch."""
        return epoch - self.best_epoch >= self.epochs
