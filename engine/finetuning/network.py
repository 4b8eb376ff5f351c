"""Backbone and head as one network that trains: pixels in, logits out.

# B batch, H W height and width, D feature dim, K outputs (C classes, or 1 for regression)
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from tle.errors import BackboneError
from tle.runtimes.pixel_graph import pixel_graph

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone
    from tle.heads.affine import Affine

_WRAPPER = "body."


class Network(nn.Module):
    """uint8, or float32 of 0 to 255, (B, H, W, 3) pixels -> float32 (B, K) logits.

    The backbone is that of the features: same preprocessing, same cut. The head is a linear layer on raw features, which
    the scaler of a fitted head is folded into; where rows were brought to length 1 for the fit, so they are here.
    """

    def __init__(self, backbone: "Backbone", outputs: int, *, unit_rows: bool = False) -> None:
        """Join them; the head has torch's initial values until it is given others.

        Args:
            backbone: with a torch module, which is trained in place.
            outputs: K.
            unit_rows: whether features are divided by their length before the head.

        Raises:
            BackboneError: the backbone is an ONNX file, which cannot be trained.
        """
        super().__init__()
        if backbone.module is None:
            raise BackboneError(
                f"{backbone.name} is an ONNX file, and only networks of torch can be fine-tuned: take the same network from "
                "torchvision, timm or package.module:function"
            )
        self.features = pixel_graph(backbone)
        self.head = nn.Linear(backbone.dim, outputs)
        self.unit_rows = unit_rows

    @property
    def backbone(self) -> nn.Module:
        """What is trained of the backbone: float32 (B, 3, H, W) -> float32 (B, D)."""
        module = self.features.body
        assert isinstance(module, nn.Module)  # noqa: S101 - of our own making; for the type checker
        return module

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits; the head computes in float32 whatever the backbone does."""
        features_BD = self.features(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            features_BD = features_BD.float()
            if self.unit_rows:
                length_B1 = torch.linalg.vector_norm(features_BD, dim=1, keepdim=True, dtype=torch.float64)
                features_BD = features_BD / torch.where(length_B1 > 0, length_B1, 1.0).float()
            logits_BK: torch.Tensor = self.head(features_BD)
        return logits_BK

    def set_head(self, layer: "Affine") -> None:
        """Start from a fitted layer."""
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(layer.weight_KD))
            self.head.bias.copy_(torch.from_numpy(layer.bias_K))

    def public_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by the names that users know: the backbone's own without our wrappers', `head.weight`, `head.bias`."""
        named = {public_name(name): value for name, value in self.backbone.named_parameters()}
        return named | {f"head.{name}": value for name, value in self.head.named_parameters()}


def public_name(name: str) -> str:
    """A parameter's name without the wrappers that cut a network at its features."""
    while name.startswith(_WRAPPER):
        name = name.removeprefix(_WRAPPER)
    return name
