"""Find the penultimate features of any classification network by watching it run once.

Whatever enters the last classifying layer (the last `Linear` or `Conv2d` that runs) are the features. The layer is
replaced by the identity, so whatever surrounds it (dropout in eval mode, a final pooling and flatten) stays as it is,
and the cut network is checked against what was seen entering the layer.
"""

from typing import TYPE_CHECKING

from tle.errors import BackboneError, one_line

if TYPE_CHECKING:
    import torch
    from torch import nn


def probe_images(crop: tuple[int, int]) -> "torch.Tensor":
    """Two different pictures of seeded noise, float32 (2, 3, H, W), to run a network on."""
    import torch

    return torch.randn(2, 3, *crop, generator=torch.Generator().manual_seed(0))


def find_classifier(model: "nn.Module", example: "torch.Tensor") -> tuple[str, "torch.Tensor"]:
    """Name of the last classifying layer of `model`, and the features that enter it.

    Args:
        model: a classification network in eval mode.
        example: float32 (B, 3, H, W).

    Returns:
        The dotted name, and the layer's input: (B, D), or (B, D, h, w) before a 1x1 convolution.

    Raises:
        BackboneError: the network does not run on `example`, or has no such layer.
    """
    import torch
    from torch import nn

    last: list[tuple[str, torch.Tensor]] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            last[:] = [(name, inputs[0])]

        return module.register_forward_pre_hook(note)

    handles = [
        watch(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    try:
        run_module(model, example)
    finally:
        for handle in handles:
            handle.remove()
    if not last or not last[0][0]:
        raise BackboneError(
            f"{type(model).__name__} has no Linear or Conv2d layer that classifies; name the features' layer with "
            "--layer, or take the network's own output with --layer output"
        )
    return last[0]


def cut_classifier(model: "nn.Module", example: "torch.Tensor") -> tuple[str, int]:
    """Replace the last classifying layer of `model` by the identity, in place, and prove that nothing else changed.

    Args:
        model: a classification network in eval mode.
        example: float32 (B, 3, H, W).

    Returns:
        The dotted name of the layer that was replaced, and the feature dimension D.

    Raises:
        BackboneError: no such layer, or something after it changes the features.
    """
    import torch
    from torch import nn

    name, seen = find_classifier(model, example)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    features_BD = run_module(model, example)
    expected_BD = seen.mean((2, 3)) if seen.ndim == 4 else seen
    if not torch.isfinite(seen).all():
        raise BackboneError(f"{_name(model)} yields features that are not finite: its weights are damaged")
    same = features_BD.shape == expected_BD.shape and torch.allclose(features_BD, expected_BD, rtol=1e-4, atol=1e-5)
    if features_BD.ndim != 2 or not same:
        raise BackboneError(
            f"{_name(model)}: what follows the last classifying layer {name!r} changes the features "
            f"(entered {tuple(seen.shape)}, left {tuple(features_BD.shape)}); name the features' layer with --layer"
        )
    return name, int(features_BD.shape[1])


def feature_dim(model: "nn.Module", example: "torch.Tensor") -> int:
    """Run a cut network once.

    Args:
        model: float32 (B, 3, H, W) -> (B, D).
        example: float32 (B, 3, H, W).

    Returns:
        The feature dimension D.

    Raises:
        BackboneError: it yields something else than (B, D), or values that are not finite.
    """
    import torch

    features = run_module(model, example)
    if features.ndim != 2:
        raise BackboneError(
            f"{_name(model)} yields features {tuple(features.shape)}; name a layer with --layer and --pool"
        )
    if not torch.isfinite(features).all():
        raise BackboneError(f"{_name(model)} yields features that are not finite: its weights are damaged")
    return int(features.shape[1])


def run_module(model: "nn.Module", example: "torch.Tensor") -> "torch.Tensor":
    """Run `model` without gradients; a failure becomes one line that names the input's size.

    Raises:
        BackboneError: the network does not take this input, or returns something else than one tensor.
    """
    import torch

    try:
        with torch.inference_mode():
            output = model(example)
    except Exception as error:
        size = f"{example.shape[2]}x{example.shape[3]}"
        raise BackboneError(f"{_name(model)} does not run on {size} pictures: {one_line(error)}") from error
    if not isinstance(output, torch.Tensor):
        raise BackboneError(f"{_name(model)} returns {type(output).__name__} instead of one tensor")
    return output


def _name(model: "nn.Module") -> str:
    """What to call a network in a message: its class, or that of the one inside a wrapper of ours."""
    return type(getattr(model, "body", model)).__name__
