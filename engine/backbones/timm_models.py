"""`timm/NAME`: any model of timm, its features as timm defines them (`forward_head(pre_logits=True)`)."""

import logging
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tle.backbones import checkpoint
from tle.backbones.efficientnet_lite import map_lite_keys, uses_lite_keys
from tle.backbones.network import require_network
from tle.backbones.torchvision_models import RANDOM_NOTE, RANDOM_SEED, Loaded
from tle.errors import BackboneError, MissingPackageError, one_line
from tle.names import list_near_names
from tle.preprocess import Preprocess

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn


def load(name: str, weights: str) -> Loaded:
    """Build `name` without its classifier and give it `weights`.

    Args:
        name: a timm model, with or without a tag (`resnet50` or `resnet50.a1_in1k`).
        weights: a tag, "DEFAULT", "none", or a file as `checkpoint.resolve` takes it.

    Returns:
        The network without a classifying layer.

    Raises:
        BackboneError: unknown name or tag, weights that cannot be had, or a checkpoint that does not fit.
        MissingPackageError: timm is not installed.
    """
    import torch

    timm = _timm()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise BackboneError(
            f"timm has no model {architecture!r}{list_near_names(architecture, known)} ({len(known)} in all)"
        )
    from_file = checkpoint.is_file_reference(weights)
    if not from_file and weights not in ("DEFAULT", "none"):
        tag = weights
    tags = sorted(full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*"))
    if tag and tag not in tags:
        raise BackboneError(f"timm/{architecture} has no weights {tag!r}; it has {', '.join(tags) or 'none published'}")
    full = f"{architecture}.{tag}" if tag else architecture
    notes: tuple[str, ...] = ()
    # Seeded apart from the caller's generator: a random backbone is the same in every run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        pretrained = not from_file and weights != "none"
        model = _pretrained(timm, full) if pretrained else timm.create_model(full, pretrained=False, num_classes=0)
    model.eval()
    config: dict[str, Any] = vars(model)["pretrained_cfg"]
    if from_file:
        path = checkpoint.resolve(weights)
        state = checkpoint.read_state(path)
        if uses_lite_keys(state):
            if "efficientnet_lite" not in architecture:
                raise BackboneError(
                    f"{path.name} is an EfficientNet-Lite checkpoint, it does not fit timm/{architecture}"
                )
            state = map_lite_keys(state, model)
        heads = config.get("classifier") or ()
        notes = checkpoint.fit_state(
            model, state, classifiers=[heads] if isinstance(heads, str) else heads, origin=path.name
        )
        recorded = checkpoint.recorded_name(weights)
    elif weights == "none":
        notes = (RANDOM_NOTE,)
        recorded = "none"
    else:
        recorded = str(config.get("tag") or "DEFAULT")
    return Loaded(
        model=model,
        weights=recorded,
        preprocess=_preprocess(timm, model),
        notes=notes,
        cut=None,
        prefix_tokens=int(getattr(model, "num_prefix_tokens", 0)),
    )


def penultimate(model: "nn.Module") -> "nn.Module":
    """A module that yields timm's pre-logits, (B, D)."""
    from torch import Tensor, nn

    if not hasattr(model, "forward_features") or not hasattr(model, "forward_head"):
        raise BackboneError(f"{type(model).__name__} of timm has no forward_head; name the features with --layer")

    class Penultimate(nn.Module):
        """timm's penultimate features."""

        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            features: Tensor = self.body.forward_head(self.body.forward_features(x), pre_logits=True)  # type: ignore[operator]
            return features

    return Penultimate().eval()


def _timm() -> "ModuleType":
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError("timm/NAME backbones need timm: pip install timm") from error
    module: ModuleType = timm
    return module


def _pretrained(timm: "ModuleType", full: str) -> "nn.Module":
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname or ""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    try:
        _require_network(timm, full, host)
        log.setLevel(logging.ERROR)  # five retries with growing pauses would be five lines of noise each
        model: nn.Module = timm.create_model(full, pretrained=True, num_classes=0)
    except BackboneError:
        raise
    except Exception as error:
        raise BackboneError(
            f"weights of timm/{full} could not be had ({one_line(error)}); pass --weights FILE or --weights none"
        ) from error
    finally:
        log.setLevel(level)
    return model


def _require_network(timm: "ModuleType", full: str, host: str) -> None:
    """Say at once that there is no network; the hub client would retry for most of a minute.

    Weights already in the local cache need none.
    """
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(full)
    repository = config.hf_hub_id if config else None
    if not repository:
        return
    cached = any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    )
    if not cached:
        require_network(host, f"weights of timm/{full}", "pass --weights FILE or --weights none")


def _preprocess(timm: "ModuleType", model: "nn.Module") -> Preprocess:
    config = timm.data.resolve_model_data_config(model)
    _, height, width = config["input_size"]
    scaled = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    mode = config["crop_mode"]
    if mode not in ("center", "squash"):
        raise BackboneError(f"{type(model).__name__} wants crop mode {mode!r}; tle knows center and squash")
    if mode == "center" and height != width:
        raise BackboneError(f"{type(model).__name__} wants {height}x{width} pictures: pass --resize and --crop")
    return Preprocess(
        resize=scaled if mode == "squash" else scaled[0],
        crop=(height, width),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
