"""Fine-tune: from a fitted head on, the backbone slowly; into one file that holds the finished classifier."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from tle.backbones.load import PreprocessOverrides
from tle.enums import Target
from tle.errors import UsageError
from tle.files import check_output
from tle.finetuning.assembly import groups_of, make_setting, setting_notes
from tle.finetuning.checkpoints import checkpoint_path
from tle.finetuning.claim import claimed
from tle.finetuning.conclusion import FinetuneResult, conclude
from tle.finetuning.groups import Group
from tle.finetuning.interruption import Interruption
from tle.finetuning.options import FinetuneOptions
from tle.finetuning.pictures import relabel_source, select_pictures
from tle.finetuning.processes import Processes, joined
from tle.finetuning.saver import Saver
from tle.finetuning.start import Start, check_start, make_network, start_anew, start_from_head, without_val
from tle.finetuning.training import Trainer
from tle.progress import tell, track
from tle.runtimes.plan import resolve_device
from tle.runtimes.torch_device import precise
from tle.sources import open_source

NEW_HEAD = "none"


def finetune(
    images: str | Path,
    output: str | Path,
    *,
    init: str | Path,
    cache: str | Path | None = None,
    backbone: str | None = None,
    weights: str | None = None,
    layer: str | None = None,
    pool: str | None = None,
    overrides: PreprocessOverrides | None = None,
    target: Target | str | None = None,
    splits: str | Path | None = None,
    options: FinetuneOptions | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> FinetuneResult:
    """Train backbone and head end to end, from a fitted head on, and write the finished classifier.

    The same call goes on where an earlier one was stopped, and ends with the same weights as if it had not been. Started
    by `torchrun`, several processes share the work.

    Args:
        images: a folder or manifest with labels: the pictures that the head was fitted on.
        output: NAME.tle.
        init: a head or classifier to start from, or "none" for a new head on `backbone`.
        cache: the features that the head was fitted on; None looks beside the head for a file of the same name.
        backbone: with init "none": which, as `tle.load_backbone` takes it.
        weights: where the backbone's weights are now; with init "none", which.
        layer: with init "none": where features are taken.
        pool: likewise, how they become one vector.
        overrides: likewise, deviations from the preprocessing of the weights.
        target: with init "none": what the labels are; None finds out.
        splits: a manifest with the columns path and split, instead of the splits of the cache or the pictures.
        options: how to train.
        overwrite: replace an existing classifier, and the checkpoint of another run or of one that is complete.
        progress: show it, and say what happens, on standard error.

    Returns:
        What was done.

    Raises:
        UsageError: options that cannot be used, alone or together, or a checkpoint of another run.
        HeadError: a head that training cannot start from, labels that do not fit, a loss that is not finite.
        BackboneError: the backbone cannot be loaded, or is an ONNX file.
        SourceError: the pictures cannot be listed.
        OutputError: the classifier cannot be written; found out before any work.
    """
    path, options = Path(output), options or FinetuneOptions()
    inputs = [file for file in (images, cache, splits, None if str(init) == NEW_HEAD else init) if file is not None]
    if path.suffix != ".tle":
        raise UsageError(f"the classifier is called NAME.tle, got {path.name!r}")
    check_output(path, overwrite=overwrite, inputs=inputs)
    device = resolve_device(options.device)
    with (
        joined(device) as processes,
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        precise(tf32=False, device=device),
    ):
        shown = progress and processes.first
        with claimed(path, wanted=processes.first):
            start = _start(
                init, cache, backbone, weights=weights, layer=layer, pool=pool, overrides=overrides, target=target
            )
            return _run(
                start, images, path, target, splits, options, device, processes, overwrite=overwrite, shown=shown
            )


def plan_groups(
    images: str | Path | None,
    *,
    init: str | Path,
    backbone: str | None = None,
    weights: str | None = None,
    layer: str | None = None,
    pool: str | None = None,
    overrides: PreprocessOverrides | None = None,
    target: Target | str | None = None,
    options: FinetuneOptions | None = None,
) -> tuple[Group, ...]:
    """The parameter groups that `finetune` would train, without training.

    Args:
        images: needed with init "none" alone, for the number of classes.
        init: as for `finetune`, like all that follow.
        backbone: likewise.
        weights: likewise.
        layer: likewise.
        pool: likewise.
        overrides: likewise.
        target: likewise.
        options: likewise.

    Raises:
        UsageError: options that cannot be used, alone or together.
    """
    start = _start(init, None, backbone, weights=weights, layer=layer, pool=pool, overrides=overrides, target=target)
    if start.layer is not None:
        outputs = len(start.layer.bias_K)
    elif images is not None:
        outputs = max(1, len(relabel_source(open_source(images, target=target), None)[1]))
    else:
        raise UsageError("a new head needs the pictures, to know how many classes there are: name them")
    options = options or FinetuneOptions()
    return groups_of(make_network(start, outputs, seed=options.seed), start, options)


def _start(
    init: str | Path,
    cache: str | Path | None,
    backbone: str | None,
    *,
    weights: str | None,
    layer: str | None,
    pool: str | None,
    overrides: PreprocessOverrides | None,
    target: Target | str | None,
) -> Start:
    if str(init) == NEW_HEAD:
        if backbone is None:
            raise UsageError("--init none needs a --backbone; or start from a head with --init NAME.head")
        if cache is not None:
            raise UsageError("--cache is the cache of the head that training starts from, and --init none has no head")
        return start_anew(
            backbone,
            weights=weights or "DEFAULT",
            layer=layer,
            pool=pool,
            overrides=overrides or PreprocessOverrides(),
        )
    given = (("--backbone", backbone), ("--layer", layer), ("--pool", pool), ("--target", target))
    for flag, value in given:
        if value is not None:
            raise UsageError(f"{flag} goes with --init none: {init} says itself what it was fitted on")
    if overrides is not None and overrides != PreprocessOverrides():
        raise UsageError(f"preprocessing flags go with --init none: {init} says itself how its pictures are prepared")
    return start_from_head(Path(init), cache=None if cache is None else Path(cache), weights=weights)


def _run(
    start: Start,
    images: str | Path,
    path: Path,
    target: Target | str | None,
    splits: str | Path | None,
    options: FinetuneOptions,
    device: str,
    processes: Processes,
    *,
    overwrite: bool,
    shown: bool,
) -> FinetuneResult:
    head = start.head
    source = open_source(images, target=target if head is None else head.target)
    # The pictures are dealt as they were for the head, so that val is val to both.
    dealt = {} if head is None else dict(head.fit.get("selection") or {})
    if options.val_fraction is not None and dealt.get("val_source") == "fraction":
        raise UsageError(
            "--val-fraction says nothing beside --init HEAD: what was held out for the head is held out here"
        )
    pictures = select_pictures(
        source,
        None if head is None else head.classes or None,
        cache=start.cache,
        val_fraction=dealt.get("val_fraction") or options.held_out,
        seed=options.seed if head is None else int(dealt.get("seed", head.fit.get("seed", 0))),
        splits=splits,
    )
    start = without_val(start, pictures, splits=splits)
    outputs = 1 if pictures.target is Target.REGRESSION else len(pictures.classes)
    network = make_network(start, outputs, seed=options.seed)
    setting = make_setting(network, start, pictures, options, device=device, processes=processes)
    notes = (*source.notes, *start.notes, *pictures.notes, *setting_notes(setting))
    tell(notes, shown=shown)
    trainer = Trainer(network, setting)
    saver = Saver(trainer, checkpoint_path(path), start)
    say = partial(_say, shown=shown)
    if saver.restore(overwrite=overwrite):
        say(f"going on from {saver.path.name}: step {trainer.state.step:,}, epoch {trainer.state.epoch + 1}")
    if not trainer.state.history:
        _begin(trainer, start)
    say(_describe_start(trainer, start))
    left = setting.steps_per_epoch * options.epochs - trainer.state.step
    interruption = Interruption(saver.leave, processes)
    with track(left, "fine-tuning", unit="steps", shown=shown) as counter, interruption.listening():
        trainer.train(save=saver.save_if_due, interruption=interruption, counter=counter, say=say)
    saver.save()
    return conclude(trainer, start, path, saver.path, notes=notes, say=say)


def _begin(trainer: Trainer, start: Start) -> None:
    """Validate before any step: the start is the head, or nothing is trained."""
    state, setting = trainer.state, trainer.setting
    row: dict[str, Any] = {"epoch": 0, "step": 0}
    state.first = first = trainer.validate()
    if first is not None:
        row |= {"val_loss": first.loss, f"val_{setting.metric}": first.metric}
        ids = tuple(setting.pictures.source.ids[index] for index in first.rows)
        state.parity = check_start(
            start, ids, first.scores, first.labels, setting.pictures.target, precision=setting.precision
        )
    state.history.append(row)


def _describe_start(trainer: Trainer, start: Start) -> str:
    """What the training starts with, in a line."""
    state, setting = trainer.state, trainer.setting
    rows = f"{len(setting.pictures.train):,} train and {len(setting.pictures.val):,} val pictures"
    how = f"{rows}, {setting.steps_per_epoch:,} steps an epoch, {setting.precision} on the {setting.device}"
    first, parity = state.first, state.parity
    if first is None:
        return f"{how}; nothing to validate on"
    before = f"{setting.metric} {first.metric:.4f}" if first.metric is not None else f"loss {first.loss:.4f}"
    line = f"{how}; before any step: val {before}"
    if parity is None:
        return line if start.head is None else f"{line}; no cache at hand to compare it with the head's"
    if "accuracy_cache" in parity:
        line += f", the head on the cache {parity['accuracy_cache']:.4f}"
    return f"{line} (largest difference of a score {parity['max_abs_difference']:.1e})"


def _say(line: str, *, shown: bool) -> None:
    tell([line], shown=shown)
