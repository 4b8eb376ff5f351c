"""Take features anywhere in a network: list its graph nodes with their shapes, cut at one, pool to (B, D).

# B batch, C channels, T tokens, H W height and width, D feature dim
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tle.errors import BackboneError, UsageError, one_line
from tle.names import list_near_names

if TYPE_CHECKING:
    import torch
    from torch import nn

POOLS = ("avg", "max", "cls", "cls+avg", "none")


@dataclass(frozen=True, slots=True)
class Layer:
    """One place where features can be taken.

    Attributes:
        name: what `--layer` takes.
        shape: shape of its output for one picture, without the batch axis.
    """

    name: str
    shape: tuple[int, ...]


def list_layers(model: "nn.Module", example: "torch.Tensor") -> list[Layer]:
    """All graph nodes of `model` that yield one tensor with a batch axis, in order of execution.

    Args:
        model: a network in eval mode.
        example: float32 (B, 3, H, W), B > 1.

    Raises:
        BackboneError: the network cannot be traced.
    """
    import torch

    outputs = run_outputs(_extractor(model, _node_names(model)), example, network=type(model).__name__)
    return [
        Layer(name, tuple(value.shape[1:]))
        for name, value in outputs.items()
        if isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[0] == example.shape[0]
    ]


def cut_layer(
    model: "nn.Module", layer: str, pool: str | None, example: "torch.Tensor", *, prefix_tokens: int = 1
) -> "tuple[nn.Module, str, int]":
    """Cut `model` at graph node `layer` and pool its output.

    Args:
        model: a network in eval mode.
        layer: name of a graph node, or of a module: then its last node.
        pool: one of `POOLS`; None takes "none" for (B, D), "cls" for (B, T, D) and "avg" for maps.
        example: float32 (B, 3, H, W).
        prefix_tokens: tokens in front of the patch tokens (class token and registers).

    Returns:
        The cut module (B, 3, H, W) -> (B, D), the pooling used, and D.

    Raises:
        BackboneError: no such layer (near names are given), or its output cannot be pooled like that.
    """
    names = _node_names(model)
    if layer not in names and not any(name.startswith(f"{layer}.") for name in names):
        raise BackboneError(
            f"{type(model).__name__} has no layer {layer!r}{list_near_names(layer, names)}; `tle layers` lists all "
            f"{len(names)}"
        )
    cut = _extractor(model, [layer])
    output = next(iter(run_outputs(cut, example, network=type(model).__name__).values()))
    crop = (example.shape[2], example.shape[3])
    return pooled(cut, output, layer, pool, crop, prefix_tokens=prefix_tokens, unwrap=True)


def pooled(
    module: "nn.Module",
    output: object,
    layer: str,
    pool: str | None,
    crop: tuple[int, int],
    *,
    prefix_tokens: int = 0,
    unwrap: bool = False,
) -> "tuple[nn.Module, str, int]":
    """Put the right pooling behind `module`, whose output for an example is `output`; see `cut_layer`."""
    import torch

    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4):
        found = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise BackboneError(f"layer {layer!r} yields {found}; features need (B, D), (B, tokens, D) or a 4-D map")
    kind = pool or {2: "none", 3: "cls" if prefix_tokens else "avg", 4: "avg"}[output.ndim]
    if kind not in POOLS:
        raise UsageError(f"--pool takes {', '.join(POOLS)}, got {kind!r}")
    if kind in ("cls", "cls+avg") and (output.ndim != 3 or not prefix_tokens):
        raise BackboneError(
            f"--pool {kind} needs class tokens (B, tokens, D); layer {layer!r} yields {tuple(output.shape)}: take avg, max"
        )
    if kind in ("avg", "max") and output.ndim == 2:
        raise BackboneError(f"--pool {kind} has nothing to pool: layer {layer!r} is already (B, {output.shape[1]})")
    wrapped = _pool_module(module, kind, channel_axis(tuple(output.shape), crop), prefix_tokens, unwrap=unwrap)
    with torch.inference_mode():
        dim = int(wrapped.pool(output).shape[1])  # type: ignore[operator]
    return wrapped, kind, dim


def channel_axis(shape: tuple[int, ...], crop: tuple[int, int]) -> int:
    """Axis of the channels: the last of tokens; in a map the other two have the aspect ratio of the input (Swin: last)."""
    if len(shape) != 4:
        return len(shape) - 1
    aspect = math.log(crop[0] / crop[1])
    first = abs(math.log(shape[2] / shape[3]) - aspect)
    last = abs(math.log(shape[1] / shape[2]) - aspect)
    return 1 if first <= last else 3


def _pool_module(module: "nn.Module", kind: str, channel_axis: int, prefix_tokens: int, *, unwrap: bool) -> "nn.Module":
    import torch
    from torch import nn

    class Pooled(nn.Module):
        """A network whose output is pooled to (B, D)."""

        def __init__(self) -> None:
            super().__init__()
            self.body = module

        def pool(self, x: torch.Tensor) -> torch.Tensor:
            if kind == "none":
                return x.flatten(1)
            if x.ndim == 4:
                axes = tuple(axis for axis in (1, 2, 3) if axis != channel_axis)
                return x.mean(axes) if kind == "avg" else x.amax(axes)
            patches_BTD = x[:, prefix_tokens:]
            if kind == "cls":
                return x[:, 0]
            if kind == "cls+avg":
                return torch.cat((x[:, 0], patches_BTD.mean(1)), 1)
            return patches_BTD.mean(1) if kind == "avg" else patches_BTD.amax(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.body(x)
            return self.pool(next(iter(y.values())) if unwrap else y)

    return Pooled().eval()


def run_outputs(extractor: "nn.Module", example: "torch.Tensor", *, network: str) -> "dict[str, object]":
    """Run an extractor made of `network` that returns a dict of outputs, one line for whatever goes wrong.

    Raises:
        BackboneError: the network does not run on the example.
    """
    import torch

    try:
        with torch.inference_mode():
            outputs: dict[str, object] = extractor(example)
    except Exception as error:
        size = f"{example.shape[2]}x{example.shape[3]}"
        raise BackboneError(f"{network} does not run on {size} pictures: {one_line(error)}") from error
    return outputs


def _node_names(model: "nn.Module") -> list[str]:
    from torchvision.models.feature_extraction import get_graph_node_names

    with _tracing(model):
        return list(get_graph_node_names(model, _tracer_options(), suppress_diff_warning=True)[1])


def _tracer_options() -> dict[str, Any]:
    """What must not be traced into: timm keeps a list of its modules that look at shapes while they run."""
    if "timm" not in sys.modules:
        return {}
    from timm.models import get_notrace_functions, get_notrace_modules

    return {"leaf_modules": list(get_notrace_modules()), "autowrap_functions": list(get_notrace_functions())}


def _extractor(model: "nn.Module", names: list[str]) -> "nn.Module":
    from torchvision.models.feature_extraction import create_feature_extractor

    with _tracing(model):
        extractor: nn.Module = create_feature_extractor(
            model, names, tracer_kwargs=_tracer_options(), suppress_diff_warning=True
        )
    return extractor.eval()


@contextmanager
def _tracing(model: "nn.Module") -> Iterator[None]:
    """Whatever a network does that a graph cannot hold becomes one clear line."""
    try:
        yield
    except Exception as error:
        raise BackboneError(
            f"{type(model).__name__} cannot be traced to a graph ({one_line(error)}); its penultimate features need no "
            "tracing: leave --layer out"
        ) from error
