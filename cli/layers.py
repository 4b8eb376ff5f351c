"""`tle layers`."""

import tle
from tle.cli.output import Json, print_json, print_table


def layers(backbone: str, /, *, crop: int | None = None, json: Json = False) -> None:
    """List the layers of a backbone where features can be taken, with the shape of each for one picture.

    Args:
        backbone: torchvision/NAME, timm/NAME, onnx:FILE or package.module:function; its weights are not needed.
        crop: Side of the input in pixels; by default what the weights ask for. Not for ONNX files, which say it.
    """
    found = tle.list_layers(backbone, crop=crop)
    if json:
        print_json([{"name": layer.name, "shape": layer.shape} for layer in found])
    else:
        print_table([(layer.name, " x ".join(map(str, layer.shape))) for layer in found], header=("layer", "shape"))
