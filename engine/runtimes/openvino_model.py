"""OpenVINO on the CPU: the fastest bfloat16 and int8 on x86 that was measured; an optional package.

Seen on 2 cores with avx512_bf16, images/s of the model alone, bfloat16: ResNet-18 125 against 106 in torch and 108 in
inductor; MobileNetV3-L 664 against 338 and 235; ViT-B/16 11.6 against 9.3 and 9.8.
"""

import contextlib
import io
import tempfile
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tle.errors import RuntimeChoiceError, one_line
from tle.runtimes.fixed_batch import run_fixed
from tle.runtimes.onnx_graph import write_onnx
from tle.runtimes.pixel_graph import pixel_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tle.backbones.backbone import Backbone
    from tle.runtimes.plan import Plan

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # what is not quantised stays float32


class OpenvinoRuntime:
    """Runs a backbone compiled for one batch size; see `Runtime`. Safe to call from several threads."""

    def __init__(self, backbone: "Backbone", plan: "Plan", *, calibration: "NDArray[np.uint8] | None" = None) -> None:
        """Convert and compile; 1 to 3 s.

        Args:
            backbone: any backbone.
            plan: precision, batch size, replicas.
            calibration: pixels (n, H, W, 3) that the ranges of int8 are taken from.

        Raises:
            RuntimeChoiceError: the network cannot be converted or quantised.
        """
        import openvino

        self.device = "cpu"
        fixed = backbone.onnx.batch if backbone.onnx is not None else None
        self._size: int = fixed or plan.batch_size
        self.batch: int | None = self._size
        self._local = threading.local()
        core = openvino.Core()
        try:
            model = _convert(core, backbone, plan, calibration)
            model.reshape({0: [self._size, *backbone.preprocess.crop, 3]})
            self._compiled: Any = core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _PRECISIONS[plan.precision],
                    "NUM_STREAMS": str(plan.replicas),
                    "INFERENCE_NUM_THREADS": str(plan.replicas),
                    # The threads that decode are not pinned, and must find a core that is free.
                    "ENABLE_CPU_PINNING": "NO",
                },
            )
        except RuntimeChoiceError:
            raise
        except Exception as error:
            raise RuntimeChoiceError(
                f"OpenVINO cannot run {backbone.name} ({one_line(error)}); pass another --runtime"
            ) from error
        self.description = f"openvino {openvino.__version__.split('-')[0]}, {plan.precision}, CPU"

    def __call__(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Features of a batch: uint8 (B, H, W, 3) -> float32 (B, D)."""
        return run_fixed(self._run, pixels, self._size)

    def _run(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        request = getattr(self._local, "request", None)  # one a thread
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        try:
            outputs = request.infer({0: np.ascontiguousarray(pixels)}, share_inputs=True)
        except Exception as error:
            raise RuntimeChoiceError(f"OpenVINO failed on a batch of {len(pixels)}: {one_line(error)}") from error
        features: NDArray[np.float32] = outputs[0]
        return features


def _convert(core: Any, backbone: "Backbone", plan: "Plan", calibration: "NDArray[np.uint8] | None") -> Any:
    """The backbone as an OpenVINO model."""
    if backbone.module is None or plan.precision == "int8":
        with tempfile.TemporaryDirectory(prefix="tle-onnx-") as folder:
            path = write_onnx(backbone, plan, Path(folder), calibration)
            return core.read_model(path)
    import openvino
    import torch

    example = torch.zeros(plan.batch_size, *backbone.preprocess.crop, 3, dtype=torch.uint8)
    graph = pixel_graph(backbone)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every shape that it writes down; the parity gate checks
        # Traced by us without torch's own check, which calls two traces different by the names of their classes.
        traced = torch.jit.trace(graph, example, check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(traced, example_input=example)
