"""A linear layer trained by minibatches, for what does not fit in memory: features stay on disk.

# n samples, D feature dim, P outputs (classes present in the fit, labels, or 1), B rows of a batch, S steps in all

    loss: cross-entropy, binary cross-entropy, or squared error on standardised values
    AdamW (Loshchilov & Hutter 2019) from zero weights; no decay of the bias
    lr(s) = lr min(1, s / warmup) (1 + cos(pi s / S)) / 2       s = 0 .. S - 1; warmup = 5 % of S, counted inside S

The learning rate is chosen on validation data. Starting weights are zero and the order of the samples comes from the
seed, so the same seed on the same machine gives the same layer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError
from tle.heads.affine import Affine, Link, embed_classes, make_affine
from tle.heads.params import Params
from tle.heads.samples import Samples, Task, as_targets
from tle.heads.scaler import Scaler, fit_scaler
from tle.heads.sweep import Fitted, edge_note, run_trials, score_samples, sole_value
from tle.heads.threads import torch_threads

if TYPE_CHECKING:
    import torch

PARAMS = ("lr", "weight_decay", "epochs", "batch_size")
TARGETS = (Target.CLASS, Target.MULTILABEL, Target.REGRESSION)
GRID = (1e-3, 3e-3, 1e-2, 3e-2)
DEFAULT_LR = 3e-3
WEIGHT_DECAY = 1e-2
EPOCHS = 40
BATCH_SIZE = 256
STEPS_PER_EPOCH = 10  # at least, unless a batch size is given: few samples in few steps would get nowhere
WARMUP = 0.05


@dataclass(frozen=True, slots=True)
class _Schedule:
    """How long and how strongly to train.

    Attributes:
        weight_decay: decoupled decay of the weights.
        epochs: passes over the samples.
        batch_size: samples a step; the last batch of an epoch may be smaller.
    """

    weight_decay: float
    epochs: int
    batch_size: int

    def lr(self, base: float, step: int, steps: int) -> float:
        """Learning rate of a step, from 0 to `steps` - 1: linear warmup from zero, then cosine decay to zero."""
        warmup = max(1, round(WARMUP * steps))
        return base * min(1.0, step / warmup) * (1.0 + math.cos(math.pi * step / steps)) / 2.0


def fit(task: Task, params: Params) -> Fitted:
    """Choose the learning rate on validation data, then train on train + val.

    Args:
        task: the samples.
        params: `lr` (one or a list), `weight_decay`, `epochs`, `batch_size`.

    Returns:
        The layer, with the sweep and the final training loss.

    Raises:
        UsageError: a setting out of range.
        HeadError: training diverged, or several lr and nothing to choose by.
    """
    grid = params.numbers("lr", GRID)
    schedule = _Schedule(
        params.number("weight_decay", WEIGHT_DECAY, inclusive=True),
        params.integer("epochs", EPOCHS),
        params.integer("batch_size", min(BATCH_SIZE, max(1, len(task.train) // STEPS_PER_EPOCH))),
    )
    notes: tuple[str, ...] = ()
    trials: list[dict[str, Any]] = []
    val_scores = None
    if len(task.val):
        train_scaler = fit_scaler(task.train)

        def score(setting: Mapping[str, Any]) -> NDArray[np.float32]:
            layer, _ = _train(task, task.train, train_scaler, setting["lr"], schedule)
            if layer is None:
                return np.full((len(task.val), task.outputs), np.nan, np.float32)
            return score_samples(layer, task.val, task.outputs)

        best, trials = run_trials(task, [{"lr": lr} for lr in grid], score)
        lr, val_scores = float(best.settings["lr"]), best.scores
        notes += edge_note("lr", grid, lr)
        if diverged := [trial["lr"] for trial in trials if trial.get("diverged")]:
            notes += (f"training diverged at lr = {', '.join(f'{value:g}' for value in diverged)}",)
    else:
        lr = sole_value("lr", grid, "lr" in params.values, DEFAULT_LR)
    scaler = fit_scaler(task.both)
    notes += scaler.notes
    layer, loss = _train(task, task.both, scaler, lr, schedule)
    if layer is None:
        raise HeadError(f"training diverged at lr = {lr:g}: take a smaller lr")
    chosen = {
        "lr": lr,
        "weight_decay": schedule.weight_decay,
        "epochs": schedule.epochs,
        "batch_size": schedule.batch_size,
        "train_loss": loss,
    }
    return Fitted(
        model=layer,
        chosen=chosen,
        trials=trials,
        val_scores=val_scores,
        notes=notes,
        packages=("torch", "scikit-learn"),
    )


def _train(task: Task, samples: Samples, scaler: Scaler, lr: float, schedule: _Schedule) -> tuple[Affine | None, float]:
    """Train one layer; None where it diverged. And the mean loss of the last epoch."""
    import torch

    targets = _Targets.of(task, samples)
    layer = torch.nn.Linear(samples.dim, targets.outputs)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    with torch_threads(schedule.batch_size * samples.dim * targets.outputs):
        loss = _run_epochs(layer, samples, targets, scaler, lr, schedule, np.random.default_rng(task.seed))
    if not math.isfinite(loss):
        return None, loss
    weight_PD = layer.weight.detach().numpy().astype(np.float64)
    bias_P = layer.bias.detach().numpy().astype(np.float64)
    weight_KD, bias_K = targets.restore(*scaler.fold(*targets.unscale(weight_PD, bias_P)))
    return make_affine(weight_KD, bias_K, Link.of(task.target)), loss


def _run_epochs(
    layer: "torch.nn.Linear",
    samples: Samples,
    targets: "_Targets",
    scaler: Scaler,
    lr: float,
    schedule: _Schedule,
    rng: np.random.Generator,
) -> float:
    """Train `layer` in place; the mean loss of the last epoch, or the first that is not finite."""
    import torch

    mean_D = torch.from_numpy(scaler.mean_D.astype(np.float32))
    inverse_D = torch.from_numpy((1.0 / scaler.scale_D).astype(np.float32))
    optimizer = torch.optim.AdamW(
        [
            {"params": [layer.weight], "weight_decay": schedule.weight_decay},
            {"params": [layer.bias], "weight_decay": 0.0},
        ]
    )
    n, size = len(samples), schedule.batch_size
    steps, step, epoch_loss = schedule.epochs * math.ceil(n / size), 0, 0.0
    for _ in range(schedule.epochs):
        order, epoch_loss = rng.permutation(n), 0.0
        for start in range(0, n, size):
            positions = np.sort(order[start : start + size])  # ascending: kinder to the disk, the same sum
            z_BD = (torch.from_numpy(samples.gather(positions)) - mean_D) * inverse_D
            loss = targets.loss(layer(z_BD), positions)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr(lr, step, steps)
            optimizer.step()
            step += 1
            epoch_loss += float(loss.detach()) * len(positions) / n
        if not math.isfinite(epoch_loss):
            break
    return epoch_loss


@dataclass(frozen=True, slots=True)
class _Targets:
    """What a target means for training: the outputs, the loss, and the way back to all K outputs."""

    values: "torch.Tensor"  # (n,) int64 indices among the present classes, else float32 (n, P)
    target: Target
    columns_P: NDArray[np.int64]
    all_outputs: int
    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, task: Task, samples: Samples) -> "_Targets":
        """Targets of some samples."""
        import torch

        if task.target is Target.CLASS:
            present_P, index_N = np.unique(samples.labels, return_inverse=True)
            return cls(torch.from_numpy(index_N.astype(np.int64)), task.target, present_P, task.outputs)
        values_NK = as_targets(samples.labels, task.target, task.outputs)
        mean, scale = 0.0, 1.0
        if task.target is Target.REGRESSION:
            mean, scale = float(values_NK.mean()), float(values_NK.std()) or 1.0
        scaled = torch.from_numpy(((values_NK - mean) / scale).astype(np.float32))
        return cls(scaled, task.target, np.arange(task.outputs), task.outputs, mean, scale)

    @property
    def outputs(self) -> int:
        """Outputs P of the layer while it trains."""
        return len(self.columns_P)

    def loss(self, logits_BP: "torch.Tensor", positions: NDArray[np.int64]) -> "torch.Tensor":
        """Mean loss of a batch."""
        from torch.nn import functional

        values = self.values[positions]
        if self.target is Target.CLASS:
            return functional.cross_entropy(logits_BP, values)
        if self.target is Target.MULTILABEL:
            return functional.binary_cross_entropy_with_logits(logits_BP, values)
        return functional.mse_loss(logits_BP, values)

    def unscale(
        self, weight_PD: NDArray[np.float64], bias_P: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The layer in the units of the labels."""
        return weight_PD * self.scale, bias_P * self.scale + self.mean

    def restore(
        self, weight_PD: NDArray[np.float64], bias_P: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The layer with a row for every output."""
        if self.target is Target.CLASS:
            return embed_classes(weight_PD, bias_P, self.columns_P, self.all_outputs)
        return weight_PD, bias_P
