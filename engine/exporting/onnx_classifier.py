"""A whole classifier as one ONNX graph: uint8 pixels in, probabilities out."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tle.errors import RuntimeChoiceError, one_line
from tle.exporting.agreement import Scorer
from tle.exporting.onnx_head import append_head
from tle.files import publish
from tle.ort import open_session
from tle.runtimes.fixed_batch import run_fixed
from tle.runtimes.onnx_graph import quantize_onnx, write_onnx
from tle.runtimes.plan import Plan

if TYPE_CHECKING:
    import onnx

    from tle.classifier import Classifier

# Protocol buffers end at 2 GiB; the rest is for the graph around the weights.
_MAX_WEIGHT_BYTES = 2**31 - 2**24


class OnnxClassifier:
    """The graph of a classifier, ready to be compared and written.

    Attributes:
        batch: the batch that it takes, or None where it takes any.
    """

    def __init__(self, classifier: "Classifier", folder: Path) -> None:
        """Export the backbone and put the head behind it.

        Args:
            classifier: its head is linear.
            folder: an existing folder for files in between.

        Raises:
            HeadError: the head is not linear.
            RuntimeChoiceError: the network cannot be exported, or its weights are beyond what one ONNX file holds.
        """
        self._classifier, self._folder = classifier, folder
        graph = classifier.backbone.onnx
        self.batch = graph.batch if graph is not None else None
        self._backbone = write_onnx(classifier.backbone, Plan(runtime="onnxruntime", precision="float32"), folder)
        self.model = self._join(self._backbone)

    def quantize(self, calibration: NDArray[np.uint8]) -> None:
        """Turn the backbone to int8; the head, a thousandth of the work, stays float32.

        Args:
            calibration: uint8 (n, H, W, 3) that the ranges are taken from.

        Raises:
            RuntimeChoiceError: the graph cannot be quantised.
        """
        self.model = self._join(quantize_onnx(self._classifier.backbone, self._backbone, calibration))

    def scorer(self) -> Scorer:
        """Scores by ONNX Runtime on one core of the CPU; may be called from several threads.

        Raises:
            RuntimeChoiceError: ONNX Runtime refuses the graph.
        """
        import onnx

        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".onnx") as file:
            onnx.save(self.model, file.name)
            session = open_session(Path(file.name), threads=1)
        name, output = session.get_inputs()[0].name, session.get_outputs()[0].name

        def score(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            try:
                scores: NDArray[np.float32] = session.run([output], {name: np.ascontiguousarray(pixels)})[0]
            except Exception as error:
                raise RuntimeChoiceError(
                    f"ONNX Runtime failed on a batch of {len(pixels)}: {one_line(error)}"
                ) from error
            return scores

        batch = self.batch
        return score if batch is None else lambda pixels: run_fixed(score, pixels, batch)

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the file, atomically.

        Args:
            path: where to.
            metadata: what goes into the file's `metadata_props`.

        Raises:
            OutputError: the file system refused.
        """
        from onnx import helper

        del self.model.metadata_props[:]
        helper.set_model_props(self.model, dict(metadata))
        with publish(path) as file:
            file.write(self.model.SerializeToString(deterministic=True))

    def _join(self, path: Path) -> "onnx.ModelProto":
        import onnx

        model = append_head(onnx.load(path), self._classifier.head)
        weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        if weights > _MAX_WEIGHT_BYTES:
            raise RuntimeChoiceError(
                f"{self._classifier.backbone.name} has {weights:,} bytes of weights, more than the 2 GiB of one ONNX file: "
                "export to .pt2"
            )
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise RuntimeChoiceError(
                f"{self._classifier.backbone.name} gives no valid ONNX graph ({one_line(error)}): export to .pt2"
            ) from error
        return model


@contextlib.contextmanager
def open_onnx(classifier: "Classifier") -> Iterator[OnnxClassifier]:
    """An `OnnxClassifier` whose files in between are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tle-export-") as folder:
        yield OnnxClassifier(classifier, Path(folder))
