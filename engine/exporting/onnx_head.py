"""Put a linear head behind an ONNX graph: features (B, D) become probabilities (B, K) in the same file.

# B batch, D feature dim, K outputs (C classes, or 1 for regression)
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from tle.enums import Target
from tle.errors import HeadError
from tle.heads.affine import Affine, Link

if TYPE_CHECKING:
    import onnx

    from tle.heads.head import Head

INPUT = "pixels"
_FEATURES = "tle_head_features"
# Added to lengths so that a row of zeros is not divided by zero and stays zero; lost in the rounding of any other.
_TINY = 1e-38


def output_name(target: Target) -> str:
    """What the outputs of an exported classifier are called."""
    return "values" if target is Target.REGRESSION else "probabilities"


def affine_of(head: "Head") -> Affine:
    """The linear layer of a head.

    Raises:
        HeadError: the head is not linear.
    """
    if not isinstance(head.model, Affine):
        raise HeadError(
            f"a {head.kind} head cannot be exported to a graph, only linear ones can (logistic, linear, ridge, lda, "
            "prototype, and what tle finetune makes): fit one of these, or export to .tle"
        )
    return head.model


def append_head(model: "onnx.ModelProto", head: "Head") -> "onnx.ModelProto":
    """The graph of a whole classifier.

    Args:
        model: a graph with one input, pixels uint8 (B, H, W, 3), and one output, features float32 (B, D).
        head: a linear head on these features.

    Returns:
        A graph from "pixels" to float32 "probabilities" (B, C), or "values" (B, 1) of a regression.

    Raises:
        HeadError: the head is not linear.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    affine, output = affine_of(head), output_name(head.target)
    given = model.graph.input[0].name
    made = {name for node in model.graph.node for name in node.output} | {each.name for each in model.graph.initializer}
    if made & {INPUT, output, _FEATURES}:  # a graph of someone else's, with the same names inside
        model = onnx.compose.add_prefix(model, "backbone/")
        given = model.graph.input[0].name
    graph = model.graph
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for node in graph.node:
        node.input[:] = [INPUT if name == given else name for name in node.input]
    graph.input[0].name = INPUT
    builder = _Builder(opset)
    x = builder.add("Identity", [graph.output[0].name], _FEATURES)
    if affine.unit_rows:
        x = builder.unit_rows(x)
    weight = builder.constant("tle_head_weight", affine.weight_KD)
    x = builder.add("Gemm", [x, weight, builder.constant("tle_head_bias", affine.bias_K)], "tle_head_logits", transB=1)
    if affine.link is Link.SOFTMAX:
        builder.add("Softmax", [x], output, axis=1)
    else:
        builder.add("Sigmoid" if affine.link is Link.SIGMOID else "Identity", [x], output)
    graph.node.extend(builder.nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in builder.constants.items())
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    shape = [batch.dim_value or batch.dim_param or "batch", len(affine.bias_K)]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    return model


class _Builder:
    """Nodes and constants in the making, for one operator set."""

    def __init__(self, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self._opset = opset

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: "np.ndarray[Any, Any]") -> str:
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def unit_rows(self, x: str) -> str:
        """Rows divided by their length, as `tle.heads.unit_rows` does.

        By their largest value first: its square is beyond float32 where it is beyond 1e19, which float64 there bears.
        """
        tiny = self.constant("tle_head_tiny", np.array(_TINY, np.float32))
        for reduction, size in (("ReduceMax", self.add("Abs", [x], "tle_head_size")), ("ReduceL2", "")):
            length = self._reduce(reduction, size or x, f"tle_head_{reduction}")
            length = self.add("Add", [length, tiny], f"tle_head_{reduction}_length")
            x = self.add("Div", [x, length], f"tle_head_{reduction}_unit")
        return x

    def _reduce(self, op: str, source: str, output: str) -> str:
        # Axes moved from an attribute to an input in operator set 18.
        if self._opset >= 18:
            return self.add(op, [source, self.constant("tle_head_axis", np.array([1], np.int64))], output, keepdims=1)
        return self.add(op, [source], output, axes=[1], keepdims=1)
