"""What a fine-tuning may be told, and the defaults."""

from dataclasses import asdict, dataclass
from typing import Any

from tle.errors import UsageError
from tle.finetuning.schedules import KINDS as SCHEDULES
from tle.heads.params import check_seed
from tle.images import DEFAULT_MAX_PIXELS

OPTIMIZERS = ("adamw", "sgd", "lamb", "lars")
BATCHNORM = ("eval", "train", "frozen-affine")
KEEP = ("best", "finetuned", "last")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Learning rates of the head and of what trains like it, where the user names none.
_LR = {"adamw": 3e-4, "sgd": 1e-2, "lamb": 1e-3, "lars": 1e-1}
_WEIGHT_DECAY = {"adamw": 0.05, "sgd": 1e-4, "lamb": 0.02, "lars": 1e-4}
_LAYER_DECAY = 0.75
_MOMENTUM = 0.9
_CROP_SCALE = (0.35, 1.0)
_VAL_FRACTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions:
    """How to train; see `tle finetune --help` for what each flag is for.

    Attributes:
        epochs: passes over the train pictures.
        batch_size: pictures a forward pass and process.
        accumulate: batches whose gradients make one step.
        optimizer: one of `OPTIMIZERS`; lamb and lars are timm's.
        lr: rate of the head and of whatever no other rule speaks of; None takes the optimizer's default (adamw 3e-4, sgd
            1e-2, lamb 1e-3, lars 0.1).
        momentum: of sgd and lars; None takes 0.9.
        weight_decay: None takes the optimizer's default (0.05, 1e-4, 0.02, 1e-4). Parameters with one axis have none.
        layer_decay: the rate of a layer is `lr * layer_decay ** (layers up to the head)`; None takes 0.75 unless `lr_rules`
            or `lr_range` say how rates go; 1 is the same rate for all.
        lr_rules: (pattern, rate) in order; the first that matches a parameter decides.
        lr_rest: rate of parameters that no rule matches.
        freeze_rest: parameters that no rule matches are frozen.
        freeze: patterns of parameters that are frozen.
        lr_range: rates of the first layer and of the head, the others geometrically between.
        schedule: one of `SCHEDULES`.
        warmup: how long rates rise from zero: steps ("100"), epochs ("1e") or a part of the run ("5%"); None takes 5% or,
            with one-cycle, which has its own, none.
        warmup_groups: patterns of what warms up; None: everything.
        unfreeze_schedule: the head trains first, one more layer each epoch.
        batchnorm: one of `BATCHNORM`: running statistics as they are; trained; or as they are and weight and bias too.
        precision: of the forward and backward pass; parameters stay float32. auto takes bfloat16 on a GPU
            that has it, else float32.
        clip: largest norm of the gradient; 0 does not clip.
        label_smoothing: part of the target that is spread over all classes.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none.
        rand_augment: number of operations and magnitude (0 to 30) of RandAugment; None for none.
        random_crop: train on random crops; otherwise on the crop of the evaluation.
        crop_scale: least and largest part of the picture's area that a random crop takes; None takes 0.35 and 1.
        flip: probability of a horizontal flip.
        class_weights: errors count in inverse proportion to the size of their class.
        balanced_sampling: pictures are drawn, with replacement, so that classes are equally frequent.
        ema: decay of an exponential moving average of the weights, which is then what is evaluated and kept; 0 for none.
        patience: epochs without a better validation metric after which to stop; 0 never stops.
        metric: what epochs are compared by; None takes accuracy, for multi-label mAP, for regression mse.
        keep: one of `KEEP`: the best epoch if it beats the frozen head by more than noise (`tle.finetuning.verdict`), else
            the head; the best epoch; the last epoch. The best is that of the best metric, and of those that it does not
            tell apart the one of the least loss.
        val_fraction: part of train held out where there is neither a val split nor a head that says; None takes 0.1.
        seed: seed of all that is random.
        checkpoint_minutes: time between checkpoints.
        device: auto, cpu or cuda.
        workers: threads that decode; None takes one a core.
        max_pixels: pictures with more pixels count as bad.

    Raises:
        UsageError: a value out of its range, or options that exclude each other.
    """

    epochs: int = 5
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    lr_rules: tuple[tuple[str, float], ...] = ()
    lr_rest: float | None = None
    freeze_rest: bool = False
    freeze: tuple[str, ...] = ()
    lr_range: tuple[float, float] | None = None
    schedule: str = "cosine"
    warmup: str | None = None
    warmup_groups: tuple[str, ...] | None = None
    unfreeze_schedule: bool = False
    batchnorm: str = "eval"
    precision: str = "auto"
    clip: float = 1.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    rand_augment: tuple[int, int] | None = None
    random_crop: bool = True
    crop_scale: tuple[float, float] | None = None
    flip: float = 0.5
    class_weights: bool = False
    balanced_sampling: bool = False
    ema: float = 0.0
    patience: int = 0
    metric: str | None = None
    keep: str = "best"
    val_fraction: float | None = None
    seed: int = 0
    checkpoint_minutes: float = 10.0
    device: str = "auto"
    workers: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        for flag, value, known in (
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--schedule", self.schedule, SCHEDULES),
            ("--bn", self.batchnorm, BATCHNORM),
            ("--precision", self.precision, PRECISIONS),
            ("--keep", self.keep, KEEP),
        ):
            if value not in known:
                raise UsageError(f"{flag} takes {', '.join(known)}, got {value!r}")
        for flag, count in (
            ("--epochs", self.epochs),
            ("--batch-size", self.batch_size),
            ("--accumulate", self.accumulate),
            ("--workers", self.workers),
            ("--max-pixels", self.max_pixels),
        ):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise UsageError(f"{flag} takes a whole number from 1 on, got {count!r}")
        if not isinstance(self.patience, int) or self.patience < 0:
            raise UsageError(f"--patience takes a number of epochs, 0 for none, got {self.patience!r}")
        for flag, number in (
            ("--lr", self.lr),
            ("--lr-rest", self.lr_rest),
            ("--checkpoint-minutes", self.checkpoint_minutes),
        ):
            if number is not None and not number > 0:
                raise UsageError(f"{flag} takes a number above 0, got {number!r}")
        for flag, number, high in (
            ("--weight-decay", self.weight_decay, None),
            ("--clip", self.clip, None),
            ("--mixup", self.mixup, None),
            ("--cutmix", self.cutmix, None),
            ("--momentum", self.momentum, 1.0),
            ("--label-smoothing", self.label_smoothing, 1.0),
            ("--ema", self.ema, 1.0),
            ("--val-fraction", self.val_fraction, 1.0),
        ):
            if number is not None and (not number >= 0 or (high is not None and number >= high)):
                bound = "of at least 0" if high is None else f"from 0 to below {high:g}"
                raise UsageError(f"{flag} takes a number {bound}, got {number!r}")
        check_seed(self.seed)
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse options that would have no effect beside others, or leave open what they should say."""
        if self.class_weights and self.balanced_sampling:
            raise UsageError("--class-weights and --balanced-sampling do the same twice: leave one of them out")
        if self.momentum is not None and self.optimizer not in ("sgd", "lars"):
            raise UsageError(f"--momentum is of sgd and lars, {self.optimizer} has none: leave it out")
        if self.crop_scale is not None and not self.random_crop:
            raise UsageError(
                "--crop-scale is of random crops, which --no-random-crop leaves out: leave out one of them"
            )
        if self.warmup_groups is not None and (self.schedule == "one-cycle" or self.warmup == "0"):
            raise UsageError("--warmup-groups needs a warmup, which --warmup 0 and --schedule one-cycle leave out")
        if self.lr is not None and self.lr_range is not None:
            raise UsageError(f"--lr {self.lr:g} says nothing beside --lr-range, which gives every layer its rate")
        rest = self.lr_rest is not None or self.freeze_rest
        if self.lr_rules and self.lr is not None and rest:
            raise UsageError(f"--lr {self.lr:g} says nothing beside rules and --lr-rest or --freeze-rest: leave it out")
        if self.lr_rules and self.lr is None and not rest and self.layer_decay is None and self.lr_range is None:
            raise UsageError(
                "--lr PATTERN=RATE leaves the other parameters open: give --lr-rest RATE, --freeze-rest, --layer-decay or an "
                "--lr RATE without a pattern"
            )

    @property
    def peak_lr(self) -> float:
        """`lr`, or the default of the optimizer."""
        return _LR[self.optimizer] if self.lr is None else self.lr

    @property
    def inertia(self) -> float:
        """`momentum`, or 0.9."""
        return _MOMENTUM if self.momentum is None else self.momentum

    @property
    def crops(self) -> tuple[float, float]:
        """`crop_scale`, or 0.35 to 1."""
        return _CROP_SCALE if self.crop_scale is None else self.crop_scale

    @property
    def held_out(self) -> float:
        """`val_fraction`, or 0.1."""
        return _VAL_FRACTION if self.val_fraction is None else self.val_fraction

    @property
    def decay(self) -> float:
        """`weight_decay`, or the default of the optimizer."""
        return _WEIGHT_DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay

    @property
    def by_layer(self) -> float | None:
        """The layer decay: as given, or 0.75 where nothing else says how rates go over the layers."""
        if self.layer_decay is None and not self.lr_rules and self.lr_range is None:
            return _LAYER_DECAY
        return self.layer_decay

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with defaults resolved."""
        values = asdict(self) | {"lr": self.peak_lr, "weight_decay": self.decay, "layer_decay": self.by_layer}
        values |= {"momentum": self.inertia, "crop_scale": self.crops, "val_fraction": self.held_out}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
