"""The checkpoint of a run: written in the first process alone, read in all."""

import hashlib
from pathlib import Path

import numpy as np

from tle.errors import HeadError, UsageError
from tle.finetuning.checkpoints import Clock, read_checkpoint, write_checkpoint
from tle.finetuning.start import Start
from tle.finetuning.state import run_identity
from tle.finetuning.training import Trainer
from tle.heads.affine import Affine


class Saver:
    """Keeps the checkpoint of one training."""

    def __init__(self, trainer: Trainer, path: Path, start: Start) -> None:
        """Know what the run is.

        Args:
            trainer: whose state is kept.
            path: the file.
            start: what the training started from.
        """
        self.path = path
        self._trainer, self._processes = trainer, trainer.setting.processes
        self._identity = run_identity(
            trainer.setting,
            backbone=start.backbone.spec(),
            head_digest=_layer_digest(start.layer),
            unit_rows=start.layer is not None and start.layer.unit_rows,
        )
        self._clock = Clock(trainer.setting.options.checkpoint_minutes)

    def save(self) -> None:
        """Write it now."""
        if self._processes.first:
            snapshot = {**self._trainer.snapshot(), "complete": self._trainer.is_over()}
            write_checkpoint(self.path, self._identity, snapshot)

    def save_if_due(self) -> None:
        """Write it if the time has come."""
        if self._clock.is_due():
            self.save()

    def leave(self) -> str:
        """Write it, and say how to go on."""
        self.save()
        self._processes.barrier()  # who starts the processes may kill the rest once one has left
        return f"the same command goes on at step {self._trainer.state.step:,} ({self.path} has it)"

    def restore(self, *, overwrite: bool) -> bool:
        """Be where the checkpoint was written.

        Args:
            overwrite: start anew where it is damaged, of another run, or complete; otherwise the first two are errors,
                and a complete one is taken as it is.

        Returns:
            Whether there is one.

        Raises:
            HeadError: damaged, or not all processes see it.
            UsageError: of another run.
        """
        trainer, processes = self._trainer, self._processes
        if self.path.is_file():
            try:
                snapshot = read_checkpoint(self.path, self._identity)
            except (HeadError, UsageError):
                if not overwrite:
                    raise
            else:
                if not (overwrite and snapshot["complete"]):
                    trainer.restore(snapshot)
        step = trainer.state.step
        if int(processes.totals(step)[0]) != step * processes.world:
            raise HeadError(f"not all processes see {self.path}: put the output where all machines can read it")
        return step > 0


def _layer_digest(layer: Affine | None) -> str:
    """Identity of the layer that training starts from, 32 hex digits; of a new one, the word."""
    if layer is None:
        return "new"
    sha = hashlib.sha256(np.ascontiguousarray(layer.weight_KD).tobytes())
    sha.update(np.ascontiguousarray(layer.bias_K).tobytes())
    return sha.hexdigest()[:32]
