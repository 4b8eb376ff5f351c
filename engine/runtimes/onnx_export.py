"""Write a torch backbone as one ONNX graph from uint8 pixels to features."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from tle.errors import RuntimeChoiceError, one_line
from tle.runtimes.pixel_graph import pixel_graph

if TYPE_CHECKING:
    from torch import nn

    from tle.backbones.backbone import Backbone

INPUT, OUTPUT = "pixels", "features"


def export_onnx(backbone: "Backbone", path: Path) -> None:
    """Export `backbone` with a dynamic batch.

    Args:
        backbone: a backbone with a torch module.
        path: the file to write; weights beyond the 2 GiB limit of the format go to a side file.

    Raises:
        RuntimeChoiceError: the network cannot be exported; the message carries the exporter's reason.
    """
    import torch

    graph = pixel_graph(backbone)
    height, width = backbone.preprocess.crop
    # Two pictures: a batch of one would let the exporter fix the batch at one.
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    disabled = logging.root.manager.disable
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            # The exporter warns about its own internals, and prints graphs that it gives up; what matters is raised, or
            # checked afterwards, on numbers.
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            torch.onnx.export(
                graph,
                (example,),
                str(path),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=_parameter_bytes(graph) > 2**30,
                verbose=False,
            )
    except Exception as error:
        raise RuntimeChoiceError(
            f"{backbone.name} cannot be exported to ONNX ({one_line(error)}); run it with --runtime torch"
        ) from error
    finally:
        logging.disable(disabled)


def _parameter_bytes(module: "nn.Module") -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
