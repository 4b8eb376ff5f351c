"""What a training works with, where it stands, and both as a checkpoint holds them.

# S steps, G groups, K outputs
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tle.finetuning.augmentation import Augmentation
from tle.finetuning.groups import Group
from tle.finetuning.options import FinetuneOptions
from tle.finetuning.pictures import Pictures
from tle.finetuning.processes import Processes
from tle.finetuning.schedules import Schedule
from tle.finetuning.scoring import Scored
from tle.pipeline import Decoding

# What a run may be told otherwise when it goes on: none of it changes the weights.
_FREE = frozenset({"workers", "checkpoint_minutes", "keep"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a training works with and does not change.

    Attributes:
        options: as given.
        pictures: what is trained on, and what decides.
        groups: of parameters.
        schedule: of the rates.
        steps_per_epoch: optimizer steps an epoch.
        decoding: how pictures become pixels in validation.
        augmentation: how they do in training.
        outputs: K.
        metric: what epochs are compared by.
        device: cpu or cuda.
        precision: float32, bfloat16 or float16.
        workers: threads that decode.
        processes: which process this is.
    """

    options: FinetuneOptions
    pictures: Pictures
    groups: tuple[Group, ...]
    schedule: Schedule
    steps_per_epoch: int
    decoding: Decoding
    augmentation: Augmentation
    outputs: int
    metric: str
    device: str
    precision: str
    workers: int
    processes: Processes


@dataclass(slots=True)
class State:
    """Where a training is; with the weights, all that a checkpoint needs.

    Attributes:
        epoch: epochs completed.
        batch: batches of the current epoch that are done.
        step: optimizer steps done.
        loss_sum: losses of the current epoch's pictures, added up.
        seen: pictures of the current epoch.
        seconds: time of the current epoch's training.
        train_s: time of all training so far, validation left out.
        train_images: pictures of all training so far.
        history: a row an epoch, the first before any step.
        lr: (S, G) rates as they were applied.
        failures: pictures that could not be read, by row of the source, with their reasons.
        first: scores before any step.
        parity: how near these are to those of the head on cached features; None where that could not be seen.
        best: scores of the best epoch.
        best_epoch: its number, from 1; 0 before the first.
        best_weights: the network's state dict then.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    train_s: float = 0.0
    train_images: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    lr: list[list[float]] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    first: Scored | None = None
    parity: dict[str, Any] | None = None
    best: Scored | None = None
    best_epoch: int = 0
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def to_checkpoint(self) -> dict[str, Any]:
        """As numbers, text, lists and tensors."""
        found = {name: getattr(self, name) for name in self.__slots__ if name not in ("first", "best", "lr")}
        found["lr"] = torch.tensor(self.lr, dtype=torch.float64)
        found["failures"] = sorted(self.failures.items())
        for name in ("first", "best"):
            scored = getattr(self, name)
            found[name] = None if scored is None else _scored_to_checkpoint(scored)
        return found

    @classmethod
    def from_checkpoint(cls, found: dict[str, Any], pictures: Pictures) -> "State":
        """The inverse of `to_checkpoint`."""
        values = dict(found)
        values["lr"] = found["lr"].tolist()
        values["failures"] = dict(found["failures"])
        for name in ("first", "best"):
            values[name] = None if found[name] is None else _scored_from_checkpoint(found[name], pictures)
        return cls(**values)


def _scored_to_checkpoint(scored: Scored) -> dict[str, Any]:
    return {
        "rows": torch.from_numpy(scored.rows),
        "scores": torch.from_numpy(scored.scores),
        "loss": scored.loss,
        "metric": scored.metric,
    }


def _scored_from_checkpoint(found: dict[str, Any], pictures: Pictures) -> Scored:
    rows = found["rows"].numpy()
    return Scored(rows, found["scores"].numpy(), pictures.labels[rows], found["loss"], found["metric"])


def run_identity(setting: Setting, *, backbone: Mapping[str, Any], head_digest: str, unit_rows: bool) -> dict[str, Any]:
    """What makes two runs the same training, JSON-able: options, data, weights, precision, processes.

    Args:
        setting: what the training works with.
        backbone: its spec: name, digest of the weights that it starts from, layer and pooling.
        head_digest: of the layer that it starts from.
        unit_rows: whether rows are brought to length 1 before that.
    """
    pictures = setting.pictures
    data = hashlib.sha256()
    for array in (pictures.train, pictures.val, pictures.digests[pictures.train], pictures.digests[pictures.val]):
        data.update(np.ascontiguousarray(array).tobytes())
    data.update(np.ascontiguousarray(pictures.labels[pictures.train]).tobytes())
    options = {name: value for name, value in setting.options.to_dict().items() if name not in _FREE}
    return {
        **{name: repr(value) for name, value in options.items()},
        "precision": setting.precision,
        "device": setting.device,
        "processes": setting.processes.world,
        "pictures": data.hexdigest()[:32],
        "target": str(pictures.target),
        "classes": hashlib.sha256("\0".join(pictures.classes).encode()).hexdigest()[:32],
        **{f"backbone {name}": backbone[name] for name in ("name", "weights_digest", "layer", "pool")},
        "unit_rows": unit_rows,
        "head": head_digest,
        "decoder": setting.decoding.decoder,
        "preprocess": setting.decoding.preprocess.describe(),
    }
