"""Open ONNX Runtime sessions the same way everywhere: explicit providers, bounded threads, quiet optimiser."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tle.cores import usable_cores
from tle.errors import RuntimeChoiceError, one_line

CPU: tuple[str, ...] = ("CPUExecutionProvider",)
# Its errors reach us as exceptions and are told in one line; logged as well, they would be told twice.
_FATAL_ONLY = 4

Provider = str | tuple[str, dict[str, Any]]


def open_session(path: Path, *, threads: int | None = None, providers: Sequence[Provider] = CPU) -> Any:
    """An `onnxruntime.InferenceSession` on an ONNX file.

    Args:
        path: the file.
        threads: intra-op threads of a call; None takes one a core.
        providers: execution providers in order of preference, with their options where they have any.

    Raises:
        RuntimeChoiceError: ONNX Runtime refuses the graph, or the first provider cannot be had: a session that quietly
            runs elsewhere is none.
    """
    import onnxruntime

    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if wanted not in (available := onnxruntime.get_available_providers()):
        raise RuntimeChoiceError(f"ONNX Runtime here has no {wanted}, only {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = _FATAL_ONLY
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:
        raise RuntimeChoiceError(f"ONNX Runtime cannot run this graph: {one_line(error)}") from error
    if wanted not in session.get_providers():
        raise RuntimeChoiceError(f"ONNX Runtime could not start {wanted}; tle doctor shows what is here")
    return session
