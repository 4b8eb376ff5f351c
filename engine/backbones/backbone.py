"""What a backbone is, once it is loaded: something that turns pixels into features, and where it came from."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tle.preprocess import Preprocess

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxGraph:
    """A third-party ONNX file and the place in it where the features are.

    Attributes:
        path: the file.
        input: name of the image input.
        layout: "NCHW" or "NHWC", order of the input's axes.
        input_dtype: element type that the input takes: "float32", "float16" or "uint8".
        tensor: name of the tensor that holds the features.
        batch: the fixed batch size of the graph, declared or found by running it, or None where it is free.
    """

    path: Path
    input: str
    layout: str
    input_dtype: str
    tensor: str
    batch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A frozen backbone, cut at its features. Exactly one of `module` and `onnx` is set.

    Attributes:
        name: the name it was asked for by, `torchvision/resnet50` for one.
        weights: where the weights came from: an enum's name, a path, `package:...`, or "none".
        weights_digest: SHA-256 (32 hex digits) over names, types, shapes and bytes of all parameters and buffers used.
        layer: where the features are taken.
        pool: how a layer's output becomes (B, D): "avg", "max", "cls", "cls+avg" or "none".
        dim: feature dimension D.
        preprocess: from a decoded picture to the backbone's input.
        module: in eval mode; normalised float32 (B, 3, H, W) -> float32 (B, D).
        onnx: the ONNX graph to run instead of a module.
        notes: one-line facts that the user has to be told (dropped keys, random weights).
        code: source files that count in the digest, of a network of the user's own.
    """

    name: str
    weights: str
    weights_digest: str
    layer: str
    pool: str
    dim: int
    preprocess: Preprocess
    module: "nn.Module | None" = None
    onnx: OnnxGraph | None = None
    notes: tuple[str, ...] = ()
    code: tuple[Path, ...] = ()

    def spec(self) -> dict[str, Any]:
        """The JSON-able description that goes into a cache and into a head."""
        return {
            "name": self.name,
            "weights": self.weights,
            "weights_digest": self.weights_digest,
            "layer": self.layer,
            "pool": self.pool,
            "dim": self.dim,
        }


def digest_state(state: "dict[str, torch.Tensor]", code: Iterable[Path] = ()) -> str:
    """SHA-256 over a state dict, independent of the order of its keys and of the file it came from.

    Args:
        state: names to tensors of any type and shape.
        code: source files whose bytes count as well.

    Returns:
        32 hex digits.
    """
    import torch

    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    for source in sorted(hashlib.sha256(path.read_bytes()).digest() for path in code):  # wherever they lie
        sha.update(source)
    return sha.hexdigest()[:32]


def digest_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of files, 32 hex digits; of one file just how `sha256sum` begins."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()[:32]
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()[:32]
