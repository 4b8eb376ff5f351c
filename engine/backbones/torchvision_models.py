"""`torchvision/NAME`: the classification models of torchvision, with their own weights enums."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tle.backbones import checkpoint
from tle.backbones.network import require_network
from tle.backbones.penultimate import cut_classifier, probe_images
from tle.errors import BackboneError, one_line
from tle.names import list_near_names
from tle.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn

RANDOM_SEED = 0
RANDOM_NOTE = f"random weights (seed {RANDOM_SEED}): these features are a baseline, not a pretrained backbone's"
# Both were ported from TensorFlow with their input scaling built in; torchvision's enums switch it on.
_TRANSFORM_INPUT = ("googlenet", "inception_v3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A network before it is cut at its features.

    Attributes:
        model: eval mode, without its classifying layers where `cut` is set.
        weights: the name to record.
        preprocess: what the weights ask for.
        notes: facts for the user.
        cut: name of the classifying layer that was replaced by the identity.
        prefix_tokens: tokens in front of the patch tokens of a transformer.
        code: source files that are part of its identity, for networks of the user's own.
    """

    model: "nn.Module"
    weights: str
    preprocess: Preprocess
    notes: tuple[str, ...]
    cut: str | None
    prefix_tokens: int = 1
    code: tuple[Path, ...] = ()


def names() -> list[str]:
    """Names of all classification models, sorted."""
    import torchvision

    return sorted(torchvision.models.list_models(module=torchvision.models))


def load(name: str, weights: str, *, crop: tuple[int, int] | None = None) -> Loaded:
    """Build `name` and give it `weights`.

    Args:
        name: a torchvision classification model.
        weights: an enum member's name, "DEFAULT", "none", or a file as `checkpoint.resolve` takes it.
        crop: (height, width) of its input, where it has no weights ("none") that settle it.

    Returns:
        The network, its classifying layer replaced by the identity.

    Raises:
        BackboneError: unknown name or weights, weights that cannot be had, or a checkpoint that does not fit.
    """
    import torch
    import torchvision

    if name not in names():
        known = names()
        raise BackboneError(
            f"torchvision has no classification model {name!r}{list_near_names(name, known)} ({len(known)} in all)"
        )
    enum = torchvision.models.get_model_weights(name)
    notes: tuple[str, ...] = ()
    if checkpoint.is_file_reference(weights):
        path = checkpoint.resolve(weights)
        published = _published_as(enum, path)
        member = published or enum.DEFAULT
        model = _build(name, member)
        cut, _ = cut_classifier(model, probe_images(_preprocess(member).crop))
        auxiliary = [child for child in ("aux1", "aux2", "AuxLogits") if getattr(model, child, None) is not None]
        notes = checkpoint.fit_state(
            model, checkpoint.read_state(path), classifiers=[cut, *auxiliary], origin=path.name
        )
        if published is None:
            notes += (f"{path.name} is none of torchvision's files; preprocessing taken from {member.name}",)
        return Loaded(
            model=model,
            weights=checkpoint.recorded_name(weights),
            preprocess=_preprocess(member),
            notes=notes,
            cut=cut,
        )
    if weights == "none":
        # Seeded apart from the caller's generator, so that the same command gives the same features.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            model = _build(name, enum.DEFAULT, crop)
        member, recorded = enum.DEFAULT, "none"
        notes = (RANDOM_NOTE,)
    else:
        member = _member(enum, name, weights)
        _fetch(member)
        model, recorded = torchvision.models.get_model(name, weights=member).eval(), member.name
    preprocess = _preprocess(member)
    if recorded == "none" and crop is not None:
        preprocess = preprocess.replace(crop=crop)
    cut, _ = cut_classifier(model, probe_images(preprocess.crop))
    return Loaded(model=model, weights=recorded, preprocess=preprocess, notes=notes, cut=cut)


def _build(name: str, member: Any, crop: tuple[int, int] | None = None) -> "nn.Module":
    """The network as `member` wants it, or for another crop, without its weights."""
    import torchvision

    options: dict[str, Any] = {}
    if name in _TRANSFORM_INPUT:
        options = {"init_weights": True, "transform_input": True}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    side = (crop or _preprocess(member).crop)[0]
    if getattr(model, "image_size", side) != side:  # a ViT has position embeddings for one size only
        model = torchvision.models.get_model(name, weights=None, image_size=side)
    return model.eval()


def _member(enum: Any, name: str, weights: str) -> Any:
    if weights == "DEFAULT":
        return enum.DEFAULT
    try:
        return enum[weights]
    except KeyError:
        known = ", ".join(member.name for member in enum)
        raise BackboneError(
            f"torchvision/{name} has no weights {weights!r}; it has {known} (or DEFAULT, none, a file)"
        ) from None


def _fetch(member: Any) -> None:
    """Have the checkpoint in torch hub's folder, and prove that it holds tensors only before torchvision loads it."""
    import torch

    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(member.url).name
    advice = f"put the file at {file}, or pass --weights FILE or --weights none"
    if not file.is_file():  # torch hub would announce its download before it fails
        require_network(urlsplit(member.url).hostname or "", f"weights {member.name}", advice)
    try:
        member.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True, map_location="cpu")
    except OSError as error:
        raise BackboneError(
            f"weights {member.name} could not be downloaded ({getattr(error, 'reason', error)}); without a network "
            f"{advice}"
        ) from error
    except Exception as error:
        raise BackboneError(
            f"{file} is damaged or not a plain checkpoint ({one_line(error)}); delete it and run again"
        ) from error


def _published_as(enum: Any, path: Path) -> Any:
    """The enum member whose file `path` is; torchvision puts the start of the SHA-256 into the file's name."""
    for member in enum:
        if Path(member.url).name == path.name:
            return member
    return None


def _preprocess(member: Any) -> Preprocess:
    preset = member.transforms()
    crop, resize = preset.crop_size, preset.resize_size
    return Preprocess(
        resize=resize[0] if len(resize) == 1 else (resize[0], resize[1]),
        crop=(crop[0], crop[-1]),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
