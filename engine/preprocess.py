"""What is done to the pixels of a picture before a backbone sees them."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tle.errors import UsageError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CHANNELS = ("rgb", "bgr")
# No backbone takes more; a larger number is a slip that would only show as memory running out.
MAX_SIDE = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Resize, centre crop and normalisation, in this order; the defaults of a backbone come from its weights.

    Resize and crop happen on uint8 pixels (`tle.images.resize_crop`), normalisation `(pixel / 255 - mean) / std` inside
    the backbone's graph.

    Attributes:
        resize: int: the shorter side in pixels, the longer becoming `int(resize * longer / shorter)`, as torchvision's
            `Resize(int)` does; (height, width): exactly that; None: left as it is.
        crop: (height, width) of the centre crop in pixels; a smaller picture is padded with black (torchvision's
            `CenterCrop`).
        interpolation: one of `INTERPOLATIONS`, Pillow's filters; all but "nearest" widen when shrinking (antialias).
        mean: three means, for pixel values in [0, 1], in the order of `channels`.
        std: three standard deviations, likewise, positive.
        channels: "rgb" or "bgr": the order in which the backbone takes the channels.

    Raises:
        UsageError: a value that cannot be used.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int]
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "rgb"

    def __post_init__(self) -> None:
        if self.resize is not None:
            resize = _side("resize", self.resize) if isinstance(self.resize, int) else _pair("resize", self.resize)
            object.__setattr__(self, "resize", resize)
        object.__setattr__(self, "crop", _pair("crop", self.crop))
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(f"interpolation should be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        if self.channels not in CHANNELS:
            raise UsageError(f"channels should be one of {', '.join(CHANNELS)}, got {self.channels!r}")
        object.__setattr__(self, "mean", _triple("mean", self.mean))
        object.__setattr__(self, "std", _triple("std", self.std))
        if min(self.std) <= 0:
            raise UsageError(f"std should be three positive numbers, got {self.std}")

    def to_dict(self) -> dict[str, Any]:
        """The same as a JSON-able dictionary, tuples as lists; `from_dict` reads it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Args:
            values: exactly the attributes of this class; `channels` may be left out.

        Returns:
            The Preprocess.

        Raises:
            UsageError: a key is unknown or missing, or a value cannot be used.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise UsageError(f"unknown preprocessing key {unknown[0]!r}; known are {', '.join(known)}")
        if missing := [name for name in known if name not in values and name != "channels"]:
            raise UsageError(f"preprocessing lacks {', '.join(missing)}")
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy with some attributes changed.

        Args:
            **changes: attributes and their new values.

        Returns:
            The changed copy.

        Raises:
            UsageError: an attribute is unknown or its value cannot be used.
        """
        return self.from_dict({**self.to_dict(), **changes})

    def describe(self) -> str:
        """One line for people, such as `shorter side 256 (bilinear), crop 224x224, mean ..., std ..., rgb`."""
        if self.resize is None:
            resize = "no resize"
        elif isinstance(self.resize, int):
            resize = f"shorter side {self.resize} ({self.interpolation})"
        else:
            resize = f"resize {self.resize[0]}x{self.resize[1]} ({self.interpolation})"
        mean, std = (" ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return f"{resize}, crop {self.crop[0]}x{self.crop[1]}, mean {mean}, std {std}, {self.channels}"


def _side(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE:
        raise UsageError(f"{name} should be whole pixels from 1 to {MAX_SIDE}, got {value!r}")
    return value


def _pair(name: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        alternatives = "one number, (height, width) or None" if name == "resize" else "(height, width)"
        raise UsageError(f"{name} should be {alternatives}, got {value!r}")
    return _side(name, value[0]), _side(name, value[1])


def _triple(name: str, value: Any) -> tuple[float, float, float]:
    numbers = isinstance(value, (tuple, list)) and all(
        isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number) for number in value
    )
    if not numbers or len(value) != 3:
        raise UsageError(f"{name} should be three finite numbers, one a channel, got {value!r}")
    return float(value[0]), float(value[1]), float(value[2])
