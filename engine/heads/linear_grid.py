"""Many linear layers trained side by side on the same minibatches: a batch of features is read once for all.

# n samples, B rows of a batch, D feature dim, G layers, P outputs of each, M = G P

    z_BD      = (x_BD - mean) / scale
    logits_BM = z_BD @ W_MD.T + b_M              one product for all layers
    r_BM      = d loss / d logits                analytic, in place (`tle.kernels.softmax_xent`)
    g_MD      = r_BM.T @ z_BD                    one product for all layers

    sgd:    g += wd W;  v = momentum v + g;  W -= lr v                       as torch.optim.SGD
    adamw:  W -= lr wd W;  W -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)      as torch.optim.AdamW

Nothing goes from one layer to another. Biases are not decayed. A layer whose loss is no longer finite is dropped at the
end of the epoch, and so is one whose validation loss has not fallen for a while; the products shrink with them.

Source: Oquab et al. 2023, "DINOv2", and its linear evaluation, which trains its 13 learning rates so (each by its own
product); Loshchilov & Hutter 2019 for AdamW.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.linear_targets import LinearTargets
from tle.heads.samples import Samples
from tle.heads.scaler import Scaler
from tle.heads.schedules import Patience, warmup_cosine

if TYPE_CHECKING:
    import torch

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Member:
    """What one layer of the grid has of its own.

    Attributes:
        lr: base learning rate.
        weight_decay: decay of the weights.
    """

    lr: float
    weight_decay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What all layers share.

    Attributes:
        optimizer: "sgd" or "adamw".
        momentum: of sgd.
        epochs: passes over the samples that the schedule is laid out for.
        last_epoch: passes that are made, at most `epochs`.
        batch_size: samples a step; the last batch of an epoch may be smaller.
        patience: epochs without a better validation loss after which a layer is finished.
    """

    optimizer: str
    momentum: float
    epochs: int
    last_epoch: int
    batch_size: int
    patience: int


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of one layer.

    Attributes:
        weight_PD: float32 (P, D) on standardised features, of the best epoch; None where it diverged.
        bias_P: float32 (P,).
        epoch: the epoch they are from, from 1; the one in which it diverged.
        train_loss: mean loss over the batches of that epoch.
        val_loss: validation loss after it; None without validation.
    """

    weight_PD: NDArray[np.float32] | None = None
    bias_P: NDArray[np.float32] | None = None
    epoch: int = 0
    train_loss: float = math.nan
    val_loss: float | None = None


class FeatureReader:
    """Standardised float32 rows of samples, on the device that computes.

    Where the samples have random views, each is seen as it is in one of V + 1 epochs, in turn, and in a view in the others;
    where it begins is drawn, so that a batch has of all. float16 rows go through torch, whose conversion is 15 times as fast
    as NumPy's.
    """

    def __init__(self, samples: Samples, scaler: Scaler, device: "torch.device", seed: int = 0) -> None:
        """Read `samples`; views begin where the seed says."""
        import torch

        self.samples = samples
        self._turn_N = np.random.default_rng(seed).integers(0, len(samples.views) + 1, len(samples))
        self._mean_D = torch.from_numpy(scaler.mean_D.astype(np.float32)).to(device)
        self._inverse_D = torch.from_numpy((1.0 / scaler.scale_D).astype(np.float32)).to(device)

    def read(self, positions: NDArray[np.int64], epoch: int = 0) -> "torch.Tensor":
        """Rows at ascending positions within the samples, (len(positions), D), a fresh tensor."""
        import torch

        x_BD = torch.from_numpy(self._gather(positions, epoch))
        x_BD = x_BD.to(self._mean_D.device).to(torch.float32)
        return x_BD.sub_(self._mean_D).mul_(self._inverse_D)  # never in the cache's own memory: rows were gathered

    def _gather(self, positions: NDArray[np.int64], epoch: int) -> NDArray[Any]:
        """The rows as they are stored, copied."""
        rows, views = self.samples.rows[positions], self.samples.views
        if not views:
            return np.ascontiguousarray(self.samples.features[rows])
        shown_B = (self._turn_N[positions] + epoch) % (len(views) + 1)
        dtype = np.result_type(self.samples.features, *(view.features for view in views))
        found_BD = np.empty((len(rows), self.samples.dim), dtype)
        found_BD[shown_B == 0] = self.samples.features[rows[shown_B == 0]]
        for number, view in enumerate(views, 1):
            at = np.flatnonzero(shown_B == number)
            found_BD[at] = view.features[view.row_of_N[rows[at]]]
        return found_BD


class _Stack:
    """Parameters and optimizer state of the layers that still train."""

    def __init__(
        self, members: Sequence[Member], outputs: int, dim: int, recipe: Recipe, device: "torch.device"
    ) -> None:
        import torch

        self._recipe, self._outputs = recipe, outputs
        self.alive = list(range(len(members)))
        pairs = [[member.lr, member.weight_decay] for member in members]
        self._lr_decay = torch.tensor(pairs, dtype=torch.float64, device=device)
        shapes = {"weight": (len(members), outputs, dim), "bias": (len(members), outputs, 1)}
        self.parameters = {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}
        moments = 1 if recipe.optimizer == "sgd" else 2
        self._state = {
            name: [torch.zeros_like(value) for _ in range(moments)] for name, value in self.parameters.items()
        }
        self._steps = 0

    def logits(self, z_BD: "torch.Tensor") -> "torch.Tensor":
        """Float32 (B, G, P)."""
        weight_MD = self.parameters["weight"].flatten(0, 1)
        logits_BM = multiply(z_BD, weight_MD.T)
        logits_BM += self.parameters["bias"].flatten()
        return logits_BM.view(len(z_BD), len(self.alive), self._outputs)

    def step(self, residual_BGP: "torch.Tensor", z_BD: "torch.Tensor", factor: float) -> None:
        """One step of the optimizer; the learning rates are times `factor`."""
        self._steps += 1
        residual_BM = residual_BGP.flatten(1)
        gradients = {
            "weight": multiply(residual_BM.T, z_BD).view_as(self.parameters["weight"]),
            "bias": residual_BM.sum(dim=0).view_as(self.parameters["bias"]),
        }
        lr_G11 = (self._lr_decay[:, 0] * factor)[:, None, None]
        decay_G11 = self._lr_decay[:, 1][:, None, None]
        for name, gradient in gradients.items():
            value, state = self.parameters[name], self._state[name]
            decay = decay_G11 if name == "weight" else 0.0 * decay_G11
            if self._recipe.optimizer == "sgd":
                gradient.add_(decay.float() * value)
                state[0].mul_(self._recipe.momentum).add_(gradient)
                value.sub_(lr_G11.float() * state[0])
                continue
            mean, square = state
            mean.lerp_(gradient, 1.0 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1.0 - BETAS[1])
            value.mul_((1.0 - lr_G11 * decay).float())
            size = square.sqrt().div_(math.sqrt(1.0 - BETAS[1] ** self._steps)).add_(EPSILON)
            value.sub_((lr_G11 / (1.0 - BETAS[0] ** self._steps)).float() * (mean / size))

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the layers at some places only."""
        if len(places) == len(self.alive):
            return
        self.alive = [self.alive[place] for place in places]
        self._lr_decay = self._lr_decay[list(places)]
        for name in self.parameters:
            self.parameters[name] = self.parameters[name][list(places)].contiguous()
            self._state[name] = [value[list(places)].contiguous() for value in self._state[name]]

    def copy_layer(self, place: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight (P, D) and bias (P,) of the layer at a place."""
        weight_PD = self.parameters["weight"][place].cpu().numpy().copy()
        return weight_PD, self.parameters["bias"][place, :, 0].cpu().numpy().copy()


def train_grid(
    train: FeatureReader,
    targets: LinearTargets,
    members: Sequence[Member],
    recipe: Recipe,
    seed: int,
    val: tuple[FeatureReader, LinearTargets, NDArray[np.int64]] | None = None,
) -> list[Outcome]:
    """Train all members from zero weights on the same batches, in the order that the seed gives.

    Args:
        train: features to train on.
        targets: what they should give.
        members: learning rate and decay of each.
        recipe: what they share.
        seed: of the order of samples.
        val: features, targets and positions of validation samples; each layer goes back to its best epoch on them, and
            is finished once they say so. None: the last epoch counts.

    Returns:
        What became of each, in the order of `members`.
    """
    import torch

    rng, n, size = np.random.default_rng(seed), len(train.samples), recipe.batch_size
    stack = _Stack(members, targets.outputs, train.samples.dim, recipe, targets.values.device)
    outcomes, patience = [Outcome() for _ in members], [Patience(recipe.patience) for _ in members]
    steps, step = recipe.epochs * math.ceil(n / size), 0
    for epoch in range(1, recipe.last_epoch + 1):
        order = rng.permutation(n)
        loss_G = torch.zeros(len(stack.alive), dtype=torch.float64, device=targets.values.device)
        for start in range(0, n, size):
            positions = np.sort(order[start : start + size])  # ascending: kinder to the disk, the same sum
            z_BD = train.read(positions, epoch)
            logits_BGP = stack.logits(z_BD)
            loss_G += targets.residual_(logits_BGP, torch.from_numpy(positions).to(loss_G.device)) * (
                len(positions) / n
            )
            stack.step(logits_BGP, z_BD, warmup_cosine(step, steps))
            step += 1
        val_loss_G = None if val is None else _validate(stack, *val)
        kept = []
        for place, index in enumerate(stack.alive):
            train_loss = float(loss_G[place])
            val_loss = None if val_loss_G is None else float(val_loss_G[place])
            if not all(map(math.isfinite, (train_loss, train_loss if val_loss is None else val_loss))):
                outcomes[index] = Outcome(epoch=epoch, train_loss=train_loss, val_loss=val_loss)
                continue
            is_last = val_loss is None and epoch == recipe.last_epoch
            if is_last or (val_loss is not None and patience[index].improves(epoch, val_loss)):
                outcomes[index] = Outcome(*stack.copy_layer(place), epoch, train_loss, val_loss)
            if val_loss is None or not patience[index].is_over(epoch):
                kept.append(place)
        stack.keep(kept)
        if not kept:
            break
    return outcomes


def multiply(a: "torch.Tensor", b: "torch.Tensor") -> "torch.Tensor":
    """The product a @ b; on the CPU by NumPy's BLAS, which on AMD is twice as fast as torch's."""
    import torch

    if a.device.type != "cpu":
        return a @ b
    with np.errstate(all="ignore"):  # a layer that diverges says so by its loss
        return torch.from_numpy(a.numpy() @ b.numpy())


def _validate(
    stack: _Stack, reader: FeatureReader, targets: LinearTargets, positions: NDArray[np.int64]
) -> "torch.Tensor":
    """Mean validation loss of each layer, float64 (G,), in blocks of rows that keep logits and features small."""
    import torch

    total_G = torch.zeros(len(stack.alive), dtype=torch.float64, device=targets.values.device)
    width = max(reader.samples.dim, len(stack.alive) * targets.outputs)
    size = max(1, 2**22 // width)
    for start in range(0, len(positions), size):
        rows = slice(start, min(start + size, len(positions)))
        index = torch.arange(rows.start, rows.stop, device=total_G.device)
        logits_BGP = stack.logits(reader.read(positions[rows]))
        total_G += targets.residual_(logits_BGP, index) * len(index)
    return total_G / len(positions)
