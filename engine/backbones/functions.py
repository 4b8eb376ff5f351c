"""`package.module:function`: a network of the user's own, made by calling a function without arguments."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tle.backbones import checkpoint
from tle.backbones.torchvision_models import RANDOM_SEED, Loaded
from tle.errors import BackboneError, UsageError, one_line
from tle.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn


def load(name: str, weights: str, preprocess: Preprocess, *, assumed: bool) -> Loaded:
    """Call the function that `name` says; the current folder is searched as by `python -m`.

    Args:
        name: `package.module:function`.
        weights: "DEFAULT" (what the function loads), or a file as `checkpoint.resolve` takes it.
        preprocess: what to assume, as no function says it.
        assumed: whether the assumption is used, so that the user has to be told.

    Returns:
        The whole network.

    Raises:
        BackboneError: the function cannot be imported or called, or returns something else than a network.
        UsageError: weights that a function cannot have.
    """
    import torch
    from torch import nn

    module_name, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        function: Callable[[], object] = getattr(importlib.import_module(module_name), attribute)
        # Seeded apart from the caller's generator: a network with random weights is the same in every run.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            model = function()
    except (Exception, SystemExit) as error:
        raise BackboneError(f"backbone {name!r} cannot be made: {one_line(error)}") from error
    finally:
        if folder in sys.path:  # the user's code may have taken it out
            sys.path.remove(folder)
    if not isinstance(model, nn.Module):
        raise BackboneError(f"backbone {name!r} should return a torch.nn.Module, it returned {type(model).__name__}")
    model.eval()
    notes: tuple[str, ...] = ()
    code = _source_files(function, model)
    if assumed:
        notes = ("preprocessing unknown: ImageNet's (256 -> 224) is used where no flag says otherwise",)
        listed = ", ".join(file.name for file in code)
        if code:
            notes += (f"a change of its code is noticed in {listed}, not in what is imported there",)
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
    return Loaded(model=model, weights=recorded, preprocess=preprocess, notes=notes, cut=None, code=code)


def _source_files(function: Callable[[], object], model: "nn.Module") -> tuple[Path, ...]:
    """Files that define a backbone of the user's own: of its function and of its class, torch's left out."""
    modules = {function.__module__, *(type(part).__module__ for part in model.modules())}
    own = {sys.modules.get(name) for name in modules if name.split(".")[0] not in ("torch", "torchvision", "timm")}
    return tuple(
        sorted({Path(file) for module in own if (file := getattr(module, "__file__", None)) and Path(file).is_file()})
    )
