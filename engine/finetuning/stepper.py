"""One step of the optimizer: rates, gradients of one or more batches over all processes, clipping, moving average.

# B pictures of a batch, K outputs, G groups
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tle.enums import Target
from tle.errors import HeadError
from tle.finetuning.batchnorm import apply_mode, is_batchnorm
from tle.finetuning.groups import optimiser_groups, unfreeze_epochs
from tle.finetuning.loader import Batch
from tle.finetuning.losses import balanced_weights, make_loss
from tle.finetuning.mixing import mix
from tle.finetuning.network import Network
from tle.finetuning.optimizers import make_optimizer
from tle.finetuning.state import Setting

_LIMIT_PASSES = 5
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ONE_VALUE = "Expected more than 1 value per channel"  # how torch's BatchNorm refuses a single picture of 1 x 1


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken.

    Attributes:
        loss_sum: losses of its pictures, of all processes, added up.
        rates: (G,) learning rates.
    """

    loss_sum: float
    rates: list[float]


class Stepper:
    """A network and what moves its weights."""

    def __init__(self, network: Network, setting: Setting) -> None:
        """Move the network to its device, freeze what is frozen, make the optimizer."""
        options, pictures = setting.options, setting.pictures
        self.network, self._setting = network.to(setting.device), setting
        self._parameters = network.public_parameters()
        self._optimizer = make_optimizer(optimiser_groups(setting.groups, self._parameters), options)
        self._scaler = torch.amp.GradScaler(setting.device, enabled=setting.precision == "float16")
        self._average = _moving_average(network, options.ema) if options.ema else None
        self._release = unfreeze_epochs(setting.groups) if options.unfreeze_schedule else {}
        weights = None
        if options.class_weights:
            weights = balanced_weights(pictures.labels[pictures.train], setting.outputs).to(setting.device)
        self._loss = make_loss(pictures.target, label_smoothing=options.label_smoothing, weights_C=weights)
        self._model: nn.Module = network
        self._frozen: frozenset[str] | None = None
        self._pixels: torch.Tensor | None = None

    @property
    def evaluated(self) -> nn.Module:
        """What is validated and kept: the moving average, where there is one and a step was taken."""
        if self._average is None or not int(self._average.n_averaged):
            return self.network
        return self._average.module

    def weights(self) -> dict[str, torch.Tensor]:
        """State dict of the network as it would be kept; copies on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.evaluated.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to step on as if nothing had happened."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
        }

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Be where `state_dict` was taken."""
        self.network.load_state_dict(found["network"])
        self._optimizer.load_state_dict(found["optimizer"])
        self._scaler.load_state_dict(found["scaler"])
        if self._average is not None:
            self._average.load_state_dict(found["average"])

    def prepare(self, epoch: int) -> None:
        """Which parameters train in this epoch, and the modes of the layers that belong to it."""
        frozen = frozenset(
            name
            for group in self._setting.groups
            if group.frozen or self._release.get(group.name, 0) > epoch
            for name in group.parameters
        )
        self.network.train()
        apply_mode(self.network.backbone, frozen, self._setting.options.batchnorm)
        if frozen == self._frozen:
            return
        self._frozen = frozen
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name not in frozen)
        if self._setting.processes.world > 1:
            ids = [self._setting.processes.local_rank] if self._setting.device == "cuda" else None
            idle = self._has_idle_parameters()
            apply_mode(self.network.backbone, frozen, self._setting.options.batchnorm)
            self._model = DistributedDataParallel(
                self.network, device_ids=ids, broadcast_buffers=False, find_unused_parameters=idle
            )

    def _has_idle_parameters(self) -> bool:
        """Whether the output depends on less than all that is trained: for such gradients no process may wait.

        Auxiliary classifiers are of this kind, and whatever a user's network has to spare. Leaves the network in train mode.
        """
        height, width = self._setting.decoding.preprocess.crop
        self.network.eval()
        pixels = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=self._setting.device)
        self.network(pixels).sum().backward()
        idle = any(value.requires_grad and value.grad is None for value in self._parameters.values())
        self._optimizer.zero_grad(set_to_none=True)
        self.network.train()
        return idle

    def take(self, batches: Sequence[Batch], *, epoch: int, step: int, count: int) -> Taken:
        """Take one step.

        Args:
            batches: this process's, at least one; any of them may be empty.
            epoch: from 0; `prepare` was called for it.
            step: from 0.
            count: pictures of the batches of all processes.

        Raises:
            HeadError: the loss is not finite, or a picture is alone where BatchNorm needs several.
        """
        setting, processes = self._setting, self._setting.processes
        rates = self._set_rates(epoch, step)
        # A function of the step alone: dropout is the same in a run that was interrupted and in one that was not.
        seed = np.random.SeedSequence([setting.options.seed, step, processes.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        total = torch.zeros((), device=setting.device)
        for batch in batches:
            last = batch is batches[-1]
            with nullcontext() if last or processes.world == 1 else self._model.no_sync():  # type: ignore[operator]
                loss = self._loss_of(batch, epoch)
                # Gradients of several processes are averaged; the mean over all pictures is what is wanted.
                self._scaler.scale(loss * (processes.world / max(count, 1))).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        loss_sum = float(processes.total(total))
        if not np.isfinite(loss_sum):
            raise HeadError(
                f"the loss is not finite at step {step}: lower --lr, lengthen --warmup, or pass --precision float32"
            )
        self._update()
        return Taken(loss_sum, rates)

    def _loss_of(self, batch: Batch, epoch: int) -> torch.Tensor:
        """Losses of a batch, added up."""
        pixels, targets = self._inputs(batch, epoch)
        if len(pixels):
            self._pixels = batch.pixels
        try:
            with self._autocast():
                logits = self._model(pixels)
        except ValueError as error:
            if _ONE_VALUE not in str(error):
                raise
            raise HeadError(
                "--bn train needs the statistics of a batch, and there is one of a single picture: raise --batch-size, or "
                "take --bn eval"
            ) from error
        return self._loss(logits.float(), targets).sum()

    def _update(self) -> None:
        """From gradients to weights."""
        clip = self._setting.options.clip
        if clip:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_([p for p in self._parameters.values() if p.grad is not None], clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._share_statistics()
        if self._average is not None:
            self._average.update_parameters(self.network)

    def _share_statistics(self) -> None:
        """The mean over the processes of the running statistics of BatchNorm that moved; each saw its own pictures alone."""
        processes = self._setting.processes
        if processes.world == 1 or self._setting.options.batchnorm != "train":
            return
        moved = [
            statistic
            for module in self.network.modules()
            if is_batchnorm(module) and module.training
            for statistic in (module.running_mean, module.running_var)
            if isinstance(statistic, torch.Tensor)
        ]
        if moved:
            mean = processes.total(torch.cat([statistic.flatten() for statistic in moved])) / processes.world
            for statistic, part in zip(moved, mean.split([statistic.numel() for statistic in moved]), strict=True):
                statistic.copy_(part.reshape(statistic.shape))

    def _inputs(self, batch: Batch, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels and targets on the device."""
        setting, options = self._setting, self._setting.options
        labels = torch.from_numpy(np.ascontiguousarray(setting.pictures.labels[batch.rows]))
        pixels, labels = (value.to(setting.device, non_blocking=True) for value in (batch.pixels, labels))
        if setting.pictures.target is not Target.CLASS or not (options.mixup or options.cutmix):
            return pixels, labels
        return mix(
            pixels,
            labels,
            setting.outputs,
            mixup=options.mixup,
            cutmix=options.cutmix,
            seed=options.seed,
            epoch=epoch,
            batch=batch.number,
        )

    def _set_rates(self, epoch: int, step: int) -> list[float]:
        """Give every group its rate of this step; (G,) what they are."""
        setting = self._setting
        rates = []
        for group in setting.groups:
            release = self._release.get(group.name, 0)
            factor = setting.schedule.factor(step, warmup=group.warmup, released=release * setting.steps_per_epoch)
            rates.append(0.0 if group.frozen or release > epoch else group.lr * factor)
        by_name = {group.name: rate for group, rate in zip(setting.groups, rates, strict=True)}
        for trained in self._optimizer.param_groups:
            trained["lr"] = by_name[trained["name"]]
        return rates

    def limit_images_per_s(self) -> float | None:
        """Rate of training steps alone, on a batch that is at hand; None before any. Spoils weights and optimizer."""
        if self._pixels is None:
            return None
        pixels = self._pixels.to(self._setting.device)
        seconds = []
        for _ in range(_LIMIT_PASSES):
            started = time.perf_counter()
            with self._autocast():
                logits = self.network(pixels)
            logits.float().square().mean().backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            if self._setting.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return len(pixels) * self._setting.processes.world / min(seconds)

    def _autocast(self) -> torch.autocast:
        precision = self._setting.precision
        return torch.autocast(self._setting.device, dtype=_DTYPES[precision], enabled=precision != "float32")


def _moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """An average that forgets its start: at step t its decay is at most (1 + t) / (10 + t), as TensorFlow's and timm's."""

    @torch.no_grad()
    def average(kept: list[torch.Tensor], now: list[torch.Tensor], n_averaged: torch.Tensor | int) -> None:
        t = int(n_averaged)
        torch._foreach_lerp_(kept, now, 1.0 - min(decay, (1 + t) / (10 + t)))

    return AveragedModel(network, multi_avg_fn=average)  # type: ignore[arg-type]
