"""Several processes that train one network, as `torchrun` starts them; one process where nothing says otherwise."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from tle.errors import UsageError


@dataclass(frozen=True, slots=True)
class Processes:
    """Which process this is.

    Attributes:
        rank: from 0; the first writes and speaks.
        world: how many there are.
        local_rank: from 0, among those of this machine: which GPU is this process's.
        device: cpu or cuda: where tensors have to be to be exchanged.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and prints."""
        return self.rank == 0

    def total(self, value: Any) -> Any:
        """Sum of a tensor over all processes, in place; the tensor itself."""
        if self.world > 1:
            distributed.all_reduce(value)
        return value

    def totals(self, *values: float) -> list[float]:
        """Sum of each of some numbers over all processes."""
        if self.world == 1:
            return [float(value) for value in values]
        found: list[float] = self.total(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()
        return found

    def gather(self, value: Any) -> list[Any]:
        """What each process has, by rank.

        Args:
            value: JSON-able.
        """
        if self.world == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        lengths = torch.zeros(self.world, dtype=torch.int64, device=self.device)
        lengths[self.rank] = len(text)
        padded = torch.zeros(int(self.total(lengths).max()), dtype=torch.uint8, device=self.device)
        padded[: len(text)] = text
        found = [torch.empty_like(padded) for _ in range(self.world)]
        distributed.all_gather(found, padded)
        each = zip(found, lengths.tolist(), strict=True)
        return [json.loads(bytes(theirs[:length].tolist())) for theirs, length in each]

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, and leave them after the block.

    Args:
        device: "cuda" talks by NCCL, "cpu" by Gloo.

    Yields:
        Which process this is.

    Raises:
        UsageError: the environment says that there are several, and not which this is.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(device=device)
        return
    if "RANK" not in os.environ:
        raise UsageError(
            f"WORLD_SIZE says {world} processes and RANK is not set: start them with torchrun, or unset it"
        )
    found = Processes(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")), device)
    if device == "cuda":
        torch.cuda.set_device(found.local_rank)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield found
    finally:
        distributed.destroy_process_group()
