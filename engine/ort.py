"""Open ONNX Runtime sessions the same way everywhere: explicit providers, bounded threads, quiet optimiser."""

from pathlib import Path
from typing import Any

from tle.cores import usable_cores
from tle.errors import RuntimeChoiceError, one_line

PROVIDERS = ("CPUExecutionProvider",)
_ERRORS_ONLY = 3


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on an ONNX file.

    Args:
        path: the file.
        threads: intra-op threads; None takes all cores this process may use.

    Raises:
        RuntimeChoiceError: ONNX Runtime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(PROVIDERS))
    except Exception as error:
        raise RuntimeChoiceError(f"ONNX Runtime cannot run this graph: {one_line(error)}") from error
