"""The script that everybody writes: PIL, the weights' own transforms, torch eager, one batch after the other.

The baseline of every comparison, so it shares nothing with tle but the checkpoint.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

BATCH = 32


def features(
    paths: Sequence[Path], model: torch.nn.Module, transform: Callable[[Image.Image], Any]
) -> NDArray[np.float32]:
    """Features of pictures, float32 (N, D).

    Args:
        paths: N pictures that PIL reads.
        model: float32 (B, 3, H, W) -> (B, D), in eval mode.
        transform: PIL picture -> float32 (3, H, W).
    """
    parts = []
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            pictures = [transform(Image.open(path).convert("RGB")) for path in paths[start : start + BATCH]]
            parts.append(model(torch.stack(pictures)).numpy())
    return np.concatenate(parts)


def mobilenet_v2(checkpoint: Path) -> tuple[torch.nn.Module, Callable[[Image.Image], Any]]:
    """MobileNetV2 without its classifier and the transforms of its weights, in plain torchvision."""
    import torchvision

    model = torchvision.models.mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    model.classifier = torch.nn.Identity()
    return model.eval(), torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()


def efficientnet_lite0(checkpoint: Path) -> tuple[torch.nn.Module, Callable[[Image.Image], Any]]:
    """EfficientNet-Lite0 without its classifier in plain timm, with timm's own transforms; keys mapped in order.

    Both layouts list the same layers in the same order, which is another way to map them than tle's.
    """
    import timm

    model: Any = timm.create_model("tf_efficientnet_lite0")
    theirs, ours = torch.load(checkpoint, weights_only=True), model.state_dict()
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    model.reset_classifier(0)
    config = timm.data.resolve_model_data_config(model)
    return model.eval(), timm.data.create_transform(**config, is_training=False)
