"""A name becomes a `Backbone`: found, given its weights, cut at its features, checked and measured."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tle.backbones import checkpoint
from tle.backbones.backbone import Backbone, digest_file, digest_state
from tle.errors import BackboneError, UsageError
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
    loaded = _load_module(name, weights)
    preprocess = _preprocess(loaded.preprocess, overrides)
    module, where, kind, dim, notes = _cut(name, loaded, layer, pool, preprocess)
    module.requires_grad_(requires_grad=False)
    return Backbone(
        name=name,
        weights=loaded.weights,
        weights_digest=digest_state(module.state_dict()),
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
        return onnx_file.list_tensors(_onnx_path(name)[0])
    loaded = _load_module(name, "none" if "/" in name else "DEFAULT")
    preprocess = PreprocessOverrides(crop=crop).apply(loaded.preprocess)
    return layers.list_layers(loaded.model, probe_images(preprocess.crop))


def _preprocess(base: Preprocess, overrides: PreprocessOverrides | Preprocess) -> Preprocess:
    return overrides if isinstance(overrides, Preprocess) else overrides.apply(base)


def _load_module(name: str, weights: str) -> "Loaded":
    from tle.backbones import timm_models, torchvision_models

    provider, _, model = name.partition("/")
    if provider == "torchvision" and model:
        return torchvision_models.load(model, weights)
    if provider == "timm" and model:
        return timm_models.load(model, weights)
    if ":" in name and "/" not in name:
        return _load_function(name, weights)
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
    if pool not in (None, "none"):
        raise UsageError(
            f"--pool {pool} goes with --layer NAME; the {layer or PENULTIMATE} features are (B, D) already"
        )
    if layer == OUTPUT:
        output = penultimate.run_module(loaded.model, example)
        module, kind, dim = layers.pooled(loaded.model, output, OUTPUT, pool, prefix_tokens=loaded.prefix_tokens)
        return module, OUTPUT, kind, dim, ()
    if name.startswith("timm/"):
        module = timm_models.penultimate(loaded.model)
        output = penultimate.run_module(module, example)
        if output.ndim != 2:
            raise BackboneError(f"{name} yields features {tuple(output.shape)}; name a layer with --layer and --pool")
        return module, PENULTIMATE, "none", int(output.shape[1]), ()
    model = loaded.model
    if loaded.cut is None:  # a user's own network, still whole
        found, dim = penultimate.cut_classifier(model, example)
        return model, PENULTIMATE, "none", dim, (f"features are what enters {found!r} ({dim} values)",)
    features = penultimate.run_module(model, example)
    return model, PENULTIMATE, "none", int(features.shape[1]), ()


def _load_function(name: str, weights: str) -> "Loaded":
    """`package.module:function`, called without arguments; the current folder is searched as by `python -m`."""
    from torch import nn

    from tle.backbones.torchvision_models import Loaded

    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function: Callable[[], object] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BackboneError(f"cannot import backbone {name!r}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    model = function()
    if not isinstance(model, nn.Module):
        raise BackboneError(f"backbone {name!r} should return a torch.nn.Module, it returned {type(model).__name__}")
    model.eval()
    notes: tuple[str, ...] = ("preprocessing unknown: ImageNet's (256 -> 224) is used where no flag says otherwise",)
    if weights == "none":
        raise UsageError(f"--weights none cannot be had for {name!r}: its function decides about its weights")
    if checkpoint.is_file_reference(weights):
        path = checkpoint.resolve(weights)
        notes += checkpoint.fit_state(model, checkpoint.read_state(path), classifiers=(), origin=path.name)
    elif weights != "DEFAULT":
        raise UsageError(f"--weights for {name!r} takes a file, got {weights!r}")
    recorded = weights if weights == "DEFAULT" else checkpoint.recorded_name(weights)
    return Loaded(model=model, weights=recorded, preprocess=IMAGENET, notes=notes, cut=None)


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
        if not weights.endswith(".onnx"):
            raise UsageError(
                f"an ONNX file carries its weights; --weights can only say where it is now, got {weights!r}"
            )
        path = Path(weights).expanduser()
    if layer == OUTPUT:
        tensor = onnx_file.read_model(path).graph.output[0].name
    elif layer not in (None, PENULTIMATE):
        tensor = layer
    graph, size, notes = onnx_file.load_graph(path, tensor)
    base = IMAGENET if size is None else IMAGENET.replace(crop=size, resize=round(min(size) / 0.875))
    preprocess = _preprocess(base, overrides)
    if size is not None and preprocess.crop != size:
        raise UsageError(f"{path.name} takes {size[0]}x{size[1]} pictures only, --crop asks for {preprocess.crop}")
    if isinstance(overrides, PreprocessOverrides) and (overrides.mean is None or overrides.std is None):
        notes += (
            "the file does not say how to normalise: ImageNet's mean and std are used where no flag says otherwise",
        )
    kind, dim = probe_features(graph, preprocess, pool)
    return Backbone(
        name=f"onnx:{path.name}",
        weights=str(path.absolute()),
        weights_digest=digest_file(path),
        layer=graph.tensor,
        pool=kind,
        dim=dim,
        preprocess=preprocess,
        onnx=graph,
        notes=notes,
    )
