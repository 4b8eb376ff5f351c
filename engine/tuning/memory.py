"""What was measured before on this machine, so that it is not measured again.

A JSON file in `$TLE_CACHE`, or `tle` under `$XDG_CACHE_HOME` or `~/.cache`. A rate is found again only for the same
processor, number of replicas, network, input size and versions. The file is a convenience: one that cannot be read or
written costs a measurement and is reported as a note.
"""

import hashlib
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tle.errors import OutputError, one_line
from tle.files import publish
from tle.runtimes.plan import Plan, cpu_flags
from tle.tuning.trial import Trial

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone

_PACKAGES = ("tle", "torch", "onnxruntime-gpu", "onnxruntime", "openvino")
_FORMAT = 1
# Entries kept, the newest: some kilobytes each.
_MOST = 500


def cache_folder() -> Path:
    """Where tle keeps what it can make again: `$TLE_CACHE`, or `tle` in the user's cache folder."""
    if named := os.environ.get("TLE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tle"


class ChoiceMemory:
    """Trials of one backbone on this machine."""

    def __init__(self, backbone: "Backbone", *, device: str, replicas: int) -> None:
        """Read what is known.

        Args:
            backbone: the network; its weights' digest stands for its architecture.
            device: "cpu" or "cuda".
            replicas: calls that run at once.
        """
        self._path = cache_folder() / "choices.json"
        self._key = _key(backbone, device, replicas)
        self.notes: tuple[str, ...] = ()
        self._known = self._read().get(self._key, {}).get("trials", {})

    def find(self, plan: Plan) -> Trial | None:
        """The remembered trial of a plan's runtime and precision, at the batch size that was best; None if unknown."""
        found = self._known.get(plan.label)
        if found is None:
            return None
        batch_size = found["batch_size"]
        known = Plan(
            runtime=plan.runtime,
            precision=plan.precision,
            device=plan.device,
            batch_size=batch_size,
            replicas=plan.replicas,
        )
        return Trial(plan=known, setup_s=found["setup_s"], images_per_s=found["images_per_s"])

    def save(self, trials: list[Trial]) -> None:
        """Put what was measured now in the place of what was known.

        Args:
            trials: of each runtime and precision the fastest batch size stays. What did not run is not remembered: a
                compiler may be installed tomorrow. Whether features are near enough depends on the pictures, and is
                looked at in every run.
        """
        fastest: dict[str, Trial] = {}
        for trial in trials:
            best = fastest.get(trial.plan.label)
            if trial.images_per_s and (best is None or trial.images_per_s > best.images_per_s):
                fastest[trial.plan.label] = trial
        if not fastest:
            return
        known = dict(self._known)
        for label, trial in fastest.items():
            known[label] = {
                "batch_size": trial.plan.batch_size,
                "setup_s": round(trial.setup_s, 3),
                "images_per_s": round(trial.images_per_s, 2),
            }
        entries = self._read()
        entries.pop(self._key, None)
        entries[self._key] = {"trials": known}
        content = {"format": _FORMAT, "choices": dict(list(entries.items())[-_MOST:])}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with publish(self._path) as file:
                file.write(json.dumps(content, indent=1).encode())
        except (OSError, OutputError) as error:
            self.notes += (f"what was measured cannot be remembered in {self._path}: {one_line(error)}",)
        self._known = known

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                return {}
            choices: dict[str, Any] = content["choices"]
            for entry in choices.values():
                for trial in entry["trials"].values():
                    float(trial["setup_s"]), 1 / float(trial["images_per_s"]), 1 / int(trial["batch_size"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            self.notes = (f"{self._path} cannot be read ({one_line(error)}): measured anew",)
            return {}
        return choices


def _key(backbone: "Backbone", device: str, replicas: int) -> str:
    """Everything that a rate depends on, as one digest."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    where = {"machine": platform.machine(), "flags": sorted(cpu_flags()), "device": _device_name(device)}
    what = {
        "weights": backbone.weights_digest,
        "layer": backbone.layer,
        "pool": backbone.pool,
        "crop": backbone.preprocess.crop,
    }
    text = json.dumps({"where": where, "what": what, "versions": versions, "replicas": replicas}, sort_keys=True)
    return f"{backbone.name} {hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _device_name(device: str) -> str:
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
