"""A name becomes a `Backbone`: found, given its weights, cut at its features, checked and measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tle.backbones import checkpoint
from tle.backbones.backbone import Backbone, digest_files, digest_state
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
    crop = overrides.crop if isinstance(overrides, Preprocess) else None
    loaded = _load_module(name, weights, assumed=isinstance(overrides, PreprocessOverrides), crop=crop)
    preprocess = _preprocess(loaded.preprocess, overrides)
    module, where, kind, dim, notes = _cut(name, loaded, layer, pool, preprocess)
    notes += _padding_note(preprocess, overrides)
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
        code=loaded.code,
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


def _padding_note(preprocess: Preprocess, overrides: PreprocessOverrides | Preprocess) -> tuple[str, ...]:
    """Say that a flag, and not the weights' own preprocessing, makes the resized picture smaller than the crop."""
    if isinstance(overrides, Preprocess) or (overrides.resize is None and overrides.crop is None):
        return ()
    resize, crop = preprocess.resize, preprocess.crop
    if isinstance(resize, int):
        padded, resized = resize < max(crop), str(resize)
    elif resize is not None:
        padded, resized = resize[0] < crop[0] or resize[1] < crop[1], f"{resize[0]}x{resize[1]}"
    else:
        return ()
    if not padded:
        return ()
    flag = "--crop" if overrides.crop is None else "--resize" if overrides.resize is None else "a larger --resize"
    also = "" if flag == "a larger --resize" else " as well"
    return (f"pictures are resized to {resized} and padded with black to {crop[0]}x{crop[1]}: give {flag}{also}",)


def _load_module(name: str, weights: str, *, assumed: bool = True, crop: tuple[int, int] | None = None) -> "Loaded":
    """The whole network, with the preprocessing of its weights; without weights it may be built for another `crop`."""
    from tle.backbones import functions, timm_models, torchvision_models

    provider, _, model = name.partition("/")
    if provider == "torchvision" and model:
        return torchvision_models.load(model, weights, crop=crop)
    if provider == "timm" and model:
        return timm_models.load(model, weights)
    if ":" in name and "/" not in name:
        return functions.load(name, weights, IMAGENET, assumed=assumed)
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
        return module, layer, kind, dim, _pool_note(layer, pool, kind)
    headless = loaded.cut is not None or name.startswith("timm/")  # then its output is the penultimate features
    if layer == OUTPUT and not headless:
        output = penultimate.run_module(loaded.model, example)
        module, kind, dim = layers.pooled(loaded.model, output, OUTPUT, pool, preprocess.crop)
        return module, OUTPUT, kind, dim, _pool_note(OUTPUT, pool, kind)
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


def _pool_note(layer: str, pool: str | None, kind: str) -> tuple[str, ...]:
    """Say how tokens or a map become one vector, where nobody asked for it."""
    if pool is not None or kind == "none":
        return ()
    return (f"{layer!r} is pooled by {kind}; --pool takes another way",)


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
        named = checkpoint.is_file_reference(weights) or weights.lower().endswith(".onnx")
        if not named and not Path(weights).expanduser().is_file():
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
    graph, kind, dim = probe_features(graph, preprocess, pool)
    if graph.batch is not None:
        notes += (
            f"{path.name} fixes the batch at {graph.batch}: it is run on {graph.batch} at a time, which is slower",
        )
    notes += _pool_note(graph.tensor, pool, kind) + _padding_note(preprocess, overrides)
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
