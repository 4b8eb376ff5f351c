"""Flags about a training."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

import tle
from tle.errors import UsageError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingFlags:
    """How to train."""

    epochs: Annotated[int, Parameter(help="Passes over the train pictures.")] = 5
    batch_size: Annotated[
        int, Parameter(name=["--batch-size", "-b"], help="Pictures a forward pass, in each process.")
    ] = 32
    accumulate: Annotated[int, Parameter(help="Batches whose gradients make one step.")] = 1
    optimizer: Annotated[
        Literal["adamw", "sgd", "lamb", "lars"], Parameter(help="adamw and sgd are torch's, lamb and lars timm's.")
    ] = "adamw"
    lr: Annotated[
        list[str] | None,
        Parameter(
            help="Rate of the head and of all that no rule speaks of (by default 3e-4 for adamw, 1e-2 for sgd); or "
            "PATTERN=RATE for parameters whose name starts so (layer4, head) or matches it (blocks.1[01].*): repeat it, the "
            "first that matches decides; --lr-rest, --freeze-rest or --layer-decay says what the others do."
        ),
    ] = None
    lr_rest: Annotated[float | None, Parameter(help="Rate of parameters that no PATTERN=RATE matches.")] = None
    freeze_rest: Annotated[bool, Parameter(help="Freeze parameters that no PATTERN=RATE matches.")] = False
    freeze: Annotated[list[str] | None, Parameter(help="Freeze parameters of this pattern; repeat it for several.")] = (
        None
    )
    lr_range: Annotated[
        tuple[float, float] | None,
        Parameter(help="Rates of the first layer and of the head; geometric in between."),
    ] = None
    layer_decay: Annotated[
        float | None,
        Parameter(
            help="Each layer's rate is this times that of the next one towards the head; by default 0.75, where no other "
            "flag says how rates go. 1: the same for all."
        ),
    ] = None
    momentum: Annotated[float | None, Parameter(help="Of sgd and lars; by default 0.9.")] = None
    weight_decay: Annotated[
        float | None, Parameter(help="By default 0.05 for adamw, 1e-4 for sgd; never on biases and normalisation.")
    ] = None
    schedule: Annotated[
        Literal["cosine", "linear", "constant", "one-cycle"], Parameter(help="How rates go after the warmup.")
    ] = "cosine"
    warmup: Annotated[
        str | None,
        Parameter(
            help="How long rates rise from zero: steps (100), epochs (1e) or a part of the run (5%, the default)."
        ),
    ] = None
    warmup_groups: Annotated[
        list[str] | None, Parameter(help="Only parameters of this pattern warm up; repeat it for several.")
    ] = None
    unfreeze_schedule: Annotated[bool, Parameter(help="Train the head first, one more layer each epoch.")] = False
    bn: Annotated[
        Literal["eval", "train", "frozen-affine"],
        Parameter(
            help="BatchNorm: statistics stay as they are; are trained, where the layer is; or stay, with weight and bias."
        ),
    ] = "eval"
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Parameter(help="Of the passes, by autocast; auto takes bfloat16 on a GPU that has it, else float32."),
    ] = "auto"
    clip: Annotated[float, Parameter(help="Largest norm of the gradient; 0 does not clip.")] = 1.0
    label_smoothing: Annotated[float, Parameter(help="Part of the target that is spread over all classes.")] = 0.0
    mixup: Annotated[float, Parameter(help="Alpha of mixup; 0 for none.")] = 0.0
    cutmix: Annotated[float, Parameter(help="Alpha of CutMix; 0 for none.")] = 0.0
    rand_augment: Annotated[
        tuple[int, int] | None, Parameter(help="Operations and magnitude (0 to 30) of RandAugment, such as 2 9.")
    ] = None
    no_random_crop: Annotated[bool, Parameter(help="Train on the crop of the evaluation.")] = False
    crop_scale: Annotated[
        tuple[float, float] | None,
        Parameter(help="Least and largest part of a picture's area that a random crop takes; by default 0.35 1."),
    ] = None
    flip: Annotated[float, Parameter(help="Probability of a horizontal flip.")] = 0.5
    class_weights: Annotated[bool, Parameter(help="Errors count in inverse proportion to the size of their class.")] = (
        False
    )
    balanced_sampling: Annotated[bool, Parameter(help="Draw pictures so that classes are equally frequent.")] = False
    ema: Annotated[
        float, Parameter(help="Evaluate and keep a moving average of the weights with this decay, such as 0.999.")
    ] = 0.0
    patience: Annotated[int, Parameter(help="Stop after so many epochs without a better metric; 0 never stops.")] = 0
    metric: Annotated[
        Literal["accuracy", "balanced_accuracy", "macro_f1", "top5", "nll", "mAP", "mse", "mae", "r2"] | None,
        Parameter(help="What epochs are compared by; by default accuracy, for multi-label mAP, for regression mse."),
    ] = None
    keep: Annotated[
        Literal["best", "finetuned", "last"],
        Parameter(
            help="best: the best epoch where it beats the frozen head by more than noise, else the head; "
            "finetuned: the best epoch; last: the last."
        ),
    ] = "best"
    val_fraction: Annotated[
        float | None,
        Parameter(
            help="Part of train held out, where there is neither a val split nor a head that says; by default 0.1."
        ),
    ] = None
    seed: Annotated[int, Parameter(help="Seed of all that is random.")] = 0
    checkpoint_minutes: Annotated[float, Parameter(help="Minutes between checkpoints.")] = 10.0
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Parameter(help="Where to train; auto takes a GPU where there is one.")
    ] = "auto"
    workers: Annotated[
        int | None, Parameter(name=["--workers", "-j"], help="Threads that decode; by default one a core.")
    ] = None
    max_pixels: Annotated[int, Parameter(help="Pictures with more pixels count as bad, without being decoded.")] = (
        178_956_970
    )

    def options(self) -> "tle.FinetuneOptions":
        """The same for the library.

        Raises:
            UsageError: a value that cannot be used.
        """
        base, rules = _rates(self.lr or [])
        return tle.FinetuneOptions(
            epochs=self.epochs,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            optimizer=self.optimizer,
            lr=base,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
            lr_rules=rules,
            lr_rest=self.lr_rest,
            freeze_rest=self.freeze_rest,
            freeze=tuple(self.freeze or ()),
            lr_range=self.lr_range,
            schedule=self.schedule,
            warmup=self.warmup,
            warmup_groups=None if self.warmup_groups is None else tuple(self.warmup_groups),
            unfreeze_schedule=self.unfreeze_schedule,
            batchnorm=self.bn,
            precision=self.precision,
            clip=self.clip,
            label_smoothing=self.label_smoothing,
            mixup=self.mixup,
            cutmix=self.cutmix,
            rand_augment=self.rand_augment,
            random_crop=not self.no_random_crop,
            crop_scale=self.crop_scale,
            flip=self.flip,
            class_weights=self.class_weights,
            balanced_sampling=self.balanced_sampling,
            ema=self.ema,
            patience=self.patience,
            metric=self.metric,
            keep=self.keep,
            val_fraction=self.val_fraction,
            seed=self.seed,
            checkpoint_minutes=self.checkpoint_minutes,
            device=self.device,
            workers=self.workers,
            max_pixels=self.max_pixels,
        )


def _rates(texts: list[str]) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """The one rate without a pattern, and the rules in order."""
    base: float | None = None
    rules = []
    for text in texts:
        pattern, equals, number = text.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            raise UsageError(f"--lr takes a rate or PATTERN=RATE, such as 1e-3 or layer4=1e-4, got {text!r}") from None
        if equals:
            rules.append((pattern, rate))
        elif base is not None:
            raise UsageError(f"--lr gives two rates for everything, {base:g} and {rate:g}: write PATTERN=RATE")
        else:
            base = rate
    return base, tuple(rules)
