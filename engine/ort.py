"""Open ONNX Runtime sessions the same way everywhere: explicit providers, bounded threads, quiet optimiser."""

from pathlib import Path
from typing import Any

from tle.cores import usable_cores
from tle.errors import RuntimeChoiceError, one_line

PROVIDERS = ("CPUExecutionProvider",)
# Its errors reach us as exceptions and are told in one line; logged as well, they would be told twice.
_FATAL_ONLY = 4


def open_session(path: Path) -> Any:
    """An `onnxruntime.InferenceSession` on an ONNX file.

    Args:
        path: the file.

    Raises:
        RuntimeChoiceError: ONNX Runtime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = _FATAL_ONLY
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(PROVIDERS))
    except Exception as error:
        raise RuntimeChoiceError(f"ONNX Runtime cannot run this graph: {one_line(error)}") from error
