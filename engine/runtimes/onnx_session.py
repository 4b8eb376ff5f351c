"""ONNX Runtime: runs an exported torch backbone, or a third-party ONNX graph, on the CPU, CUDA or TensorRT."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tle.errors import RuntimeChoiceError, one_line
from tle.ort import CPU, Provider, open_session
from tle.runtimes.fixed_batch import run_fixed
from tle.runtimes.onnx_graph import write_onnx

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from tle.backbones.backbone import Backbone
    from tle.runtimes.plan import Plan


class OnnxSession:
    """Runs a backbone in ONNX Runtime; see `Runtime`. Safe to call from several threads."""

    def __init__(self, backbone: "Backbone", plan: "Plan", *, calibration: "NDArray[np.uint8] | None" = None) -> None:
        """Export or compose the graph and open a session on it.

        Args:
            backbone: any backbone.
            plan: precision, device, replicas; runtime "onnxruntime" or "tensorrt".
            calibration: pixels (n, H, W, 3) that the ranges of int8 are taken from.

        Raises:
            RuntimeChoiceError: the network cannot be exported or quantised, the session refuses the graph, or the
                provider cannot be had.
        """
        import onnxruntime

        with tempfile.TemporaryDirectory(prefix="tle-onnx-") as folder:
            path = write_onnx(backbone, plan, Path(folder), calibration)
            # A replica a core: a call has one thread, and the calls run side by side.
            threads = 1 if plan.device == "cpu" else None
            self._session = open_session(path, threads=threads, providers=_providers(plan))
        self.batch = backbone.onnx.batch if backbone.onnx is not None else None
        if plan.runtime == "tensorrt" and self.batch is None:
            self.batch = plan.batch_size  # another size would build another engine, for a minute
        self.device = plan.device
        self._input: str = self._session.get_inputs()[0].name
        self._output: str = self._session.get_outputs()[0].name
        self._dim = backbone.dim
        providers = ", ".join(self._session.get_providers())
        self.description = f"onnxruntime {onnxruntime.__version__}, {plan.precision}, {providers}"

    def __call__(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Features of a batch: uint8 (B, H, W, 3) -> float32 (B, D)."""
        return self._run(pixels) if self.batch is None else run_fixed(self._run, pixels, self.batch)

    def _run(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        try:
            features: NDArray[np.float32] = self._session.run(None, {self._input: np.ascontiguousarray(pixels)})[0]
        except Exception as error:
            raise RuntimeChoiceError(f"ONNX Runtime failed on a batch of {len(pixels)}: {one_line(error)}") from error
        return features

    def enqueue(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Features of a batch on the GPU, float32 (B, D) there: IO binding, so that nothing passes through the host."""
        import torch

        pixels = pixels.contiguous()
        features = torch.empty((len(pixels), self._dim), dtype=torch.float32, device=pixels.device)
        binding: Any = self._session.io_binding()
        shape = tuple(pixels.shape)
        binding.bind_input(self._input, "cuda", 0, np.uint8, shape, pixels.data_ptr())
        binding.bind_output(self._output, "cuda", 0, np.float32, tuple(features.shape), features.data_ptr())
        torch.cuda.current_stream().synchronize()  # the session runs on a stream of its own
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise RuntimeChoiceError(f"ONNX Runtime failed on a batch of {len(pixels)}: {one_line(error)}") from error
        return features


def _providers(plan: "Plan") -> tuple[Provider, ...]:
    """Execution providers for a plan; the first one has to start."""
    if plan.device == "cpu":
        return CPU
    cuda = ("CUDAExecutionProvider", {"use_tf32": int(plan.precision == "tf32")})
    if plan.runtime == "onnxruntime":
        return (cuda, *CPU)
    flags = {"float16": {"trt_fp16_enable": True}, "bfloat16": {"trt_bf16_enable": True}}
    return (("TensorrtExecutionProvider", dict(flags.get(plan.precision, {}))), cuda, *CPU)
