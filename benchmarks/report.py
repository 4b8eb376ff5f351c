"""What a measurement leaves behind: the machine, the versions, medians and ratios, a JSON file and a Markdown file.

# R rounds, N images, D feature dim
"""

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.cores import usable_cores

PACKAGES = (
    "tle",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "lightly-train",
    "img2vec-pytorch",
)
# What decides which kernels a runtime picks.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def machine() -> dict[str, Any]:
    """Processor, usable cores, instruction sets of interest, memory, load before the measurement."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    fields = dict(re.findall(r"^(.+?)\s*:\s*(.*)$", text, re.MULTILINE))
    present = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cpu_family_model_stepping": [fields.get(key, "") for key in ("cpu family", "model", "stepping")],
        "cores": usable_cores(),
        "flags": [flag for flag in FLAGS if flag in present],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Python and the packages that matter, where installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def slug(hardware: Mapping[str, Any]) -> str:
    """Hardware as part of a file name, such as `amd-epyc-2-cores`."""
    name = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*", " ", str(hardware["cpu"]).lower())
    words = re.findall(r"[a-z0-9.]+", name)
    return "-".join([*words, str(hardware["cores"]), "cores"])


def ratios(figures_R: Mapping[str, Sequence[float]], reference: str) -> dict[str, float]:
    """For every contestant the median over rounds of its figure to that of `reference` in the same round."""
    return {
        name: statistics.median(own / other for own, other in zip(own_R, figures_R[reference], strict=True))
        for name, own_R in figures_R.items()
    }


def spread(figures: Sequence[float], digits: int = 1) -> str:
    """`median [min, max]`."""
    return f"{statistics.median(figures):.{digits}f} [{min(figures):.{digits}f}, {max(figures):.{digits}f}]"


def cosines(x_ND: NDArray[np.float64], y_ND: NDArray[np.float64]) -> dict[str, float]:
    """How alike the features of the same pictures are.

    Args:
        x_ND: (N, D).
        y_ND: (N, D), same rows.

    Returns:
        `min` and `mean` of the N cosines, and `centred_min` and `centred_mean` with the mean feature of each set taken
        away, which no common offset can flatter.
    """
    raw_N = _row_cosines(x_ND, y_ND)
    centred_N = _row_cosines(x_ND - x_ND.mean(0), y_ND - y_ND.mean(0))
    return {
        "min": float(raw_N.min()),
        "mean": float(raw_N.mean()),
        "centred_min": float(centred_N.min()),
        "centred_mean": float(centred_N.mean()),
    }


def _row_cosines(x_ND: NDArray[np.float64], y_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths_N = np.linalg.norm(x_ND, axis=1) * np.linalg.norm(y_ND, axis=1)
    return np.asarray((x_ND * y_ND).sum(1) / np.maximum(lengths_N, np.finfo(np.float64).tiny))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned, so that it reads well on a terminal too."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def default_path(topic: str, hardware: Mapping[str, Any], folder: Path) -> Path:
    """`folder/DATE_HARDWARE_TOPIC.json`; with a number where that exists, so that nothing measured is lost."""
    stem = f"{time.strftime('%Y-%m-%d')}_{slug(hardware)}_{topic}"
    number = 1
    while (path := folder / f"{stem}{'' if number == 1 else f'-{number}'}.json").exists():
        number += 1
    return path


def save(path: Path, record: Mapping[str, Any], text: str) -> None:
    """Write the record as JSON, and the tables for people as Markdown beside it."""
    hardware, packages = record["machine"], record["versions"]
    head = [
        f"# {path.stem}",
        f"`{record['command']}`",
        f"{hardware['cpu']}, {hardware['cores']} cores ({', '.join(hardware['flags'])}), {hardware['memory_gib']} GiB, "
        f"load before {hardware['load_1min']}.",
        ", ".join(f"{name} {number}" for name, number in packages.items()) + ".",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text("\n\n".join([*head, text]) + "\n", encoding="utf-8")
