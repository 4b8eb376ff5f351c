"""The training loop: epochs, validation after each, and nothing random that the seed does not fix.

# B pictures of a batch, n validation pictures, K outputs, S steps, G groups
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from tle.finetuning.interruption import Interruption
from tle.finetuning.loader import Batch, PixelStore, class_balanced_weights, train_batches
from tle.finetuning.network import Network
from tle.finetuning.options import FinetuneOptions
from tle.finetuning.processes import Processes
from tle.finetuning.scoring import Scored, score_network
from tle.finetuning.state import Setting, State
from tle.finetuning.stepper import Stepper
from tle.progress import Progress

_KEPT_BYTES = 1 << 30  # of decoded validation pictures, so that they are decoded once


class Trainer:
    """A network in training.

    Attributes:
        setting: what it works with.
        state: where it stands.
        stepper: the network, and what moves its weights.
        last: scores of the last epoch; None where it did not end in this process, or there is nothing to validate on.
    """

    def __init__(self, network: Network, setting: Setting) -> None:
        """Move the network to its device, freeze what is frozen, make the optimizer."""
        options, pictures = setting.options, setting.pictures
        self.setting, self.state, self.stepper = setting, State(), Stepper(network, setting)
        self.last: Scored | None = None
        self._sampling = class_balanced_weights(pictures.labels[pictures.train]) if options.balanced_sampling else None
        self._store = PixelStore(
            pictures.source,
            pictures.val[setting.processes.rank :: setting.processes.world],
            decoding=setting.decoding,
            batch_size=options.batch_size,
            workers=setting.workers,
            max_bytes=_KEPT_BYTES,
        )

    def validate(self) -> Scored | None:
        """Scores on the validation pictures now; None where there are none."""
        setting, pictures = self.setting, self.setting.pictures
        if not len(pictures.val):
            return None
        failed: dict[int, str] = {}
        found = score_network(
            self.stepper.evaluated,
            _noting(self._store.batches(), failed),
            pictures.labels,
            rows=pictures.val,
            outputs=setting.outputs,
            target=pictures.target,
            metric=setting.metric,
            device=setting.device,
            processes=setting.processes,
        )
        self._record(failed)
        return found

    def train(
        self, *, save: Callable[[], None], interruption: Interruption, counter: Progress, say: Callable[[str], None]
    ) -> None:
        """Train to the end, or until patience is over, from wherever the state is.

        Args:
            save: called between steps, whenever a checkpoint may be written.
            interruption: asked between steps.
            counter: told of every step.
            say: told of every epoch.

        Raises:
            HeadError: the loss is not finite.
            KeyboardInterrupt: asked for by a signal; a checkpoint was written.
        """
        while not self.is_over():
            self._train_epoch(self.state.epoch, save=save, interruption=interruption, counter=counter)
            self._end_epoch(say)
            save()
        interruption.check()

    def is_over(self) -> bool:
        """Whether all epochs are done, or the patience is."""
        options, state = self.setting.options, self.state
        waited = state.epoch - state.best_epoch
        patience = options.patience if state.best is not None else 0
        return state.epoch >= options.epochs or bool(patience and waited >= patience)

    def _train_epoch(
        self, epoch: int, *, save: Callable[[], None], interruption: Interruption, counter: Progress
    ) -> None:
        setting, state, options = self.setting, self.state, self.setting.options
        self.stepper.prepare(epoch)
        pictures, processes = setting.pictures, setting.processes
        batches = train_batches(
            pictures.source,
            pictures.train,
            decoding=setting.decoding,
            augmentation=setting.augmentation,
            batch_size=options.batch_size,
            seed=options.seed,
            epoch=epoch,
            start=state.batch,
            rank=processes.rank,
            world=processes.world,
            workers=setting.workers,
            weights=self._sampling,
            drop_last=len(pictures.train) >= options.batch_size * options.accumulate * processes.world,
        )
        started, failed = time.monotonic(), dict[int, str]()
        left = setting.steps_per_epoch * options.accumulate - state.batch
        for chunk in _chunks(islice(_noting(batches, failed), left), options.accumulate):
            interruption.check()
            count, n_failed = processes.totals(sum(len(batch.rows) for batch in chunk), len(failed))
            taken = self.stepper.take(chunk, epoch=epoch, step=state.step, count=int(count))
            if n_failed:
                self._record(failed)
                failed.clear()
            now = time.monotonic()
            state.batch += len(chunk)
            state.step += 1
            state.lr.append(taken.rates)
            state.loss_sum += taken.loss_sum
            state.seen += int(count)
            state.seconds, started = state.seconds + now - started, now
            counter.advance(1)
            save()

    def _record(self, failed: dict[int, str]) -> None:
        """Write down pictures that could not be read, of all processes."""
        for theirs in self.setting.processes.gather(sorted(failed.items())):
            self.state.failures |= dict(theirs)

    def _end_epoch(self, say: Callable[[str], None]) -> None:
        """Validate, and keep what is best."""
        state, setting = self.state, self.setting
        state.epoch, state.batch = state.epoch + 1, 0
        rate = state.seen / max(state.seconds, 1e-9)
        row: dict[str, Any] = {
            "epoch": state.epoch,
            "step": state.step,
            "train_loss": state.loss_sum / max(state.seen, 1),
            "images_per_s": rate,
            "seconds": state.seconds,
        }
        state.train_s, state.train_images = state.train_s + state.seconds, state.train_images + state.seen
        state.loss_sum, state.seen, state.seconds = 0.0, 0, 0.0
        line = f"epoch {state.epoch} of {setting.options.epochs}: train loss {row['train_loss']:.4f}"
        self.last = found = self.validate()
        if found is not None:
            row |= {"val_loss": found.loss, f"val_{setting.metric}": found.metric}
            line += f", val loss {found.loss:.4f}"
            line += "" if found.metric is None else f", val {setting.metric} {found.metric:.4f}"
        if found is None or state.best is None or found.beats(state.best, setting.metric):
            state.best, state.best_epoch = found, state.epoch
            state.best_weights = self.stepper.weights()
        state.history.append(row)
        say(f"{line}, {rate:,.1f} images/s")

    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"state": self.state.to_checkpoint(), **self.stepper.state_dict()}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Be where a snapshot was taken."""
        self.state, self.last = State.from_checkpoint(snapshot["state"], self.setting.pictures), None
        self.stepper.load_state_dict(snapshot)


def steps_an_epoch(n: int, options: FinetuneOptions, processes: Processes) -> int:
    """Optimizer steps in a pass over `n` pictures.

    What is left after the last full step is left out, and other pictures in the next epoch; where not even one step is full,
    it takes all pictures. So it makes no difference whether a step's pictures are one batch, several, or several processes'.
    """
    return max(1, n // (options.batch_size * options.accumulate * processes.world))


def _chunks(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while chunk := list(islice(batches, size)):
        yield chunk


def _noting(batches: Iterator[Batch], failed: dict[int, str]) -> Iterator[Batch]:
    """The same batches; what could not be read is added to `failed`, by row, with its reason."""
    for batch in batches:
        failed |= batch.failures
        yield batch
