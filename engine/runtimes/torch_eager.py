"""torch in eager mode, channels_last; in float32 the reference that every other runtime is held against."""

from typing import TYPE_CHECKING

from tle.errors import RuntimeChoiceError, one_line
from tle.runtimes.pixel_graph import pixel_graph
from tle.runtimes.torch_device import precise, to_device

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tle.backbones.backbone import Backbone
    from tle.runtimes.plan import Plan


class TorchRuntime:
    """Runs a backbone's module; see `Runtime`."""

    def __init__(self, backbone: "Backbone", plan: "Plan") -> None:
        """Prepare the module.

        Args:
            backbone: a backbone with a torch module.
            plan: precision and device.

        Raises:
            RuntimeChoiceError: the backbone is an ONNX graph.
        """
        import torch

        # channels_last is how the pixels arrive, so no layout change is left in the graph.
        graph = pixel_graph(backbone, plan.precision).to(memory_format=torch.channels_last)
        self._graph = to_device(graph, plan.device)
        self._tf32 = plan.precision == "tf32"
        self.device = plan.device
        self.batch: int | None = None
        self.description = f"torch {torch.__version__}, eager, {plan.precision}, {plan.device}"

    def __call__(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Features of a batch: uint8 (B, H, W, 3) -> float32 (B, D)."""
        import torch

        features: NDArray[np.float32] = self.enqueue(torch.from_numpy(pixels).to(self.device)).cpu().numpy()
        return features

    def enqueue(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """The same for tensors on the device, without waiting for the result."""
        import torch

        try:
            with torch.inference_mode(), precise(tf32=self._tf32, device=self.device):
                features: torch.Tensor = self._graph(pixels)
        except torch.OutOfMemoryError as error:
            raise RuntimeChoiceError(
                f"not enough memory on the GPU for a batch of {len(pixels)}: pass a smaller --batch-size ({one_line(error)})"
            ) from error
        except RuntimeError as error:
            raise RuntimeChoiceError(f"the backbone failed on a batch of {len(pixels)}: {one_line(error)}") from error
        return features
