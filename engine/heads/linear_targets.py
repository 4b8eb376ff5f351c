"""What a target means for training a linear layer: the outputs, the loss with its residual, and the way back.

# n samples, B rows of a batch, G layers, P outputs of each (classes present in the fit, labels, or 1), K all outputs

    classes:     loss = mean_n w_n (-log softmax(z_n)[y_n])       w_n: weight of the class, mean 1
    labels:      loss = mean_n mean_p log(1 + exp((1 - 2 t_np) z_np))
    regression:  loss = mean_n (z_n - t_n)^2                       t: standardised
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import UsageError
from tle.heads.affine import embed_classes
from tle.heads.samples import Samples, Task, as_targets
from tle.kernels.softmax_xent import sigmoid_xent_, softmax_xent_

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class LinearTargets:
    """Targets of some samples.

    Attributes:
        values: on the device that computes: int64 (n,) indices among the present classes, uint8 (n, P) indicators, or
            float32 (n, 1) standardised values.
        weight_N: float32 (n,) there, of mean 1; None for 1.
        target: what they are.
        columns_P: int64 (P,), the outputs that are trained.
        all_outputs: K.
        mean: of the values before they were standardised.
        scale: of the values before they were standardised.
    """

    values: "torch.Tensor"
    weight_N: "torch.Tensor | None"
    target: Target
    columns_P: NDArray[np.int64]
    all_outputs: int
    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(
        cls, task: Task, samples: Samples, device: "torch.device", class_weight: str | Mapping[str, float] | None = None
    ) -> "LinearTargets":
        """Targets to train on.

        Args:
            task: target, classes.
            samples: the samples.
            device: what computes.
            class_weight: "balanced", where every present class weighs the same in all; or weights by class name, 1 for
                those not named. They are scaled to a mean of 1 over the samples. Only for classes.

        Raises:
            UsageError: weights for another target, or of a class that is not there.
        """
        import torch

        if class_weight is not None and task.target is not Target.CLASS:
            raise UsageError(f"class_weight is for target class, got target {task.target}: leave it out")
        if task.target is Target.CLASS:
            present_P, index_N = np.unique(samples.labels, return_inverse=True)
            values = torch.from_numpy(index_N.astype(np.int64)).to(device)
            weight_N = _weigh(class_weight, present_P, index_N, task.classes)
            weight = None if weight_N is None else torch.from_numpy(weight_N.astype(np.float32)).to(device)
            return cls(values, weight, task.target, present_P, task.outputs)
        columns = np.arange(task.outputs)
        if task.target is Target.MULTILABEL:
            indicators = torch.from_numpy(np.ascontiguousarray(samples.labels, dtype=np.uint8))
            return cls(indicators.to(device), None, task.target, columns, task.outputs)
        values_N1 = as_targets(samples.labels, task.target, task.outputs)
        mean, scale = float(values_N1.mean()), float(values_N1.std()) or 1.0
        scaled = torch.from_numpy(((values_N1 - mean) / scale).astype(np.float32)).to(device)
        return cls(scaled, None, task.target, columns, task.outputs, mean, scale)

    def of_validation(self, val: Samples) -> tuple["LinearTargets", NDArray[np.int64]]:
        """Targets of validation samples in the same terms, unweighted, and which samples they belong to.

        Samples of a class that the fit has not seen are left out: no epoch can be better for them.
        """
        import torch

        positions = np.arange(len(val))
        if self.target is Target.CLASS:
            positions = np.flatnonzero(np.isin(val.labels, self.columns_P))
            values: NDArray[Any] = np.searchsorted(self.columns_P, val.labels[positions]).astype(np.int64)
        elif self.target is Target.MULTILABEL:
            values = np.ascontiguousarray(val.labels, dtype=np.uint8)
        else:
            values = ((as_targets(val.labels, self.target, 1) - self.mean) / self.scale).astype(np.float32)
        tensor = torch.from_numpy(values).to(self.values.device)
        return LinearTargets(
            tensor, None, self.target, self.columns_P, self.all_outputs, self.mean, self.scale
        ), positions

    @property
    def outputs(self) -> int:
        """P."""
        return len(self.columns_P)

    def residual_(self, logits_BGP: "torch.Tensor", positions: "torch.Tensor") -> "torch.Tensor":
        """Overwrite logits with the gradient of the loss by them, and give the losses.

        Args:
            logits_BGP: float32 (B, G, P), contiguous.
            positions: int64 (B,), the samples that they belong to.

        Returns:
            float64 (G,), mean loss of the batch.
        """
        import torch

        size, layers, outputs = logits_BGP.shape
        values = self.values[positions]
        if self.target is Target.REGRESSION:
            logits_BGP -= values[:, :, None]
            losses_G = logits_BGP.square().sum(dim=(0, 2), dtype=torch.float64) / size
            logits_BGP *= 2.0 / size
            return losses_G
        share = torch.full((size,), 1.0 / size, dtype=torch.float32, device=logits_BGP.device)
        if self.target is Target.CLASS:
            if self.weight_N is not None:
                share *= self.weight_N[positions]
            return softmax_xent_(logits_BGP, values, share)
        flat = logits_BGP.view(size, layers * outputs)
        losses = sigmoid_xent_(flat, values.repeat(1, layers), share / outputs)
        return losses.view(layers, outputs).sum(dim=1)

    def restore(
        self, weight_PD: NDArray[np.float64], bias_P: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The layer with a row for every output K, in the units of the labels."""
        if self.target is Target.CLASS:
            return embed_classes(weight_PD, bias_P, self.columns_P, self.all_outputs)
        return weight_PD * self.scale, bias_P * self.scale + self.mean


def _weigh(
    class_weight: str | Mapping[str, float] | None,
    present_P: NDArray[np.int64],
    index_N: NDArray[np.int64],
    classes: tuple[str, ...],
) -> NDArray[np.float64] | None:
    """(n,) weights of mean 1."""
    if class_weight is None:
        return None
    if isinstance(class_weight, str):
        weight_P = 1.0 / np.bincount(index_N)
    else:
        if unknown := [name for name in class_weight if name not in classes]:
            raise UsageError(
                f"class_weight names {unknown[0]!r}, which is no class of the cache: look at `tle inspect`"
            )
        weight_P = np.array([class_weight.get(classes[index], 1.0) for index in present_P])
    weight_N = weight_P[index_N]
    if not weight_N.any():
        raise UsageError("class_weight is 0 for every class that has a picture to fit on: give one of them more")
    return np.asarray(weight_N / weight_N.mean())
