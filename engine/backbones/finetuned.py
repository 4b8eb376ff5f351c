"""A backbone that was fine-tuned: the architecture by its name, the weights out of the classifier."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.backbones import checkpoint
from tle.backbones.backbone import Backbone, digest_state
from tle.backbones.load import load_backbone
from tle.backbones.torchvision_models import RANDOM_NOTE
from tle.errors import BackboneError, FingerprintError
from tle.identity import FINETUNED
from tle.preprocess import Preprocess


def load_finetuned(
    recorded: Mapping[str, Any],
    base: Mapping[str, Any],
    state: Mapping[str, NDArray[Any]],
    preprocess: Preprocess,
    *,
    origin: Path,
) -> Backbone:
    """Build a network without its published weights and give it those of a fine-tuning.

    Args:
        recorded: what the classifier says about its backbone, as `Backbone.spec` describes one.
        base: the same of the backbone that it was fine-tuned from.
        state: the state dict of the cut network.
        preprocess: from a decoded picture to the input.
        origin: the classifier's file, for messages.

    Returns:
        The backbone; its weights are called "fine-tuned".

    Raises:
        BackboneError: the network cannot be built, or the weights do not fit it.
        FingerprintError: the weights, or the code of a network of the user's own, are not those of the digest.
    """
    import torch

    name = str(recorded["name"])
    built = load_backbone(
        _architecture(name, str(base.get("weights"))),
        weights="none" if "/" in name else "DEFAULT",
        layer=recorded["layer"],
        pool=recorded["pool"],
        overrides=preprocess,
    )
    if built.module is None:
        raise BackboneError(f"{origin} says that {name} was fine-tuned, and that is an ONNX file: no network to train")
    wanted = built.module.state_dict()
    if missing := sorted(set(wanted) - set(state)):
        raise BackboneError(f"{origin} lacks weights of {name}: {missing[0]}" + (" and more" if missing[1:] else ""))
    # What safetensors hands out cannot be written to, which torch would warn about: one tensor at a time is copied.
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    checkpoint.fit_state(built.module, tensors, classifiers=(), origin=origin.name)
    digest = digest_state(built.module.state_dict(), built.code)
    if digest != recorded["weights_digest"]:
        code = "the code of its network was changed since, or " if built.code else ""
        raise FingerprintError(
            f"{origin} should hold weights with digest {recorded['weights_digest']}, they have {digest}: {code}it is damaged"
        )
    return dataclasses.replace(
        built,
        name=name,
        weights=FINETUNED,
        weights_digest=digest,
        notes=tuple(note for note in built.notes if note != RANDOM_NOTE),
    )


def _architecture(name: str, weights: str) -> str:
    """The name that builds the network which `weights` were for: of timm's, their tag has a say in the input's size."""
    published = weights not in ("none", "DEFAULT", FINETUNED) and not checkpoint.is_file_reference(weights)
    return f"{name.partition('.')[0]}.{weights}" if name.startswith("timm/") and published else name
