"""The networks of the speed comparison: torchvision's, with one file of weights each, cut at the penultimate features.

    python -m tle.benchmarks.networks resnet50        # prints the file of weights

Only one of them has real weights that a package registry holds (mobilenet_v2). The others are seeded and their batch
normalisation is calibrated on 64 real pictures: speed does not depend on the weights, but features that all look alike
would make every cosine 1. Nothing here is shared with tle, which has to find the same layer by itself.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image

from tle.benchmarks import datasets, photos
from tle.benchmarks.registries import publish

# The last classifying layer of each; features are what enters it.
CLASSIFIERS = {
    "resnet18": "fc",
    "resnet50": "fc",
    "mobilenet_v3_large": "classifier.3",
    "mobilenet_v3_small": "classifier.3",
    "vit_b_16": "heads.head",
    "mobilenet_v2": "classifier.1",
}
N_CALIBRATION = 64
BATCH = 32


def checkpoint(name: str) -> Path:
    """The file of weights that every contestant gets.

    Args:
        name: one of `CLASSIFIERS`.
    """
    if name == "mobilenet_v2":
        return datasets.mobilenet_v2_checkpoint()
    return publish(f"seeded-{name}", functools.partial(_seed, name)) / f"{name}.pth"


def _seed(name: str, work: Path) -> None:
    paths = sorted(photos.crops().rglob("*.jpg"))
    chosen = paths[:: max(1, len(paths) // N_CALIBRATION)][:N_CALIBRATION]
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    transform = transforms(name, 256, 224)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average over the batches to come
    model.train()
    with torch.no_grad():
        for start in range(0, len(chosen), BATCH):
            pictures = [transform(Image.open(path).convert("RGB")) for path in chosen[start : start + BATCH]]
            model(torch.stack(pictures))
    torch.save(model.state_dict(), work / f"{name}.pth")


def load(name: str, weights: Path, *, cut: bool = True) -> torch.nn.Module:
    """A network that yields penultimate features, float32 (B, 3, H, W) -> (B, D), in eval mode.

    Args:
        name: one of `CLASSIFIERS`.
        weights: its state dict.
        cut: replace the last classifying layer by the identity.
    """
    model: torch.nn.Module = torchvision.models.get_model(name, weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    if cut:
        model.set_submodule(CLASSIFIERS[name], torch.nn.Identity())
    return model.eval()


def published_weights(name: str) -> Any:
    """The enumeration of the weights that torchvision publishes for a network."""
    return torchvision.models.get_model_weights(name)


def transforms(name: str, resize: int, crop: int) -> Callable[[Image.Image], Any]:
    """The transforms of the network's published weights (`ImageClassification`, bilinear), with sizes of our own.

    Args:
        name: one of `CLASSIFIERS`.
        resize: shorter side in pixels.
        crop: side of the centre crop in pixels.
    """
    own: Callable[[Image.Image], Any] = published_weights(name).IMAGENET1K_V1.transforms(
        resize_size=resize, crop_size=crop
    )
    return own


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the path of a file of weights; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tle.benchmarks.networks", description=__doc__)
    parser.add_argument("name", choices=CLASSIFIERS)
    print(checkpoint(parser.parse_args(arguments).name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
