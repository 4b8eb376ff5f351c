"""A way to run a backbone, by name: which runtime, in which precision, on which device, how many pictures a call."""

import functools
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tle.errors import RuntimeChoiceError

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone

RUNTIMES = ("torch", "inductor", "onnxruntime", "openvino", "tensorrt")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16", "int8")
DEVICES = ("cpu", "cuda")
# What each runtime can be asked for, a device at a time.
OFFERED: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {
        "torch": ("float32", "bfloat16"),
        "inductor": ("float32", "bfloat16"),
        "onnxruntime": ("float32", "int8"),
        "openvino": ("float32", "bfloat16", "int8"),
    },
    "cuda": {
        "torch": ("float32", "tf32", "bfloat16", "float16"),
        "inductor": ("float32", "tf32", "bfloat16", "float16"),
        "onnxruntime": ("float32", "tf32"),
        "tensorrt": ("float32", "tf32", "bfloat16", "float16"),
    },
}
# Processor flags with which Linux says that a precision is computed in silicon and not emulated.
_CPU_FLAGS = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"},
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to run a backbone.

    Attributes:
        runtime: one of `RUNTIMES`.
        precision: one of `PRECISIONS`, of weights and activations; features are float32 in any case.
        device: "cpu" or "cuda".
        batch_size: pictures a call.
        replicas: calls that run at once, each on one core; 1 on a GPU.
    """

    runtime: str
    precision: str
    device: str = "cpu"
    batch_size: int = 8
    replicas: int = 1

    @property
    def label(self) -> str:
        """For people: `openvino bfloat16`."""
        return f"{self.runtime} {self.precision}"


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of this processor as Linux lists them; empty where it does not say."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return frozenset()
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return frozenset(next((line for line in lines if line.lower().startswith(("flags", "features"))), "").split())


def accelerated(precision: str, device: str) -> bool:
    """Whether `device` computes `precision` in silicon; what it only emulates is slower than float32."""
    if precision == "float32":
        return True
    if device == "cpu":
        return bool(_CPU_FLAGS.get(precision, set()) & cpu_flags())
    import torch

    major, minor = torch.cuda.get_device_capability()
    least = {"tf32": (8, 0), "bfloat16": (8, 0), "float16": (7, 0), "int8": (7, 5)}
    return (major, minor) >= least[precision]


def resolve_device(device: str) -> str:
    """The device that `auto` stands for, or the one that was asked for.

    Raises:
        RuntimeChoiceError: cuda was asked for and there is none.
    """
    if device == "cpu":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise RuntimeChoiceError(
            "--device cuda needs a CUDA GPU and a torch built for it; tle doctor shows what is here"
        )
    return "cpu"


def missing_package(runtime: str) -> str | None:
    """What to install for `runtime`, or None where it is there."""
    if runtime == "openvino" and find_spec("openvino") is None:
        return "openvino is not installed: pip install openvino"
    return None


def check_offered(runtime: str, precision: str, device: str, backbone: "Backbone") -> None:
    """Refuse a runtime and precision that do not go together, on this device or with this backbone.

    Args:
        runtime: one of `RUNTIMES`, or "auto".
        precision: one of `PRECISIONS`, or "auto".
        device: "cpu" or "cuda".
        backbone: what is to be run.

    Raises:
        RuntimeChoiceError: they do not; the message says what does.
    """
    offered = OFFERED[device]
    if runtime != "auto" and runtime not in RUNTIMES:
        raise RuntimeChoiceError(f"--runtime takes auto, {', '.join(RUNTIMES)}, got {runtime!r}")
    if precision != "auto" and precision not in PRECISIONS:
        raise RuntimeChoiceError(f"--precision takes auto, {', '.join(PRECISIONS)}, got {precision!r}")
    if runtime != "auto" and runtime not in offered:
        raise RuntimeChoiceError(f"--runtime {runtime} does not run on the {device}; there are {', '.join(offered)}")
    if runtime != "auto" and (missing := missing_package(runtime)):
        raise RuntimeChoiceError(f"--runtime {runtime}: {missing}")
    if runtime in ("torch", "inductor") and backbone.module is None:
        raise RuntimeChoiceError(f"{backbone.name} is an ONNX graph: run it with --runtime onnxruntime or openvino")
    if precision != "auto" and runtime != "auto" and precision not in offered[runtime]:
        raise RuntimeChoiceError(
            f"--runtime {runtime} on the {device} takes --precision {', '.join(offered[runtime])}, got {precision!r}"
        )
    if precision != "auto" and all(precision not in precisions for precisions in offered.values()):
        raise RuntimeChoiceError(f"--precision {precision} is not offered on the {device}")
