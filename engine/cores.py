"""How many cores this process may really use."""

import os


def usable_cores() -> int:
    """Cores that the scheduler grants this process: its affinity, which containers and `taskset` set, where known."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
