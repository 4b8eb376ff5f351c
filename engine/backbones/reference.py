"""What names a backbone, without loading it: the same reference on the same versions loads the same network."""

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from tle.backbones import checkpoint

if TYPE_CHECKING:
    from tle.backbones.load import PreprocessOverrides

_PACKAGES = ("tle", "torch", "torchvision", "timm")
_PROVIDERS = ("torchvision/", "timm/")


def backbone_reference(
    name: str, *, weights: str, layer: str | None, pool: str | None, overrides: "PreprocessOverrides | None"
) -> dict[str, Any] | None:
    """All that decides which network and preprocessing `load_backbone` returns, as a JSON-able dict.

    Args:
        name: as for `load_backbone`, like the others.
        weights: with them go size and modification time of the file that they name.
        layer: where to take the features.
        pool: how a layer's output becomes (B, D).
        overrides: deviations in the preprocessing.

    Returns:
        The reference; None where a name does not decide: the user's own code, an ONNX file with others beside it, a model
        that a hub may change.

    Raises:
        BackboneError: the file of the weights is not there.
    """
    if not name.startswith(_PROVIDERS) or ":" in name:
        return None
    file: list[Any] = []
    if checkpoint.is_file_reference(weights):
        path = checkpoint.resolve(weights)
        status = path.stat()
        file = [str(path.absolute()), status.st_size, status.st_mtime_ns]
    changes = {} if overrides is None else {key: value for key, value in asdict(overrides).items() if value is not None}
    return {
        "backbone": name,
        "weights": file or weights,
        "layer": layer,
        "pool": pool,
        "overrides": {key: list(value) if isinstance(value, tuple) else value for key, value in changes.items()},
        "versions": {package: found for package in _PACKAGES if (found := _version(package))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
