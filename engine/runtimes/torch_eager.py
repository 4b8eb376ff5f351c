"""torch in eager mode, channels_last, float32: the reference that every other runtime is held against."""

from typing import TYPE_CHECKING

from tle.runtimes.pixel_graph import pixel_graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tle.backbones.backbone import Backbone


class TorchRuntime:
    """Runs a backbone's module on the CPU; see `Runtime`."""

    def __init__(self, backbone: "Backbone") -> None:
        """Prepare the module.

        Args:
            backbone: a backbone with a torch module.

        Raises:
            RuntimeChoiceError: the backbone is an ONNX graph.
        """
        import torch

        # channels_last is how the pixels arrive, so no layout change is left in the graph.
        self._graph = pixel_graph(backbone).to(memory_format=torch.channels_last)
        self.description = f"torch {torch.__version__}, eager, float32, cpu"

    def __call__(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Features of a batch: uint8 (B, H, W, 3) -> float32 (B, D)."""
        import torch

        with torch.inference_mode():
            features: NDArray[np.float32] = self._graph(torch.from_numpy(pixels)).numpy()
        return features
