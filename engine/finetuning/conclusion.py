"""The end of a fine-tuning: what was trained against the head that it started from, and the classifier that is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.bundle import write_bundle
from tle.finetuning.assembly import finished_bundle, training_record
from tle.finetuning.start import Start
from tle.finetuning.training import Trainer
from tle.finetuning.verdict import describe_verdict, judge
from tle.sources.source import plural


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneResult:
    """What a fine-tuning did.

    Attributes:
        path: the classifier; None in all but the first of several processes.
        checkpoint: the last state of the training, with the best weights in it.
        kept: "finetuned", or "head": the classifier is the frozen one that training started from.
        n_train: pictures trained on.
        n_val: pictures that decided.
        failures: pictures that could not be read, by id, with their reasons.
        training: options, groups, history, start, verdict and throughput, JSON-able.
        lr: (S, G) float64, the rate of every group at every step.
        notes: one-line facts that the user has to be told.
    """

    path: Path | None
    checkpoint: Path
    kept: str
    n_train: int
    n_val: int
    failures: dict[str, str]
    training: dict[str, Any]
    lr: NDArray[np.float64]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All but the rates of every step, JSON-able."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "lr"}
        return values | {
            "path": None if self.path is None else str(self.path),
            "checkpoint": str(self.checkpoint),
            "notes": list(self.notes),
        }


def conclude(
    trainer: Trainer,
    start: Start,
    path: Path,
    checkpoint: Path,
    *,
    notes: tuple[str, ...],
    say: Callable[[str], None],
) -> FinetuneResult:
    """Compare with the frozen head, and write what is kept.

    Args:
        trainer: at the end of its training; its weights are spoiled.
        start: what training started from.
        path: the classifier to write.
        checkpoint: where the last state of the training lies.
        notes: what the user was told so far.
        say: told of the verdict.

    Raises:
        OutputError: the classifier cannot be written.
    """
    state, setting, options = trainer.state, trainer.setting, trainer.setting.options
    pictures = setting.pictures
    last = options.keep == "last"
    weights = trainer.stepper.weights() if last else state.best_weights
    scored = (trainer.last or trainer.validate()) if last else state.best
    verdict = None
    if start.head is not None and state.first is not None and scored is not None:
        verdict = judge(
            state.first, scored, target=pictures.target, metric=setting.metric, keep=options.keep, seed=options.seed
        )
        say(describe_verdict(verdict))
    limit = trainer.stepper.limit_images_per_s()
    training = training_record(
        setting, state, init=None if start.path is None else start.path.name, verdict=verdict, limit_images_per_s=limit
    )
    keep_head = verdict is not None and verdict["kept"] == "head"
    if setting.processes.first:
        bundle = finished_bundle(
            trainer.stepper.network,
            start,
            setting,
            state,
            training,
            weights=weights,
            scored=state.first if keep_head else scored,
            keep_head=keep_head,
        )
        write_bundle(path, bundle)
    setting.processes.barrier()
    failures = {pictures.source.ids[row]: reason for row, reason in sorted(state.failures.items())}
    if failures:
        first, reason = next(iter(failures.items()))
        notes += (
            f"{plural(len(failures), 'picture')} could not be read and took no part, the first: {first}: {reason}",
        )
        say(notes[-1])
    return FinetuneResult(
        path=path if setting.processes.first else None,
        checkpoint=checkpoint,
        kept="head" if keep_head else "finetuned",
        n_train=len(pictures.train),
        n_val=len(pictures.val),
        failures=failures,
        training=training,
        lr=np.array(state.lr, np.float64).reshape(len(state.lr), len(setting.groups)),
        notes=notes,
    )
