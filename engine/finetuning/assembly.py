"""What a run is made of before it starts, and what its end is made into.

# N pictures of the source, K outputs, S steps, G groups
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tle.backbones.backbone import digest_state
from tle.bundle import Bundle, state_arrays
from tle.cache import fingerprint
from tle.cores import usable_cores
from tle.enums import Target
from tle.errors import UsageError
from tle.finetuning.augmentation import Augmentation
from tle.finetuning.groups import Group, GroupOptions, make_groups, unfreeze_epochs
from tle.finetuning.network import Network
from tle.finetuning.options import FinetuneOptions
from tle.finetuning.pictures import Pictures
from tle.finetuning.processes import Processes
from tle.finetuning.schedules import Schedule, parse_warmup
from tle.finetuning.scoring import Scored
from tle.finetuning.start import FINETUNED_KIND, Start
from tle.finetuning.state import Setting, State
from tle.finetuning.training import steps_an_epoch
from tle.heads.affine import Affine, Link
from tle.heads.figures import check_metric
from tle.heads.head import Head
from tle.identity import feature_spec, finetuned_spec
from tle.metrics import measure
from tle.pipeline import Decoding
from tle.runtimes.plan import accelerated

_WARMUP = "5%"


def groups_of(network: Network, start: Start, options: FinetuneOptions) -> tuple[Group, ...]:
    """The parameter groups of a network, as the options want them."""
    return make_groups(
        network.backbone,
        start.backbone.name,
        (network.head.out_features, network.head.in_features),
        GroupOptions(
            lr=options.peak_lr,
            weight_decay=options.decay,
            layer_decay=options.by_layer,
            lr_rules=options.lr_rules,
            lr_rest=options.lr_rest,
            freeze_rest=options.freeze_rest,
            freeze=options.freeze,
            lr_range=options.lr_range,
            warmup_groups=options.warmup_groups,
            train_batchnorm_affine=options.batchnorm != "frozen-affine",
        ),
        crop=start.backbone.preprocess.crop,
    )


def make_setting(
    network: Network, start: Start, pictures: Pictures, options: FinetuneOptions, *, device: str, processes: Processes
) -> Setting:
    """All that a training works with.

    Raises:
        UsageError: options that do not go with the target, the device or one another.
    """
    groups = groups_of(network, start, options)
    _check_target(options, pictures.target)
    steps = steps_an_epoch(len(pictures.train), options, processes)
    total = steps * options.epochs
    if total == 1 and options.warmup is None and options.schedule != "one-cycle":
        raise UsageError(
            "the training has a single step, whose rate is 0 by the warmup: raise --epochs, or pass --warmup 0"
        )
    warmup = options.warmup if options.warmup is not None else "0" if options.schedule == "one-cycle" else _WARMUP
    return Setting(
        options=options,
        pictures=pictures,
        groups=groups,
        schedule=Schedule(
            kind=options.schedule,
            total_steps=total,
            warmup_steps=parse_warmup(warmup, steps_per_epoch=steps, total_steps=total),
        ),
        steps_per_epoch=steps,
        decoding=Decoding(preprocess=start.backbone.preprocess, decoder=start.decoder, max_pixels=options.max_pixels),
        augmentation=Augmentation(
            crop=options.random_crop, scale=options.crops, flip=options.flip, rand_augment=options.rand_augment
        ),
        outputs=network.head.out_features,
        metric=check_metric(options.metric, pictures.target, len(pictures.classes)),
        device=device,
        precision=_precision(options.precision, device),
        workers=options.workers or usable_cores(),
        processes=processes,
    )


def setting_notes(setting: Setting) -> tuple[str, ...]:
    """What the options do that may not be meant."""
    options, notes = setting.options, []
    if options.unfreeze_schedule:
        release = unfreeze_epochs(setting.groups)
        never = [name for name, epoch in release.items() if epoch >= options.epochs]
        if never:
            notes.append(
                f"--unfreeze-schedule releases a layer an epoch, so {len(never)} groups, up to {never[-1]}, never train in "
                f"{options.epochs} epochs; --epochs {max(release.values()) + 1} reach all"
            )
    if options.patience and not len(setting.pictures.val):
        notes.append("--patience has no validation pictures to go by: all epochs are trained")
    return tuple(notes)


def _precision(wanted: str, device: str) -> str:
    if wanted == "auto":
        # On a CPU the backward pass of a convolution in bfloat16 can be many times slower than in float32.
        return "bfloat16" if device == "cuda" and accelerated("bfloat16", device) else "float32"
    if wanted == "float16" and device == "cpu":
        raise UsageError("--precision float16 is for GPUs: take bfloat16 or float32 on the cpu")
    return wanted


def _check_target(options: FinetuneOptions, target: Target) -> None:
    """Refuse what only makes sense for classes."""
    if target is Target.CLASS:
        return
    for flag, given in (
        ("--label-smoothing", options.label_smoothing),
        ("--mixup", options.mixup),
        ("--cutmix", options.cutmix),
        ("--class-weights", options.class_weights),
        ("--balanced-sampling", options.balanced_sampling),
    ):
        if given:
            raise UsageError(f"{flag} needs one class a picture, and the target here is {target}: leave it out")


def training_record(
    setting: Setting,
    state: State,
    *,
    init: str | None,
    verdict: dict[str, Any] | None,
    limit_images_per_s: float | None,
) -> dict[str, Any]:
    """The story of a training, JSON-able, as a bundle keeps it."""
    return {
        "options": setting.options.to_dict()
        | {"precision": setting.precision, "warmup_steps": setting.schedule.warmup_steps, "metric": setting.metric},
        "groups": [group.to_dict(setting.options.batchnorm) for group in setting.groups],
        "history": state.history,
        "best_epoch": state.best_epoch,
        "start": {"init": init, **(state.parity or {})},
        "verdict": verdict,
        "throughput": {
            "images_per_s": state.train_images / state.train_s if state.train_s else None,
            "limit_images_per_s": limit_images_per_s,
        },
    }


def finished_bundle(
    network: Network,
    start: Start,
    setting: Setting,
    state: State,
    training: dict[str, Any],
    *,
    weights: Mapping[str, torch.Tensor],
    scored: Scored | None,
    keep_head: bool,
) -> Bundle:
    """The finished classifier: what was trained, or the head that it started from, with the story of both.

    Args:
        network: as it was trained; it is given `weights`.
        start: what training started from.
        setting: what it worked with.
        state: where it ended.
        training: its record.
        weights: the network's state dict to be kept.
        scored: validation scores of what is kept.
        keep_head: keep the head and the backbone of the start.
    """
    pictures = setting.pictures
    metrics: dict[str, Any] = {}
    if scored is not None:
        scores = scored.scores[:, 0] if pictures.target is Target.REGRESSION else scored.scores
        metrics["val"] = measure(scores, scored.labels, pictures.target, seed=setting.options.seed).values
    arrays: dict[str, NDArray[Any]] = {
        "lr": np.array(state.lr, np.float64).reshape(len(state.lr), len(setting.groups)),
        "val_digests": np.unique(pictures.digests[pictures.val]),
    }
    data = {"images": str(pictures.source.root), "kind": pictures.source.kind, **pictures.counts()}
    if keep_head:
        kept = start.bundle
        assert kept is not None  # noqa: S101 - a verdict needs a head; for the type checker
        return replace(kept, data=data, metrics=metrics, training=training, arrays=arrays)
    network.load_state_dict(weights)
    module = network.cpu().backbone
    # Trained for a second time, it still is what its first training started from: that names the network.
    base = (start.bundle.base if start.bundle is not None else None) or start.backbone.spec()
    spec = feature_spec(start.backbone, decoder=start.decoder, precision=setting.precision)
    spec = finetuned_spec(spec, digest_state(module.state_dict(), start.backbone.code), precision="float32")
    head = Head(
        kind=FINETUNED_KIND,
        target=pictures.target,
        classes=pictures.classes,
        dim=start.backbone.dim,
        fingerprint=fingerprint(spec),
        spec=spec,
        fit={
            "seed": setting.options.seed,
            "selection": pictures.record,
            "settings": setting.options.to_dict(),
            "refit": False,
            "chosen": {"epoch": state.epoch if setting.options.keep == "last" else state.best_epoch},
            "choice": {},
            "sweep": [],
            "calibration": None,
            "val": {name: value for name, value in metrics.get("val", {}).items() if name != "confusion"},
            "val_notes": [],
            "notes": list(pictures.notes),
            "versions": {name: metadata.version(name) for name in ("tle", "torch", "torchvision")},
        },
        fit_digests=np.unique(pictures.digests[np.concatenate([pictures.train, pictures.val])]),
        model=Affine(
            network.head.weight.detach().numpy().copy(),
            network.head.bias.detach().numpy().copy(),
            Link.of(pictures.target),
            network.unit_rows,
        ),
    )
    return Bundle(
        head=head,
        state=state_arrays(module),
        base=base,
        data=data,
        metrics=metrics,
        training=training,
        arrays=arrays,
    )
