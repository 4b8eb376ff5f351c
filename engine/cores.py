"""How many cores this process may really use."""

import math
import os
from pathlib import Path

# Files of a container's limit on processor time, as they look from inside of it: (quota and period in one), or one each.
_LIMITS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def usable_cores() -> int:
    """Cores that this process gets, at least 1: its affinity, and what a container's processor time amounts to.

    More threads than that wait for each other: products by BLAS with 4 threads on 2 cores took 30 times as long.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, _granted_cores(affinity)))


def _granted_cores(most: int) -> int:
    """Processor time that the control group is granted, in cores, rounded up; `most` where there is no limit."""
    for files in _LIMITS:
        words = " ".join(_text(Path(file)) for file in files).split()
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]) > 0:
            return math.ceil(int(words[0]) / int(words[1]))
    return most


def _text(path: Path) -> str:
    """Of a file; nothing where there is none to read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
