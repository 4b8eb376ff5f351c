"""A whole classifier as one torch program (`torch.export`): uint8 pixels in, probabilities out.

# B batch, H W height and width, D feature dim, K outputs
"""

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tle.errors import RuntimeChoiceError, one_line
from tle.exporting.agreement import Scorer
from tle.exporting.onnx_head import affine_of
from tle.files import publish
from tle.heads.affine import Affine, Link
from tle.runtimes.pixel_graph import pixel_graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from tle.classifier import Classifier

# The entry of the file that holds what an ONNX file has as its metadata.
METADATA = "tle.json"


class TorchClassifier:
    """The exported program of a classifier, ready to be compared and written."""

    def __init__(self, classifier: "Classifier") -> None:
        """Export it, with a free batch.

        Raises:
            HeadError: the head is not linear.
            RuntimeChoiceError: the backbone is an ONNX file, or its network cannot be exported.
        """
        import torch

        backbone, affine = classifier.backbone, affine_of(classifier.head)
        if backbone.module is None:
            raise RuntimeChoiceError(f"{backbone.name} is an ONNX file, which torch cannot export: export to .onnx")
        # A copy in plain layout: a runtime that shares the module may have laid its weights out otherwise.
        body = copy.deepcopy(pixel_graph(backbone)).to(memory_format=torch.contiguous_format)
        graph = _classifier_graph(body, affine)
        height, width = backbone.preprocess.crop
        # Two pictures: a batch of one would let the exporter fix the batch at one.
        example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
        try:
            with torch.no_grad():
                self._program = torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:
            raise RuntimeChoiceError(f"{backbone.name} cannot be exported by torch ({one_line(error)})") from error

    def scorer(self) -> Scorer:
        """Scores by the program as it comes back from a file, in eager torch."""
        import torch

        with tempfile.TemporaryDirectory(prefix="tle-export-") as folder:
            path = Path(folder) / "classifier.pt2"
            torch.export.save(self._program, path)
            module = torch.export.load(path).module()

        def score(pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
            with torch.no_grad():
                scores: NDArray[np.float32] = module(torch.from_numpy(pixels)).numpy()
            return scores

        return score

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the file, atomically.

        Args:
            path: where to.
            metadata: names to JSON texts; the file's entry `tle.json` holds them.

        Raises:
            OutputError: the file system refused.
        """
        import torch

        with publish(path) as file:
            torch.export.save(self._program, file, extra_files={METADATA: json.dumps(dict(metadata))})


def _classifier_graph(body: "nn.Module", affine: Affine) -> "nn.Module":
    """Head behind the backbone: uint8 (B, H, W, 3) -> float32 (B, K)."""
    import torch
    from torch import nn

    link = affine.link

    class ClassifierGraph(nn.Module):
        """uint8 (B, H, W, 3) -> float32 (B, K)."""

        weight: torch.Tensor
        bias: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.register_buffer("weight", torch.from_numpy(affine.weight_KD.copy()))
            self.register_buffer("bias", torch.from_numpy(affine.bias_K.copy()))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x_BD = self.body(pixels)
            if affine.unit_rows:
                # By the largest value first, whose square may be beyond float32; a row of zeros stays one.
                x_BD = x_BD / (x_BD.abs().amax(1, keepdim=True) + 1e-38)
                x_BD = x_BD / (torch.linalg.vector_norm(x_BD, dim=1, keepdim=True) + 1e-38)
            logits_BK = nn.functional.linear(x_BD, self.weight, self.bias)
            if link is Link.SOFTMAX:
                return logits_BK.softmax(1)
            return logits_BK.sigmoid() if link is Link.SIGMOID else logits_BK

    return ClassifierGraph().eval()
