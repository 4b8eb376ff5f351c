"""A linear layer trained by minibatches, for what does not fit in memory: features stay on disk.

# n samples, D feature dim, P outputs (classes present in the fit, labels, or 1), G settings

    loss: cross-entropy (classes, which may be weighted), binary cross-entropy, or squared error on standardised values
    AdamW, or SGD with momentum, from zero weights; no decay of the bias
    lr: 5 % of all steps of linear warmup from zero, counted inside, times a cosine to zero

Every learning rate is tried with every weight decay, all of them in one pass over the features (`linear_grid`). After
each epoch the loss on validation data is taken. A setting is finished once it has not fallen for `patience` epochs, and
stands for its best epoch; the last fit follows the same schedule and stops after that epoch (with folds, the mean of
theirs). Validation figures are those of the best epoch on the same pictures, and so a little flattering.

With random views of the pictures (`tle.extract(view=...)`) an epoch sees another view of each picture than the one
before. Features are standardised, and validated, as the pictures are. Four views of 1,199 tiles of 36 photos took the
accuracy on other parts of the photos from 0.853, 0.841 and 0.851 (three seeds) to 0.872, 0.868 and 0.881.

Starting weights are zero and the order of the samples comes from the seed, so the same seed on the same machine gives
the same layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.heads.affine import Affine, Link, make_affine
from tle.heads.linear_grid import FeatureReader, Member, Outcome, Recipe, train_grid
from tle.heads.linear_targets import LinearTargets
from tle.heads.params import Params
from tle.heads.samples import Samples, Task
from tle.heads.scaler import Scaler, fit_scaler
from tle.heads.sweep import Attempt, Refit, score_samples, sole_value
from tle.heads.threads import blas_threads, torch_threads
from tle.heads.words import device_of

if TYPE_CHECKING:
    import torch

PARAMS = (
    "lr", "weight_decay", "optimizer", "momentum", "epochs", "batch_size", "patience", "class_weight", "device",
)  # fmt: skip
TARGETS = (Target.CLASS, Target.MULTILABEL, Target.REGRESSION)
EDGES = ("lr",)
# The 13 learning rates of DINOv2's linear evaluation; there they are further scaled by the batch size / 256.
GRID = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
# For 40 epochs without validation, by accuracy on held-out pictures: Fashion-MNIST by EfficientNet-Lite0 (16,000 and 1,000
# pictures, D = 1,280) and raw digits (600, D = 64). sgd 5e-3 gave 0.883, 0.832, 0.890 (1e-3: 0.874, 0.826, 0.847); adamw
# 3e-3 gave 0.872, 0.831, 0.899, and 1e-3 0.880, 0.834, 0.865: few dimensions and few steps want more.
DEFAULT_LR = {"adamw": 3e-3, "sgd": 5e-3}
WEIGHT_DECAY = {"adamw": 1e-2, "sgd": 0.0}
MOMENTUM = 0.9
EPOCHS = 40
PATIENCE = 10
BATCH_SIZE = 256
STEPS_PER_EPOCH = 10  # at least, unless a batch size is given: few samples in few steps would get nowhere
_STATE_BYTES = 2**31  # of parameters, gradients, moments, best layers and temporaries of the settings of one pass
_COPIES = 8


def attempts(task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
    """Train every setting on `train`, watched by `val`; see `tle.heads.sweep.Kind`.

    Args:
        task: target, classes and seed.
        params: `lr` and `weight_decay` (one or a list), `optimizer` (adamw or sgd), `momentum` (of sgd), `epochs`,
            `batch_size`, `patience` (epochs), `class_weight` ("balanced", or weights by class name), `device` (cpu or
            cuda).
        train: what to fit on.
        val: what to choose the epoch by, and to score.

    Yields:
        Small learning rates first, and of each the strong decay first.

    Raises:
        UsageError: a setting out of range, or a device that is not there.
    """
    device = _device(params)
    recipe = _recipe(params, len(train))
    scaler = fit_scaler(train)
    targets = LinearTargets.of(task, train, device, _class_weight(params))
    val_targets, positions = targets.of_validation(val)
    watch = (FeatureReader(val, scaler, device), val_targets, positions) if len(positions) else None
    members = [Member(lr, decay) for lr, decay in product(_rates(params), reversed(_decays(params, recipe.optimizer)))]
    step = max(1, _STATE_BYTES // (_COPIES * 4 * targets.outputs * (train.dim + recipe.batch_size)))
    for start in range(0, len(members), step):
        group = members[start : start + step]
        outcomes = _train(train, scaler, targets, group, recipe, task.seed, watch)
        for member, outcome in zip(group, outcomes, strict=True):
            yield _attempt(task, member, outcome, targets, scaler, val)


def default_settings(params: Params) -> dict[str, Any]:
    """The one lr and weight decay given, or the defaults.

    Raises:
        UsageError: a setting out of range.
        HeadError: several values were given.
    """
    optimizer, decays = _optimizer(params), _decays(params, _optimizer(params))
    return {
        "lr": sole_value("lr", _rates(params), "lr" in params.values, DEFAULT_LR[optimizer]),
        "weight_decay": sole_value("weight_decay", decays, "weight_decay" in params.values, WEIGHT_DECAY[optimizer]),
    }


def refit(
    task: Task,
    params: Params,
    samples: Samples,
    settings: Mapping[str, Any],
    carried: Sequence[Mapping[str, Any]],
    n_tried_on: int,
) -> Refit:
    """Train one setting, as long as was best; see `tle.heads.sweep.Kind`.

    Raises:
        UsageError: a setting out of range, or a device that is not there.
        HeadError: training diverged.
    """
    device = _device(params)
    epochs = [carry["epoch"] for carry in carried]
    recipe = _recipe(params, n_tried_on, last_epoch=round(sum(epochs) / len(epochs)) if epochs else None)
    scaler = fit_scaler(samples)
    targets = LinearTargets.of(task, samples, device, _class_weight(params))
    member = Member(settings["lr"], settings["weight_decay"])
    outcome = _train(samples, scaler, targets, [member], recipe, task.seed, None)[0]
    if outcome.weight_PD is None:
        raise HeadError(f"training diverged at lr = {member.lr:g}: take a smaller lr")
    details = {
        "optimizer": recipe.optimizer,
        **({"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}),
        "epochs": recipe.epochs,
        "epoch": outcome.epoch,
        "batch_size": recipe.batch_size,
        "patience": recipe.patience,
        "class_weight": _class_weight(params),
        "device": device.type,
        "train_loss": outcome.train_loss,
    }
    layer = _layer(task, outcome, targets, scaler)
    return Refit(model=layer, details=details, notes=scaler.notes, packages=("torch", "scikit-learn"))


def _train(
    samples: Samples,
    scaler: Scaler,
    targets: LinearTargets,
    members: Sequence[Member],
    recipe: Recipe,
    seed: int,
    watch: Any,
) -> list[Outcome]:
    """`train_grid` with as many threads as its products are worth."""
    work = recipe.batch_size * samples.dim * targets.outputs * len(members)
    with torch_threads(work), blas_threads(work):
        reader = FeatureReader(samples, scaler, targets.values.device, seed)
        return train_grid(reader, targets, members, recipe, seed, watch)


def _attempt(
    task: Task, member: Member, outcome: Outcome, targets: LinearTargets, scaler: Scaler, val: Samples
) -> Attempt:
    settings = {"lr": member.lr, "weight_decay": member.weight_decay}
    if outcome.weight_PD is None:
        return Attempt(settings=settings, scores=None, details={"diverged_in_epoch": outcome.epoch})
    details = {"epoch": outcome.epoch, "train_loss": outcome.train_loss}
    if outcome.val_loss is not None:
        details["val_loss"] = outcome.val_loss
    layer = _layer(task, outcome, targets, scaler)
    scores = score_samples(layer, val, task.outputs)
    return Attempt(settings=settings, scores=scores, details=details, carry={"epoch": outcome.epoch}, model=layer)


def _layer(task: Task, outcome: Outcome, targets: LinearTargets, scaler: Scaler) -> Affine:
    """The layer on raw features, with a row for every output."""
    weight_PD, bias_P = (np.asarray(value, np.float64) for value in (outcome.weight_PD, outcome.bias_P))
    return make_affine(*targets.restore(*scaler.fold(weight_PD, bias_P)), Link.of(task.target))


def _recipe(params: Params, n: int, last_epoch: int | None = None) -> Recipe:
    epochs = params.integer("epochs", EPOCHS)
    momentum = params.number("momentum", MOMENTUM, inclusive=True)
    if momentum >= 1.0:
        raise UsageError(f"parameter momentum of head linear takes a number below 1, got {momentum:g}")
    return Recipe(
        optimizer=_optimizer(params),
        momentum=momentum,
        epochs=epochs,
        last_epoch=epochs if last_epoch is None else min(epochs, max(1, last_epoch)),
        batch_size=params.integer("batch_size", min(BATCH_SIZE, max(1, n // STEPS_PER_EPOCH))),
        patience=params.integer("patience", PATIENCE),
    )


def _optimizer(params: Params) -> str:
    name = params.values.get("optimizer", "adamw")
    if name not in DEFAULT_LR:
        raise UsageError(f"parameter optimizer of head linear is one of {', '.join(DEFAULT_LR)}, got {name!r}")
    if name != "sgd" and "momentum" in params.values:
        raise UsageError("parameter momentum of head linear belongs to optimizer=sgd: leave it out, or take that")
    return str(name)


def _rates(params: Params) -> tuple[float, ...]:
    return params.numbers("lr", GRID)


def _decays(params: Params, optimizer: str) -> tuple[float, ...]:
    """Ascending, without repeats; 0 is a decay."""
    given = params.values.get("weight_decay", WEIGHT_DECAY[optimizer])
    items = given if isinstance(given, list | tuple) else [given]
    if not items:
        raise UsageError("parameter weight_decay of head linear is an empty list: give at least one value")
    read = (Params(params.head, {"weight_decay": item}).number("weight_decay", 0.0, inclusive=True) for item in items)
    return tuple(sorted(set(read)))


def _class_weight(params: Params) -> str | dict[str, float] | None:
    given = params.values.get("class_weight")
    if given is None or given == "balanced":
        return given
    if not isinstance(given, Mapping) or not given:
        raise UsageError(
            f"parameter class_weight of head linear is balanced or weights by class name, got {given!r}: for instance "
            "class_weight={'cat': 2}"
        )
    return {
        str(name): Params(params.head, {"class_weight": value}).number("class_weight", 1.0, inclusive=True)
        for name, value in given.items()
    }


def _device(params: Params) -> "torch.device":
    import torch

    return torch.device(device_of(params))
