"""A backbone as one ONNX file from uint8 pixels to features, in float32 or quantised to int8.

# n pictures of the calibration, H W height and width
"""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tle.errors import RuntimeChoiceError, one_line
from tle.runtimes.onnx_export import export_onnx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tle.backbones.backbone import Backbone
    from tle.runtimes.plan import Plan

_CALIBRATION_BATCH = 8


def write_onnx(
    backbone: "Backbone", plan: "Plan", folder: Path, calibration: "NDArray[np.uint8] | None" = None
) -> Path:
    """Write the graph of `backbone` that `plan` asks for.

    Args:
        backbone: any backbone.
        plan: its precision says whether to quantise.
        folder: an existing folder for the file or files.
        calibration: uint8 (n, H, W, 3), for int8 alone.

    Returns:
        The file.

    Raises:
        RuntimeChoiceError: the network cannot be exported or quantised, or int8 lacks pictures to calibrate on.
    """
    path = folder / "backbone.onnx"
    if backbone.onnx is not None:
        from tle.backbones.onnx_compose import write_pixel_graph

        write_pixel_graph(backbone.onnx, backbone.preprocess, backbone.pool, path)
    else:
        export_onnx(backbone, path)
    return quantize_onnx(backbone, path, calibration) if plan.precision == "int8" else path


def quantize_onnx(backbone: "Backbone", path: Path, calibration: "NDArray[np.uint8] | None") -> Path:
    """Quantise the float32 graph of `backbone` to int8.

    Args:
        backbone: what the graph is of.
        path: the graph, as `write_onnx` wrote it.
        calibration: uint8 (n, H, W, 3) that the ranges are taken from.

    Returns:
        The quantised graph, beside the other.

    Raises:
        RuntimeChoiceError: the graph cannot be quantised, or there is no picture to calibrate on.
    """
    if calibration is None or not len(calibration):
        raise RuntimeChoiceError("int8 takes its ranges from your pictures, and none could be read")
    batch = backbone.onnx.batch if backbone.onnx is not None else None
    quantized = path.with_name(f"{path.stem}-int8.onnx")
    try:
        _quantize(path, quantized, calibration, batch or _CALIBRATION_BATCH)
    except Exception as error:
        raise RuntimeChoiceError(
            f"{backbone.name} cannot be quantised to int8 ({one_line(error)}); pass another --precision"
        ) from error
    return quantized


def _quantize(path: Path, quantized: Path, calibration_nHW3: "NDArray[np.uint8]", batch: int) -> None:
    """Static quantisation as ONNX Runtime's own tool does it: int8 weights a channel, uint8 activations a tensor.

    Convolutions and matrix products are quantised, everything else stays float32; the ranges are the smallest and
    largest values seen on the pictures. Batches are padded by repetition, which changes no range.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):  # type: ignore[misc]  # untyped package
        def __init__(self) -> None:
            missing = -len(calibration_nHW3) % batch
            rows = np.resize(np.arange(len(calibration_nHW3)), len(calibration_nHW3) + missing)
            self._batches = iter(rows.reshape(-1, batch))

        def get_next(self) -> dict[str, Any] | None:
            rows = next(self._batches, None)
            return None if rows is None else {self._name: calibration_nHW3[rows]}

        _name = _input_name(path)

    prepared = path.with_name("prepared.onnx")
    level = (log := logging.getLogger()).level
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the tool advises what is done here already
            log.setLevel(logging.ERROR)
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(quantized),
                Pictures(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "MatMul", "Gemm", "Add", "MaxPool", "GlobalAveragePool", "Relu", "Clip"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        log.setLevel(level)


def _input_name(path: Path) -> str:
    import onnx

    return str(onnx.load(path, load_external_data=False).graph.input[0].name)
