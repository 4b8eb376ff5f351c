"""ONNX Runtime on the CPU: runs an exported torch backbone, or a third-party ONNX graph."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tle.errors import RuntimeChoiceError, one_line
from tle.ort import open_session
from tle.runtimes.onnx_export import export_onnx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tle.backbones.backbone import Backbone


class OnnxSession:
    """Runs a backbone in ONNX Runtime; see `Runtime`. Safe to call from several threads."""

    def __init__(self, backbone: "Backbone") -> None:
        """Export or compose the graph and open a session on it.

        Args:
            backbone: any backbone.

        Raises:
            RuntimeChoiceError: the network cannot be exported, or the session refuses the graph.
        """
        with tempfile.TemporaryDirectory(prefix="tle-onnx-") as folder:
            path = Path(folder) / "backbone.onnx"
            if backbone.onnx is not None:
                from tle.backbones.onnx_compose import write_pixel_graph

                write_pixel_graph(backbone.onnx, backbone.preprocess, backbone.pool, path)
            else:
                export_onnx(backbone, path)
            self._session = open_session(path)
        self._batch = backbone.onnx.batch if backbone.onnx is not None else None
        self._input: str = self._session.get_inputs()[0].name
        import onnxruntime

        providers = ", ".join(self._session.get_providers())
        self.description = f"onnxruntime {onnxruntime.__version__}, float32, {providers}"

    def __call__(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Features of a batch: uint8 (B, H, W, 3) -> float32 (B, D)."""
        if self._batch is None:
            return self._run(pixels)
        parts = []
        for start in range(0, len(pixels), self._batch):
            part = pixels[start : start + self._batch]
            full = np.zeros((self._batch, *pixels.shape[1:]), np.uint8)  # a fixed batch takes no less: pad, then slice
            full[: len(part)] = part
            parts.append(self._run(full)[: len(part)])
        return np.concatenate(parts)

    def _run(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        try:
            features: NDArray[np.float32] = self._session.run(None, {self._input: np.ascontiguousarray(pixels)})[0]
        except Exception as error:
            raise RuntimeChoiceError(f"ONNX Runtime failed on a batch of {len(pixels)}: {one_line(error)}") from error
        return features
