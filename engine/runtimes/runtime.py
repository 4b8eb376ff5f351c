"""One signature for everything that can execute a backbone, and the way to get one by name."""

from typing import TYPE_CHECKING, Protocol

from tle.errors import RuntimeChoiceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tle.backbones.backbone import Backbone

RUNTIMES = ("torch", "onnxruntime")


class Runtime(Protocol):
    """A callable from uint8 pixels (B, H, W, 3) in RGB order to float32 features (B, D).

    Attributes:
        description: what runs, for logs and caches: library, version, device or provider.
    """

    description: str

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


def open_runtime(backbone: "Backbone", name: str | None = None) -> Runtime:
    """Make a runtime for `backbone`.

    Args:
        backbone: what to run.
        name: "torch" or "onnxruntime"; None takes the one that the backbone was made for.

    Returns:
        The runtime, ready to be called from one thread at a time.

    Raises:
        RuntimeChoiceError: an unknown name, or a runtime that cannot run this backbone.
    """
    name = name or ("torch" if backbone.module is not None else "onnxruntime")
    if name == "torch":
        from tle.runtimes.torch_eager import TorchRuntime

        return TorchRuntime(backbone)
    if name == "onnxruntime":
        from tle.runtimes.onnx_session import OnnxSession

        return OnnxSession(backbone)
    raise RuntimeChoiceError(f"--runtime takes {' or '.join(RUNTIMES)}, got {name!r}")
