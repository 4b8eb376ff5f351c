"""torch.compile with inductor: one fused graph, weights frozen and packed for this processor."""

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tle.errors import RuntimeChoiceError, one_line
from tle.runtimes.fixed_batch import run_fixed
from tle.runtimes.pixel_graph import pixel_graph
from tle.runtimes.torch_device import precise, to_device
from tle.threads import one_torch_thread, torch_threads_kept

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tle.backbones.backbone import Backbone
    from tle.runtimes.plan import Plan


class InductorRuntime:
    """Runs a backbone compiled for one batch size; see `Runtime`."""

    def __init__(self, backbone: "Backbone", plan: "Plan") -> None:
        """Compile; this takes from 10 s on.

        Args:
            backbone: a backbone with a torch module.
            plan: precision, device and batch size.

        Raises:
            RuntimeChoiceError: the network cannot be exported or compiled (no C++ compiler, for one).
        """
        import torch

        graph = pixel_graph(backbone, plan.precision).to(memory_format=torch.channels_last)
        graph = to_device(graph, plan.device)
        height, width = backbone.preprocess.crop
        example = torch.zeros(plan.batch_size, height, width, 3, dtype=torch.uint8, device=plan.device)
        self._tf32 = plan.precision == "tf32"
        self.device = plan.device
        self._size = plan.batch_size
        self.batch: int | None = self._size
        self.description = f"torch {torch.__version__}, inductor, {plan.precision}, {plan.device}"
        try:
            with _quiet(), torch_threads_kept(), torch.no_grad():
                if plan.device == "cpu":
                    # Weights are packed for the number of threads at hand, and each replica has one, be it the only one.
                    # Packed for two and run by one, ResNet-18 in float32 made 7 images/s instead of 57.
                    one_torch_thread()
                # Exported first, so that each backbone has a code object of its own: torch.compile counts
                # recompilations by code object, and after 8 of them runs eagerly without a word.
                exported = torch.export.export(graph, (example,)).module()
                self._compiled = torch.compile(exported, fullgraph=True, dynamic=False, options=_options(plan.device))
                self.enqueue(example)
        except Exception as error:
            raise RuntimeChoiceError(
                f"{backbone.name} cannot be compiled ({one_line(error)}); run it with --runtime torch"
            ) from error

    def __call__(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Features of a batch: uint8 (B, H, W, 3) -> float32 (B, D)."""
        return run_fixed(self._run, pixels, self._size)

    def _run(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        import torch

        features: NDArray[np.float32] = self.enqueue(torch.from_numpy(pixels).to(self.device)).cpu().numpy()
        return features

    def enqueue(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """The same for a full batch on the device, without waiting for the result."""
        import torch

        # The same modes as at compile time, whatever the caller's are: another one would compile again.
        with torch.inference_mode(), precise(tf32=self._tf32, device=self.device):
            features: torch.Tensor = self._compiled(pixels)
        # A CUDA graph writes into the same memory at each call.
        return features if self.device == "cpu" else features.clone()


def _options(device: str) -> dict[str, Any]:
    if device == "cuda":
        return {"freezing": True, "triton.cudagraphs": True}
    # One replica a core: each call is single-threaded, whatever the number of threads is while it is compiled.
    return {"freezing": True, "cpp.threads": 1}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch and its compilers log about themselves on the way, and print graphs that they give up.

    What matters is raised, or checked on numbers.
    """
    import logging
    import warnings

    disabled = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    finally:
        logging.disable(disabled)
