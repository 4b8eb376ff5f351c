"""The layers of a network that no rule knows: its parts in the order in which they run.

A network is taken apart from its root: what wraps a single part is looked through, a known family inside is counted as it
always is, sequences of several parts are split once, and all else is one layer.
"""

import math
from typing import TYPE_CHECKING

from tle.finetuning.layer_rules import TAIL, Position, family_positions
from tle.finetuning.network import public_name

if TYPE_CHECKING:
    import torch
    from torch import nn

# After all other layers of a family that more of the network follows.
_END = 1e6


def execution_positions(module: "nn.Module", crop: tuple[int, int]) -> dict[str, Position]:
    """Positions of all parameters, by public name.

    Parameters of the root itself (a class token, position embeddings) go with the first layer, as embeddings do. A part
    that does not run, such as an auxiliary classifier, goes with the part that is registered before it. A layer
    normalisation that runs last is the tail.

    Args:
        module: a backbone; it is run once, without gradients, in eval mode, and left in the mode that it was in.
        crop: (H, W) of pictures that it takes, in pixels.

    Raises:
        BackboneError: it does not take such pictures.
    """
    ranks = run_ranks(module, crop)
    path, root = _look_through(module)
    pieces = _pieces(path, root)
    found: dict[str, Position] = {}
    ends: list[Position] = []
    runs = [min((rank for name, rank in ranks.items() if _inside(name, path)), default=math.inf) for path, _ in pieces]
    last = max((run for run in runs if run < math.inf), default=0)
    for run, (path, piece) in zip(runs, pieces, strict=True):
        if run == math.inf:
            inner = dict.fromkeys(_shapes(piece), ends[-1] if ends else (0.0,))
        elif (known := family_positions(_shapes(piece))) is not None:
            end = TAIL if run == last else (run, _END)
            inner = {name: end if position == TAIL else (run, *position) for name, position in known[2].items()}
        else:
            position = TAIL if run == last and len(pieces) > 1 and _is_layer_norm(piece) else (run,)
            inner = dict.fromkeys(_shapes(piece), position)
        ends.append(max((position for position in inner.values() if position != TAIL), default=TAIL))
        found |= {f"{path}.{name}".lstrip("."): position for name, position in inner.items()}
    first = min(found.values(), default=(0.0,))
    # In the order of the network's parameters, with those that are the root's own.
    return {public_name(name): found.get(name, first) for name, _ in module.named_parameters()}


def run_ranks(module: "nn.Module", crop: tuple[int, int]) -> dict[str, int]:
    """Run a network once and count: the name of each module that runs to its place among them.

    Args:
        module: normalised float32 (B, 3, H, W) -> anything.
        crop: (H, W) in pixels.

    Raises:
        BackboneError: it does not take such pictures.
    """
    from tle.backbones.penultimate import probe_images, run_module

    ranks: dict[str, int] = {}
    modes = {child: child.training for child in module.modules()}

    def watch(name: str, child: "nn.Module") -> "torch.utils.hooks.RemovableHandle":
        def note(_: "nn.Module", __: object) -> None:
            ranks.setdefault(name, len(ranks))

        return child.register_forward_pre_hook(note)

    handles = [watch(name, child) for name, child in module.named_modules()]
    try:
        module.eval()  # statistics must not move
        run_module(module, probe_images(crop).to(next(module.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
        module.train(modes[module])  # a network cut at a layer has a graph for each mode, which only this exchanges
        for child, mode in modes.items():
            child.training = mode
    return ranks


def is_norm(module: "nn.Module | None") -> bool:
    """Whether a module normalises, by the name of its class: BatchNormAct2d, LayerNorm2d, GroupNorm1, RmsNorm and so on."""
    return module is not None and "norm" in type(module).__name__.lower() and not _parts(module)


def _is_layer_norm(module: "nn.Module") -> bool:
    owners = [child for child in module.modules() if [*child.parameters(recurse=False)]]
    return all(is_norm(owner) and not hasattr(owner, "running_mean") for owner in owners)


def _look_through(module: "nn.Module") -> tuple[str, "nn.Module"]:
    """The first module from the root that has several parts, parameters of its own, or a known family's."""
    path = ""
    while len(parts := _parts(module)) == 1 and not [*module.parameters(recurse=False)]:
        if family_positions(_shapes(module)) is not None:
            break
        name, module = parts[0]
        path = f"{path}.{name}".lstrip(".")
    return path, module


def _pieces(path: str, root: "nn.Module") -> list[tuple[str, "nn.Module"]]:
    """What becomes one layer each, or a known family's layers: in the order of registration."""
    if family_positions(_shapes(root)) is not None or not _parts(root):
        return [(path, root)]
    pieces = []
    for name, part in _parts(root):
        inside = f"{path}.{name}".lstrip(".")
        if _is_sequence(part) and len(_parts(part)) > 1 and family_positions(_shapes(part)) is None:
            pieces += [(f"{inside}.{child}", piece) for child, piece in _parts(part)]
        else:
            pieces.append((inside, part))
    return pieces


def _is_sequence(module: "nn.Module") -> bool:
    """A Sequential or ModuleList; in a network that was cut to a graph both are plain modules with numbered children."""
    from torch import nn

    numbered = type(module) is nn.Module and all(name.isdigit() for name, _ in module.named_children())
    return isinstance(module, nn.Sequential | nn.ModuleList) or numbered


def _parts(module: "nn.Module") -> list[tuple[str, "nn.Module"]]:
    return [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]


def _shapes(module: "nn.Module") -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.named_parameters()}


def _inside(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")
