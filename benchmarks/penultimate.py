"""Every classification model of torchvision at random weights: are its penultimate features found?

    python -m tle.benchmarks.penultimate [NAME ...]

Prints a line a model: the layer that was cut, the feature dimension, and whether the cut network yields what entered the
layer. Ends with exit code 1 if any model fails. Inputs are 64x64 where the network takes that, else its own size.
"""

import gc
import sys
import time

import torch
import torchvision

from tle.backbones.penultimate import cut_classifier, probe_images
from tle.backbones.torchvision_models import names
from tle.errors import BackboneError

SMALL = 64


def check(name: str) -> tuple[str, int, int]:
    """Cut one model at its penultimate features.

    Args:
        name: a torchvision classification model.

    Returns:
        The layer that was cut, the feature dimension, and the input size used.

    Raises:
        BackboneError: the features cannot be found, or the cut network yields something else.
    """
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    crop = getattr(model, "image_size", torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            layer, dim = cut_classifier(model, probe_images((SMALL, SMALL)))
        except BackboneError as error:
            if f"{SMALL}x{SMALL}" not in str(error):
                raise
            layer, dim = cut_classifier(model, probe_images((crop, crop)))
            return layer, dim, crop
    return layer, dim, SMALL


def main(chosen: list[str]) -> int:
    """Go through the models; returns the exit code."""
    failed = 0
    for name in chosen or names():
        started = time.perf_counter()
        try:
            layer, dim, size = check(name)
            line = f"{layer:16} {dim:6} features at {size}x{size}"
        except BackboneError as error:
            failed += 1
            line = f"FAILED: {error}"
        gc.collect()
        print(f"{name:22} {line}  ({time.perf_counter() - started:.1f} s)", flush=True)
    print(f"{len(chosen or names()) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
