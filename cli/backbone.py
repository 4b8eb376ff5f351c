"""Flags about a backbone: its weights, where its features are, what it does to pixels; the same for every command."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

import tle
from tle.cli.sizes import parse_size


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BackboneFlags:
    """Which weights, which layer, which preprocessing."""

    weights: Annotated[
        str | None,
        Parameter(
            help="Name of published weights (IMAGENET1K_V2, DEFAULT), none (random), a .pth or .safetensors file, or "
            "package:PACKAGE/FILE for a file inside an installed package; by default the newest published."
        ),
    ] = None
    layer: Annotated[
        str | None,
        Parameter(
            help="Where to take the features, see tle layers; by default what enters the last classifying layer. output takes "
            "what a network of your own returns."
        ),
    ] = None
    pool: Annotated[
        Literal["avg", "max", "cls", "cls+avg", "none"] | None,
        Parameter(help="How a layer's output becomes one vector; by default seen from its shape."),
    ] = None
    resize: Annotated[
        str | None,
        Parameter(help="Shorter side in pixels, HEIGHTxWIDTH for both, or none; by default what the weights ask for."),
    ] = None
    crop: Annotated[
        str | None,
        Parameter(help="Side of the centre crop in pixels, or HEIGHTxWIDTH; by default what the weights ask for."),
    ] = None
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None,
        Parameter(help="Filter of the resize; by default what the weights ask for."),
    ] = None
    mean: Annotated[
        tuple[float, float, float] | None,
        Parameter(help="Mean of each channel, pixels counted from 0 to 1; by default that of the weights."),
    ] = None
    std: Annotated[
        tuple[float, float, float] | None,
        Parameter(
            help="Standard deviation of each channel, pixels counted from 0 to 1; by default that of the weights."
        ),
    ] = None
    channels: Annotated[
        Literal["rgb", "bgr"] | None, Parameter(help="Order of the channels that the backbone takes.")
    ] = None

    def overrides(self) -> "tle.PreprocessOverrides":
        """The preprocessing among them, for the library.

        Raises:
            UsageError: a value that cannot be used.
        """
        return tle.PreprocessOverrides(
            resize=parse_size("--resize", self.resize, none=True),
            crop=parse_size("--crop", self.crop),
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            channels=self.channels,
        )
