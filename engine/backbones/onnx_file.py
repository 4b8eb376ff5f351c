"""`onnx:FILE[#TENSOR]`: a third-party ONNX graph, cut at an inner tensor.

Without a tensor the graph is walked back from its first output through what only reshapes or squashes scores; a matrix
product or convolution found there is the classifier, and what enters it are the features. Otherwise the output itself
is taken. Either way the choice is reported.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tle.backbones.backbone import OnnxGraph
from tle.backbones.layers import Layer
from tle.errors import BackboneError, one_line
from tle.names import list_near_names

if TYPE_CHECKING:
    import onnx

_DTYPES = {1: "float32", 2: "uint8", 10: "float16"}
_AFTER_SCORES = frozenset(
    {
        "Softmax",
        "LogSoftmax",
        "Sigmoid",
        "Identity",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Cast",
        "Add",
        "Dropout",
    }
)
_CLASSIFIES = frozenset({"Gemm", "MatMul", "Conv"})


def load_graph(path: Path, tensor: str | None) -> tuple[OnnxGraph, tuple[int, int] | None, tuple[str, ...]]:
    """Read the graph of `path` and find its image input and its features.

    Args:
        path: an ONNX file with one image input, (B, 3, H, W) or (B, H, W, 3).
        tensor: name of the tensor to take; None finds the penultimate features.

    Returns:
        The graph, the input size (H, W) where the file fixes it, and notes for the user.

    Raises:
        BackboneError: not an ONNX file, no image input, no such tensor.
    """
    model = read_model(path)
    graph = model.graph
    name, layout, dtype, batch, size = _image_input(path, graph)
    notes: tuple[str, ...] = ()
    known = list(_tensor_names(graph))
    if tensor is None:
        tensor, note = _penultimate(graph)
        notes = (note,)
    elif tensor not in known:
        raise BackboneError(
            f"{path.name} has no tensor {tensor!r}{list_near_names(tensor, known)}; `tle layers` lists all"
        )
    return (
        OnnxGraph(path=path, input=name, layout=layout, input_dtype=dtype, tensor=tensor, batch=batch),
        size,
        notes,
    )


def read_model(path: Path) -> "onnx.ModelProto":
    """Parse and check an ONNX file.

    Raises:
        BackboneError: missing, or not a valid ONNX file.
    """
    import onnx

    if not path.is_file():
        raise BackboneError(f"no such ONNX file: {path}")
    try:
        # Weights kept in side files stay there: only the graph is needed here, the runtime reads them itself.
        model = onnx.load(path, load_external_data=False)
        if not model.graph.node or not model.graph.output:
            raise ValueError("it has no graph")
    except Exception as error:
        raise BackboneError(f"{path} is not a readable ONNX file: {one_line(error)}") from error
    return model


def weight_files(path: Path) -> list[Path]:
    """The ONNX file and every side file that holds weights of it.

    Raises:
        BackboneError: a side file is missing or lies outside the folder of the graph.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = read_model(path)
    tensors = [tensor for part in (model.graph, *model.functions) for tensor in _constants(part)]
    names = sorted({ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)})
    folder = path.absolute().parent.resolve()
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder) or not (folder / name).is_file():
            raise BackboneError(f"{path} keeps weights in {name!r}, which is not a file in its folder: bring it there")
    return [path, *(folder / name for name in names)]


def _constants(graph: Any) -> "Iterator[onnx.TensorProto]":
    """Every constant of a graph or function: initializers and attributes of nodes, of the graphs inside it too."""
    yield from getattr(graph, "initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in [attribute.g] if attribute.HasField("g") else [*attribute.graphs]:
                yield from _constants(inner)


def list_tensors(path: Path) -> list[Layer]:
    """All tensors of the graph with the shapes that ONNX can infer (-1 where it cannot), in order of execution."""
    import onnx

    model = read_model(path)
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        info.name: tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in info.type.tensor_type.shape.dim)
        for info in (*inferred.graph.value_info, *inferred.graph.output)
    }
    return [Layer(name, shapes[name][1:]) for name in _tensor_names(model.graph) if len(shapes.get(name, ())) > 1]


def _tensor_names(graph: "onnx.GraphProto") -> Iterator[str]:
    for node in graph.node:
        yield from (name for name in node.output if name)


def _image_input(path: Path, graph: "onnx.GraphProto") -> tuple[str, str, str, int | None, tuple[int, int] | None]:
    """Name, layout, element type, fixed batch and fixed (H, W) of the image input."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    found: list[Any] = []
    for value in inputs:
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        if len(dims) == 4 and tensor.elem_type in _DTYPES and (dims[1] == 3 or dims[3] == 3):
            layout = "NCHW" if dims[1] == 3 else "NHWC"
            height, width = dims[2:4] if layout == "NCHW" else dims[1:3]
            size = (height, width) if height and width else None
            found.append((value.name, layout, _DTYPES[tensor.elem_type], dims[0] or None, size))
    if len(found) != 1 or len(inputs) != 1:
        described = ", ".join(value.name for value in inputs) or "none"
        raise BackboneError(
            f"{path.name} should have one image input (B, 3, H, W) or (B, H, W, 3); its inputs: {described}"
        )
    name, layout, dtype, batch, size = found[0]
    return name, layout, dtype, batch, size


def _penultimate(graph: "onnx.GraphProto") -> tuple[str, str]:
    """The tensor that enters the classifier, or else the output; and what to tell the user."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    output: str = graph.output[0].name
    tensor = output
    while (node := makers.get(tensor)) is not None:
        data = [name for name in node.input if name and name not in constants]
        if node.op_type in _CLASSIFIES and len(data) == 1 and len(node.input) > 1:
            return data[
                0
            ], f"features are {data[0]!r}, which enters the classifying {node.op_type}; #TENSOR takes another"
        if node.op_type not in _AFTER_SCORES or len(data) != 1:
            break
        tensor = data[0]
    return output, f"no classifier found at the end of the graph: features are its output {output!r}"
