"""A name becomes a `Backbone`: found, given its weights, cut at its features, checked and measured."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tle.backbones import checkpoint
from tle.backbones.backbone import Backbone, digest_files, digest_state
from tle.errors import BackboneError, UsageError, one_line
from tle.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from tle.backbones.layers import Layer
    from tle.backbones.torchvision_models import Loaded

PENULTIMATE = "penultimate"
OUTPUT = "output"
# What nearly every published network of the last decade was trained with; used, and said, where nothing else is known.
IMAGENET = Preprocess(
    resize=256,
    crop=(224, 224),
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessOverrides:
    """What the user wants to differ from the preprocessing of the weights; None keeps theirs.

    Attributes:
        resize: shorter side in pixels, exact (height, width), or "none" for no resizing.
        crop: side of the centre crop in pixels, or (height, width).
        interpolation: name of a PIL filter.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        channels: "rgb" or "bgr", the order that the backbone takes.
    """

    resize: int | tuple[int, int] | Literal["none"] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channels: str | None = None

    def apply(self, preprocess: Preprocess) -> Preprocess:
        """`preprocess` with the values that are set here."""
        changes: dict[str, Any] = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        if isinstance(crop := changes.get("crop"), int):
            changes["crop"] = (crop, crop)
        if changes.get("resize") == "none":
            changes["resize"] = None
        return preprocess.replace(**changes)


def load_backbone(
    name: str,
    *,
    weights: str = "DEFAULT",
    layer: str | None = None,
    pool: str | None = None,
    overrides: PreprocessOverrides | Preprocess | None = None,
) -> Backbone:
    """Load a frozen backbone by name.

    Args:
        name: `torchvision/NAME`, `timm/NAME`, `onnx:FILE[#TENSOR]`, or `package.module:function` for a function that
            returns a network.
        weights: the name of published weights, "DEFAULT", "none" (random), a local `.pth` or `.safetensors`, or
            `package:PACKAGE/FILE`.
        layer: where to take the features: a graph node, "output", or None for the penultimate ones.
        pool: how a layer's output becomes (B, D): avg, max, cls, cls+avg or none; None picks by its shape.
        overrides: deviations from the preprocessing that the weights ask for; a whole `Preprocess` replaces it.

    Returns:
        The backbone, its features found and its weights digested.

    Raises:
        BackboneError: anything that cannot be found, loaded, fitted or cut.
        UsageError: options that do not go together.
    """
    overrides = overrides or PreprocessOverrides()
    if name.startswith("onnx:"):
        return _load_onnx(name, weights, layer, pool, overrides)
    loaded = _load_module(name, weights, assumed=isinstance(overrides, PreprocessOverrides))
    preprocess = _preprocess(loaded.preprocess, overrides)
    module, where, kind, dim, notes = _cut(name, loaded, layer, pool, preprocess)
    notes += _padding_note(loaded.preprocess, preprocess)
    module.requires_grad_(requires_grad=False)
    return Backbone(
        name=name,
        weights=loaded.weights,
        weights_digest=digest_state(module.state_dict(), loaded.code),
        layer=where,
        pool=kind,
        dim=dim,
        preprocess=preprocess,
        module=module,
        notes=loaded.notes + notes,
    )


def list_layers(name: str, *, crop: int | None = None) -> "list[Layer]":
    """Every place of a backbone where `layer` can cut, with its shape for one picture.

    Args:
        name: as for `load_backbone`; its weights are not needed and not loaded.
        crop: side of the input in pixels, where it is not to be the default one.

    Returns:
        The layers in order of execution.

    Raises:
        BackboneError: unknown name, or a network that cannot be traced.
    """
    from tle.backbones import layers, onnx_file
    from tle.backbones.penultimate import probe_images

    if name.startswith("onnx:"):
        if crop is not None:
            raise UsageError("--crop does not go with an ONNX file, whose shapes are written in it")
        return onnx_file.list_tensors(_onnx_path(name)[0])
    loaded = _load_module(name, "none" if "/" in name else "DEFAULT")
    preprocess = PreprocessOverrides(crop=crop).apply(loaded.preprocess)
    found = layers.list_layers(loaded.model, probe_images(preprocess.crop))
    return [layer for layer in found if not loaded.cut or not f"{layer.name}.".startswith(f"{loaded.cut}.")]


def _preprocess(base: Preprocess, overrides: PreprocessOverrides | Preprocess) -> Preprocess:
    return overrides if isinstance(overrides, Preprocess) else overrides.apply(base)


def _padding_note(base: Preprocess, preprocess: Preprocess) -> tuple[str, ...]:
    """Say that an override makes the resized picture smaller than the crop."""
    short, crop = preprocess.resize, preprocess.crop
    if preprocess == base or not isinstance(short, int) or short >= min(crop):
        return ()
    return (f"pictures are resized to {short} and padded with black to {crop[0]}x{crop[1]}: was --crop {short} meant?",)


def _load_module(name: str, weights: str, *, assumed: bool = True) -> "Loaded":
    from tle.backbones import timm_models, torchvision_models

    provider, _, model = name.partition("/")
    if provider == "torchvision" and model:
        return torchvision_models.load(model, weights)
    if provider == "timm" and model:
        return timm_models.load(model, weights)
    if ":" in name and "/" not in name:
        return _load_function(name, weights, assumed=assumed)
    hint = ""
    if name in torchvision_models.names():
        hint = f"; did you mean torchvision/{name}?"
    raise BackboneError(
        f"expected torchvision/NAME, timm/NAME, onnx:FILE or package.module:function as backbone, got {name!r}{hint}"
    )


def _cut(
    name: str, loaded: "Loaded", layer: str | None, pool: str | None, preprocess: Preprocess
) -> "tuple[nn.Module, str, str, int, tuple[str, ...]]":
    """Cut the network at its features: (module, layer, pool, D, notes)."""
    from tle.backbones import layers, penultimate, timm_models

    example = penultimate.probe_images(preprocess.crop)
    if layer not in (None, PENULTIMATE, OUTPUT):
        if loaded.cut and f"{layer}.".startswith(f"{loaded.cut}."):
            raise BackboneError(
                f"{layer!r} is the classifying layer, which a backbone does without; --layer {PENULTIMATE} (the default) "
                "takes what enters it"
            )
        module, kind, dim = layers.cut_layer(loaded.model, layer, pool, example, prefix_tokens=loaded.prefix_tokens)
        return module, layer, kind, dim, ()
    headless = loaded.cut is not None or name.startswith("timm/")  # then its output is the penultimate features
    if layer == OUTPUT and not headless:
        output = penultimate.run_module(loaded.model, example)
        module, kind, dim = layers.pooled(loaded.model, output, OUTPUT, pool, preprocess.crop)
        return module, OUTPUT, kind, dim, ()
    if pool not in (None, "none"):
        raise UsageError(f"--pool {pool} goes with --layer NAME; the {PENULTIMATE} features are (B, D) already")
    if name.startswith("timm/"):
        module = timm_models.penultimate(loaded.model)
        return module, PENULTIMATE, "none", penultimate.feature_dim(module, example), ()
    model = loaded.model
    if loaded.cut is None:  # a user's own network, still whole
        found, dim = penultimate.cut_classifier(model, example)
        return model, PENULTIMATE, "none", dim, (f"features are what enters {found!r} ({dim} values)",)
    return model, PENULTIMATE, "none", penultimate.feature_dim(model, example), ()


def _load_function(name: str, weights: str, *, assumed: bool) -> "Loaded":
    """`package.module:function`, called without arguments; the current folder is searched as by `python -m`."""
    import torch
    from torch import nn

    from tle.backbones.torchvision_models import RANDOM_SEED, Loaded

    module_name, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        function: Callable[[], object] = getattr(importlib.import_module(module_name), attribute)
        # Seeded apart from the caller's generator: a network with random weights is the same in every run.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            model = function()
    except Exception as error:
        raise BackboneError(f"backbone {name!r} cannot be made: {one_line(error)}") from error
    finally:
        sys.path.remove(folder)
    if not isinstance(model, nn.Module):
        raise BackboneError(f"backbone {name!r} should return a torch.nn.Module, it returned {type(model).__name__}")
    model.eval()
    notes: tuple[str, ...] = ()
    if assumed:
        notes = ("preprocessing unknown: ImageNet's (256 -> 224) is used where no flag says otherwise",)
    code = _source_files(function, model)
    if not code:
        notes += ("the source of this backbone cannot be found: a change of its code will not be noticed",)
    if weights == "none":
        raise UsageError(f"--weights none cannot be had for {name!r}: its function decides about its weights")
    if checkpoint.is_file_reference(weights):
        path = checkpoint.resolve(weights)
        notes += checkpoint.fit_state(model, checkpoint.read_state(path), classifiers=(), origin=path.name)
    elif weights != "DEFAULT":
        raise UsageError(f"--weights for {name!r} takes a file, got {weights!r}")
    recorded = weights if weights == "DEFAULT" else checkpoint.recorded_name(weights)
    return Loaded(model=model, weights=recorded, preprocess=IMAGENET, notes=notes, cut=None, code=code)


def _source_files(function: Callable[[], object], model: "nn.Module") -> tuple[Path, ...]:
    """Files that define a backbone of the user's own: of its function and of its class, torch's left out."""
    modules = {function.__module__, *(type(part).__module__ for part in model.modules())}
    own = {sys.modules.get(name) for name in modules if name.split(".")[0] not in ("torch", "torchvision", "timm")}
    return tuple(sorted({Path(file) for module in own if (file := getattr(module, "__file__", None))}))


def _onnx_path(name: str) -> tuple[Path, str | None]:
    file, _, tensor = name.removeprefix("onnx:").partition("#")
    return Path(file).expanduser(), tensor or None


def _load_onnx(
    name: str, weights: str, layer: str | None, pool: str | None, overrides: PreprocessOverrides | Preprocess
) -> Backbone:
    from tle.backbones import onnx_file
    from tle.backbones.onnx_compose import probe_features

    path, tensor = _onnx_path(name)
    if weights != "DEFAULT":  # the file itself, where it was moved since its name was written down
        if not checkpoint.is_file_reference(weights):
            raise UsageError(f"an ONNX file carries its weights; --weights can only name the file, got {weights!r}")
        path = Path(weights).expanduser()
    if layer == OUTPUT:
        tensor = onnx_file.read_model(path).graph.output[0].name
    elif layer not in (None, PENULTIMATE):
        tensor = layer
    graph, size, notes = onnx_file.load_graph(path, tensor)
    base = IMAGENET if size is None else IMAGENET.replace(crop=size, resize=round(min(size) / 0.875))
    by_flags = isinstance(overrides, PreprocessOverrides)
    if graph.input_dtype == "uint8":
        base = base.replace(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))  # raw pixels
        if by_flags and (overrides.mean is not None or overrides.std is not None):
            raise UsageError(f"{path.name} takes uint8 pixels and normalises them itself: leave --mean and --std out")
    preprocess = _preprocess(base, overrides)
    if size is not None and preprocess.crop != size:
        raise UsageError(
            f"{path.name} takes {size[0]}x{size[1]} pictures only, --crop asks for {preprocess.crop[0]}x{preprocess.crop[1]}"
        )
    if by_flags and graph.input_dtype != "uint8" and (overrides.mean is None or overrides.std is None):
        notes += (
            "the file does not say how to normalise: ImageNet's mean and std are used where no flag says otherwise",
        )
    kind, dim = probe_features(graph, preprocess, pool)
    if pool is None and kind != "none":
        notes += (f"{graph.tensor!r} is pooled by {kind}; --pool takes another way",)
    return Backbone(
        name=f"onnx:{path.name}",
        weights=str(path.absolute()),
        weights_digest=digest_files(onnx_file.weight_files(path)),
        layer=graph.tensor,
        pool=kind,
        dim=dim,
        preprocess=preprocess,
        onnx=graph,
        notes=notes,
    )
