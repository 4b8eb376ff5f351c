"""How the learning rate of a group goes over a training, step by step.

# s step of the optimizer from 0, S steps in all, w steps of warmup, r step at which a group is released
"""

import math
import re
from dataclasses import dataclass

from tle.errors import UsageError

KINDS = ("cosine", "linear", "constant", "one-cycle")
# The cycle as torch's OneCycleLR and fastai have it: share of steps that go up, where they start, where the rest ends.
_RISING = 0.3
_START_DIVISOR = 25.0
_END_DIVISOR = 1e4
_WARMUP = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)(?P<unit>e|%|)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The factor of every group's peak rate.

    factor(s) = warmup(s) decay(s)
    warmup(s) = min(1, (s - r) / w)                 for groups that are warmed, else 1
    decay(s)  = 1                                   while s < w, for all groups alike
              = (1 + cos(pi t)) / 2                 cosine,    t = (s - w) / (S - w)
              = 1 - t                               linear
              = 1                                   constant

    The warmup counts inside the S steps, and the decay runs over the steps that it leaves, so that no group has begun to
    fall before another has risen. The decay is a matter of the whole training: a group that is released late warms up over
    w steps of its own and meets the others' decay where it then is.

    The one-cycle schedule is torch's `OneCycleLR`: up from 1/25 over 30 % of the steps, then down to 1/250 000, both by a
    cosine; it has its own warmup and takes no other, so `warmup` changes nothing.

    Source: timm's `CosineLRScheduler` with `warmup_prefix=True` and BEiT's `cosine_scheduler`, from a warmup of zero; Smith
    and Topin 2017 (one cycle).

    Attributes:
        kind: one of `KINDS`.
        total_steps: S, at least 1.
        warmup_steps: w, from 0 to S; 0 for the one-cycle schedule.

    Raises:
        UsageError: an unknown kind, or steps out of range.
    """

    kind: str
    total_steps: int
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"--schedule takes {', '.join(KINDS)}, got {self.kind!r}")
        if self.total_steps < 1:
            raise UsageError(
                f"a schedule needs at least one step, got {self.total_steps}: there is nothing to train on"
            )
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise UsageError(
                f"the warmup (--warmup) should be from 0 to all {self.total_steps} steps of the training, got "
                f"{self.warmup_steps}"
            )
        if self.kind == "one-cycle" and self.warmup_steps:
            raise UsageError(
                f"--schedule one-cycle has a warmup of its own: leave out --warmup, or make it 0 (got {self.warmup_steps})"
            )

    def factor(self, step: int, *, warmup: bool, released: int = 0) -> float:
        """What the peak rate is multiplied by for step s, the first of which is 0.

        Args:
            step: s, from 0 to S - 1; later ones have the factor that step S would have.
            warmup: whether the group is warmed up.
            released: r, the step at which the group starts to train.

        Returns:
            0 before r, and at r itself where the group is warmed; at most 1.
        """
        if step < released:
            return 0.0
        if self.kind == "one-cycle":
            return self._cycle(step)
        rise = min(1.0, (step - released) / self.warmup_steps) if warmup and self.warmup_steps else 1.0
        return rise * self._decay(step)

    def _decay(self, step: int) -> float:
        if step < self.warmup_steps or self.kind == "constant":
            return 1.0
        left = self.total_steps - self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / left) if left else 1.0
        return (1.0 + math.cos(math.pi * done)) / 2.0 if self.kind == "cosine" else 1.0 - done

    def _cycle(self, step: int) -> float:
        """The peak stands at 0.3 S - 1 steps, which need not be a whole number, and the end at step S - 1."""
        start, end = 1.0 / _START_DIVISOR, 1.0 / (_START_DIVISOR * _END_DIVISOR)
        peak, last = _RISING * self.total_steps - 1.0, self.total_steps - 1.0
        if step <= peak:
            return _between(start, 1.0, step / peak)
        peak = max(peak, 0.0)  # a training of three steps has no time to rise: it starts at the peak
        return _between(1.0, end, min(1.0, (step - peak) / (last - peak)) if last > peak else 0.0)


def _between(start: float, end: float, done: float) -> float:
    """Half a cosine wave from `start` to `end`."""
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * done))


def parse_warmup(text: str, *, steps_per_epoch: int, total_steps: int) -> int:
    """Read how long to warm up.

    Args:
        text: "N" steps of the optimizer, "Ne" epochs or "P%" of all steps; N of epochs and P may have decimals.
        steps_per_epoch: steps of the optimizer an epoch.
        total_steps: S, of the whole training.

    Returns:
        w, from 0 to S; at least 1 unless the number is 0, so that a warmed group does start at zero.

    Raises:
        UsageError: another form, or more steps than the training has.
    """
    match = _WARMUP.fullmatch(text.strip())
    if match is None or (not match["unit"] and not match["number"].isdigit()):
        raise UsageError(f"--warmup takes steps (100), epochs (1e, 0.5e) or a part of the training (5%), got {text!r}")
    number = float(match["number"])
    of = {"": 1.0, "e": float(steps_per_epoch), "%": total_steps / 100.0}[match["unit"]]
    steps = max(round(number * of), 1 if number else 0)
    if steps > total_steps:
        raise UsageError(f"--warmup {text} is {steps} steps, and the training has {total_steps}: make it shorter")
    return steps
