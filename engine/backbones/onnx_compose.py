"""Put pixels in front of a third-party ONNX graph and pooling behind it: uint8 (B, H, W, 3) -> float32 (B, D).

# B batch, H W height and width, D feature dim, T tokens, C channels
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tle.backbones.backbone import OnnxGraph
from tle.backbones.layers import POOLS, channel_axis
from tle.errors import BackboneError, RuntimeChoiceError, UsageError, one_line
from tle.ort import open_session
from tle.preprocess import Preprocess

if TYPE_CHECKING:
    import onnx

PIXELS, FEATURES = "tle_pixels", "tle_features"
_MIN_OPSET = 7  # Mul and Add broadcast as numpy does from here on


def probe_features(graph: OnnxGraph, preprocess: Preprocess, pool: str | None) -> tuple[OnnxGraph, str, int]:
    """Run the graph to learn the shape at its feature tensor, and whether it really takes any batch.

    Args:
        graph: the ONNX graph.
        preprocess: its input size and normalisation.
        pool: one of `POOLS`, or None to pick by the shape.

    Returns:
        The graph, its batch fixed at 1 where it declares a free one and yet takes no other; the pooling; the feature
        dimension D.

    Raises:
        BackboneError: the graph does not run, or the tensor cannot be pooled to (B, D).
    """
    graph, shape = _probe_batch(graph, preprocess)
    if len(shape) not in (2, 3, 4) or shape[0] != (graph.batch or 2):
        raise BackboneError(f"tensor {graph.tensor!r} has shape {shape}; features need (B, D), (B, T, D) or a 4-D map")
    kind = pool or {2: "none", 3: "avg", 4: "avg"}[len(shape)]
    if kind not in POOLS:
        raise UsageError(f"--pool takes {', '.join(POOLS)}, got {kind!r}")
    if (kind in ("cls", "cls+avg") and len(shape) != 3) or (kind in ("avg", "max") and len(shape) == 2):
        raise BackboneError(f"--pool {kind} does not fit tensor {graph.tensor!r} of shape {shape}")
    return graph, kind, _run_once(graph, preprocess, kind)[1]


def _probe_batch(graph: OnnxGraph, preprocess: Preprocess) -> tuple[OnnxGraph, tuple[int, ...]]:
    """The graph as it can be run, and the shape at its feature tensor.

    Exporters like to declare a free batch and leave the one they were run on in a Reshape inside: two pictures then fail
    or come out as one row, while one at a time works.
    """
    if graph.batch is not None:
        return graph, _run_once(graph, preprocess, None)
    try:
        shape = _run_once(graph, preprocess, None)
        if shape and shape[0] == 2:
            return graph, shape
    except BackboneError:
        single = dataclasses.replace(graph, batch=1)
        try:
            return single, _run_once(single, preprocess, None)
        except BackboneError:
            pass
        raise  # not the batch's fault: the first failure tells most
    single = dataclasses.replace(graph, batch=1)
    return single, _run_once(single, preprocess, None)


def write_pixel_graph(graph: OnnxGraph, preprocess: Preprocess, pool: str | None, path: Path) -> None:
    """Write the composed graph.

    Args:
        graph: the ONNX graph, its input and its feature tensor.
        preprocess: normalisation and input size.
        pool: one of `POOLS`; None leaves the tensor as it is.
        path: the file to write.

    Raises:
        BackboneError: an operator set older than 7, or a graph that cannot be written.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    try:
        model = onnx.load(graph.path)
    except Exception as error:
        raise BackboneError(f"{graph.path} cannot be read with its weights: {one_line(error)}") from error
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if opset < _MIN_OPSET:
        raise BackboneError(
            f"{graph.path.name} uses operator set {opset}; {_MIN_OPSET} or later is needed: convert it first"
        )
    body = model.graph
    height, width = preprocess.crop
    constants: dict[str, np.ndarray] = {}
    head: list[onnx.NodeProto] = []

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        head.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    x = PIXELS
    if preprocess.channels == "bgr":
        constants["tle_bgr"] = np.array([2, 1, 0], np.int64)
        x = node("Gather", [x, "tle_bgr"], "tle_channels", axis=3)
    if graph.input_dtype != "uint8":
        std = np.array(preprocess.std)
        constants["tle_scale"] = (1 / (255 * std)).astype(np.float32)
        constants["tle_shift"] = (-np.array(preprocess.mean) / std).astype(np.float32)
        x = node("Cast", [x], "tle_float", to=TensorProto.FLOAT)
        x = node("Mul", [x, "tle_scale"], "tle_scaled")
        x = node("Add", [x, "tle_shift"], "tle_normalised")
    if graph.layout == "NCHW":
        x = node("Transpose", [x], "tle_nchw", perm=[0, 3, 1, 2])
    to = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}[graph.input_dtype]
    node("Cast", [x], graph.input, to=to)
    shape = [graph.batch or "batch", height, width, 3]
    tail, tail_constants = _tail_nodes(graph.tensor, pool, opset, _channels(graph, preprocess, pool))
    nodes = [*head, *body.node, *tail]
    initializers = [*body.initializer] + [
        numpy_helper.from_array(value, name) for name, value in {**constants, **tail_constants}.items()
    ]
    inputs = [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape)]
    # An input that is also an initializer is a default value, which older exporters wrote; it is one no longer.
    outputs = [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, None)]
    composed = helper.make_model(
        helper.make_graph(nodes, "tle", inputs, outputs, initializers), opset_imports=model.opset_import
    )
    composed.ir_version = model.ir_version
    composed.functions.extend(model.functions)
    onnx.save(composed, path, save_as_external_data=composed.ByteSize() > 2**30)


