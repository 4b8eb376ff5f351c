"""The compiled graph starts at pixels: uint8 in, features out.

# B batch, H W height and width, D feature dim
"""

import copy
from typing import TYPE_CHECKING

from tle.errors import RuntimeChoiceError

if TYPE_CHECKING:
    from torch import nn

    from tle.backbones.backbone import Backbone


def pixel_graph(backbone: "Backbone", precision: str = "float32") -> "nn.Module":
    """A module from uint8 (B, H, W, 3) pixels in RGB order to float32 (B, D) features.

    Normalisation, channel order and layout change are part of it: a quarter of the bytes cross to a device, and an
    exported graph needs no code around it but resize and crop. (x / 255 - mean) / std is computed as x * scale + shift
    in float32; the two differ by float32 rounding alone.

    Args:
        backbone: a backbone with a torch module.
        precision: "float32" ("tf32" is the same graph), "bfloat16" or "float16": of the backbone's weights and
            activations. Anything but float32 works on a copy of the module.

    Returns:
        A module in eval mode.

    Raises:
        RuntimeChoiceError: the backbone is an ONNX graph.
    """
    import torch
    from torch import nn

    if backbone.module is None:
        raise RuntimeChoiceError(f"{backbone.name} is an ONNX graph: run it with --runtime onnxruntime or openvino")
    preprocess = backbone.preprocess
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)
    body = backbone.module if dtype == torch.float32 else _fold_batchnorm(copy.deepcopy(backbone.module)).to(dtype)
    mean, std = (
        torch.tensor(preprocess.mean, dtype=torch.float64),
        torch.tensor(preprocess.std, dtype=torch.float64),
    )

    class PixelGraph(nn.Module):
        """uint8 (B, H, W, 3) -> float32 (B, D)."""

        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.register_buffer("scale", (1 / (255 * std)).float().reshape(1, 3, 1, 1), persistent=False)
            self.register_buffer("shift", (-mean / std).float().reshape(1, 3, 1, 1), persistent=False)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = pixels.permute(0, 3, 1, 2)  # a view: (B, 3, H, W) in channels_last, which convolutions prefer
            if preprocess.channels == "bgr":
                x = x.flip(1)
            x = x.to(torch.float32) * self.scale + self.shift
            features: torch.Tensor = self.body(x.to(dtype))
            return features.to(torch.float32)

    return PixelGraph().eval()


def _fold_batchnorm(module: "nn.Module") -> "nn.Module":
    """`module` with every BatchNorm that follows a convolution folded into its weights, where it can be traced.

    Folding happens in float32, before the cast, so it is also the more exact order. A network that torch.fx cannot trace
    (control flow on values) keeps its BatchNorms: the same function, 10 to 20 % slower on ResNets.
    """
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(module)
    except Exception:  # noqa: BLE001 - tracing runs the network's own code, which may raise anything
        return module
