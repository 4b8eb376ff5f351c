"""One signature for everything that can execute a backbone, and the way to get one from a plan."""

from typing import TYPE_CHECKING, Protocol

from tle.runtimes.plan import Plan, check_offered

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tle.backbones.backbone import Backbone


class Runtime(Protocol):
    """A callable from uint8 pixels (B, H, W, 3) in RGB order to float32 features (B, D).

    Calls may come from several threads at once.

    Attributes:
        description: what runs, for logs and caches: library, version, precision, device or providers.
        device: "cpu" or "cuda".
        batch: the batch that it computes, whatever it is given (less is padded, more is split); None takes any.
    """

    description: str
    device: str
    batch: int | None

    def __call__(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Features of a batch.

        Args:
            pixels: uint8 (B, H, W, 3), B >= 1.

        Returns:
            float32 (B, D).

        Raises:
            RuntimeChoiceError: the backbone does not run on this batch.
        """
        ...


class GpuRuntime(Runtime, Protocol):
    """A runtime on a GPU, which can be given work without waiting for the result."""

    def enqueue(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Features float32 (B, D) of pixels uint8 (B, H, W, 3), both on the GPU, in the order of the current stream.

        Where `batch` is set, B has to be just that.
        """
        ...


def reference_plan(backbone: "Backbone", *, replicas: int = 1) -> Plan:
    """What every other plan is held against: float32 on the CPU, eager torch, or ONNX Runtime for an ONNX file."""
    runtime = "torch" if backbone.module is not None else "onnxruntime"
    return Plan(runtime=runtime, precision="float32", replicas=replicas)


def open_runtime(
    backbone: "Backbone", plan: Plan | None = None, *, calibration: "NDArray[np.uint8] | None" = None
) -> Runtime:
    """Make a runtime for `backbone`.

    Args:
        backbone: what to run.
        plan: how; None takes the reference plan.
        calibration: pixels uint8 (n, H, W, 3) that the ranges of int8 are taken from.

    Returns:
        The runtime.

    Raises:
        RuntimeChoiceError: a runtime that cannot run this backbone, or not on this machine.
    """
    plan = plan or reference_plan(backbone)
    check_offered(plan.runtime, plan.precision, plan.device, backbone)
    if plan.runtime == "torch":
        from tle.runtimes.torch_eager import TorchRuntime

        return TorchRuntime(backbone, plan)
    if plan.runtime == "inductor":
        from tle.runtimes.inductor import InductorRuntime

        return InductorRuntime(backbone, plan)
    if plan.runtime == "openvino":
        from tle.runtimes.openvino_model import OpenvinoRuntime

        return OpenvinoRuntime(backbone, plan, calibration=calibration)
    from tle.runtimes.onnx_session import OnnxSession

    return OnnxSession(backbone, plan, calibration=calibration)