def _tail_nodes(
    tensor: str, pool: str | None, opset: int, channels: int
) -> "tuple[list[onnx.NodeProto], dict[str, np.ndarray]]":
    """Nodes that pool `tensor` to float32 (B, D); `channels` is the channel axis of a map, or -1 for tokens."""
    from onnx import TensorProto, helper

    constants: dict[str, np.ndarray] = {}
    tail: list[onnx.NodeProto] = []

    def reduce(op: str, source: str, output: str, axes: list[int]) -> str:
        # Axes moved from an attribute to an input in operator set 18 (ReduceMean and ReduceMax alike).
        if opset >= 18:
            constants[f"{output}_axes"] = np.array(axes, np.int64)
            tail.append(helper.make_node(op, [source, f"{output}_axes"], [output], keepdims=0))
        else:
            tail.append(helper.make_node(op, [source], [output], axes=axes, keepdims=0))
        return output

    def tokens(source: str, output: str, first: int, last: int) -> str:
        constants[f"{output}_index"] = np.array([first], np.int64)
        constants[f"{output}_end"] = np.array([last], np.int64)
        constants[f"{output}_axis"] = np.array([1], np.int64)
        inputs = [source, f"{output}_index", f"{output}_end", f"{output}_axis"]
        if opset >= 10:
            tail.append(helper.make_node("Slice", inputs, [output]))
        else:
            tail.append(helper.make_node("Slice", [source], [output], starts=[first], ends=[last], axes=[1]))
        return output

    x = tensor
    if pool in ("avg", "max"):
        op = "ReduceMean" if pool == "avg" else "ReduceMax"
        if channels < 0:
            x = reduce(op, x, "tle_pooled", [1])  # all tokens: a file does not say which of them is a class token
        else:
            x = reduce(op, x, "tle_pooled", [axis for axis in (1, 2, 3) if axis != channels])
    elif pool in ("cls", "cls+avg"):
        cls = reduce("ReduceMean", tokens(x, "tle_cls", 0, 1), "tle_cls_flat", [1])
        x = cls
        if pool == "cls+avg":
            avg = reduce("ReduceMean", tokens(tensor, "tle_patches", 1, 2**31 - 1), "tle_avg", [1])
            tail.append(helper.make_node("Concat", [cls, avg], ["tle_joined"], axis=1))
            x = "tle_joined"
    elif pool == "none":
        tail.append(helper.make_node("Flatten", [x], ["tle_flat"], axis=1))
        x = "tle_flat"
    tail.append(helper.make_node("Cast", [x], [FEATURES], to=TensorProto.FLOAT))
    return tail, constants


def _channels(graph: OnnxGraph, preprocess: Preprocess, pool: str | None) -> int:
    """Channel axis of the feature tensor where it is a map that gets pooled, else -1."""
    if pool not in ("avg", "max"):
        return -1
    shape = _run_once(graph, preprocess, None)
    return channel_axis(shape, preprocess.crop) if len(shape) == 4 else -1


def _run_once(graph: OnnxGraph, preprocess: Preprocess, pool: str | None) -> tuple[int, ...]:
    """Shape of the composed graph's output for noise: a fixed batch of it, or two pictures where the batch is free."""
    with tempfile.TemporaryDirectory(prefix="tle-onnx-") as folder:
        path = Path(folder) / "probe.onnx"
        write_pixel_graph(graph, preprocess, pool, path)
        try:
            session = open_session(path)
        except RuntimeChoiceError as error:
            raise BackboneError(f"{graph.path.name}: {error}") from error
    noise = np.random.default_rng(0).integers(0, 256, (graph.batch or 2, *preprocess.crop, 3), np.uint8)
    try:
        features = session.run(None, {PIXELS: noise})[0]
    except Exception as error:
        raise BackboneError(
            f"{graph.path.name} does not run on {preprocess.crop[0]}x{preprocess.crop[1]} pictures: {one_line(error)}"
        ) from error
    return tuple(features.shape)
