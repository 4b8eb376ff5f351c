"""Where training starts: a fitted head and its backbone (LP-FT), or a new head; and the proof that the start is the head.

Linear probing first, then fine-tuning, keeps the features from being torn apart by a random head in the first steps
(Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").

# n validation pictures, D feature dim, K outputs
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tle.backbones.backbone import Backbone
from tle.backbones.load import PreprocessOverrides, load_backbone
from tle.bundle import Bundle, read_classifier
from tle.cache import Cache, open_cache
from tle.classifier import make_classifier
from tle.enums import Target
from tle.errors import FingerprintError, HeadError, UsageError
from tle.finetuning.network import Network
from tle.finetuning.pictures import Pictures, default_cache
from tle.heads.affine import Affine
from tle.heads.head import Head
from tle.heads.samples import block_rows
from tle.images import FAST_DECODER, GPU_DECODER

# Share of top-1 answers that the network and the head on cached features must have in common at the start. Features that
# were extracted in bfloat16 tip some close calls; a wrong preprocessing or other weights tip far more.
MIN_AGREEMENT = 0.97
# Largest difference of a score: float32 differs by the order of its sums (5e-6 was seen). Where the cached features or the
# network are in a precision that rounds more it is more: 0.03 for a network in bfloat16 on a GPU.
_TOLERANCE = 1e-2
_ROUGH_TOLERANCE = 0.3
FINETUNED_KIND = "finetuned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What training starts from.

    Attributes:
        backbone: loaded, with its weights; it is trained in place.
        decoder: identity of the decoder of its pictures.
        path: the file that was given; None for a new head.
        bundle: what was in it; the file may be another by the end of the training.
        head: the head in it.
        layer: the linear layer that training starts from: that of the head, or of its settings fitted on train alone.
        cache: the features that the head was fitted on, where they are at hand.
        notes: one-line facts that the user has to be told.
    """

    backbone: Backbone
    decoder: str
    path: Path | None = None
    bundle: Bundle | None = None
    head: Head | None = None
    layer: Affine | None = None
    cache: Cache | None = None
    notes: tuple[str, ...] = ()


def start_from_head(init: Path, *, cache: Path | None, weights: str | None) -> Start:
    """A fitted head and the backbone that it names.

    Args:
        init: a `.head` or `.tle` file.
        cache: the features it was fitted on; None looks for a file of the same name beside it.
        weights: where the backbone's weights are now, if not where they were.

    Raises:
        HeadError: the head is not linear, or cannot be read.
        FingerprintError: the cache holds other features than those of the head.
    """
    bundle = read_classifier(init)
    classifier = make_classifier(bundle, init, weights=weights)
    head = bundle.head
    if not isinstance(head.model, Affine):
        raise HeadError(
            f"{init} is a {head.kind} head, and fine-tuning starts from a linear one: fit logistic, linear, ridge, lda or "
            "prototype, or pass --init none"
        )
    found = cache or default_cache(init)
    opened = None if found is None else open_cache(found)
    notes, decoder = classifier.backbone.notes, str(head.spec["decoder"])
    if decoder == GPU_DECODER:
        notes += (
            f"pictures were decoded by {decoder} for the head, and are by {FAST_DECODER} now: pixels differ a little",
        )
        decoder = FAST_DECODER
    if opened is not None and opened.fingerprint != head.fingerprint:
        if cache is not None:
            raise FingerprintError(
                f"{cache} holds other features than {init} was fitted on: name the cache of the fit with --cache"
            )
        notes += (f"{opened.path} beside {init.name} holds other features and is not used",)
        opened = None
    return Start(
        backbone=classifier.backbone,
        decoder=decoder,
        path=init,
        bundle=bundle,
        head=head,
        layer=head.model,
        cache=opened,
        notes=notes,
    )


def start_anew(
    backbone: str, *, weights: str, layer: str | None, pool: str | None, overrides: PreprocessOverrides
) -> Start:
    """A backbone whose head is new."""
    loaded = load_backbone(backbone, weights=weights, layer=layer, pool=pool, overrides=overrides)
    return Start(backbone=loaded, decoder=FAST_DECODER, notes=loaded.notes)


def without_val(start: Start, pictures: Pictures, *, splits: str | Path | None = None) -> Start:
    """The start, its layer fitted without the validation pictures.

    A head is usually fitted again on train and val together. To be compared on val with what is trained on train alone, it
    must not have seen val either: the same settings are fitted on train alone, which takes a moment on the cache.

    Args:
        start: with a head, or without.
        pictures: that are trained on, and that decide.
        splits: the manifest that dealt them, if one did.

    Raises:
        UsageError: the head was fitted on other pictures than would be trained on, or has seen the validation pictures and
            its cache is not at hand.
    """
    head = start.head
    if head is None:
        return start
    dealt, ours = dict(head.fit.get("selection") or {}), pictures.dealt
    _check_deal(dealt, ours)
    if not len(pictures.val):
        return start
    if head.kind == FINETUNED_KIND:
        _check_held_out(start, pictures)
        return start
    same = all(dealt.get(name) == ours.get(name) for name in ("n_train", "n_val", "seed", "val_source"))
    if not head.fit.get("refit", False) and same:
        return start
    if start.cache is None:
        raise UsageError(
            "the head was fitted on the validation pictures as well, so nothing could be compared on them: name the cache "
            "that it was fitted on with --cache, or fit it with --no-refit"
        )
    from tle.heads.fit import fit_head

    chosen, choice = head.fit["chosen"], head.fit["choice"]
    params = {**head.fit["settings"], **{name: chosen[name] for name in choice.get("settings", ()) if name in chosen}}
    again = fit_head(
        start.cache,
        head=head.kind,
        params=params,
        seed=int(ours["seed"]),
        val_fraction=ours["val_fraction"] or 0.0,
        splits=splits,
        refit=False,
    )
    if not isinstance(again.head.model, Affine):
        raise HeadError(f"the {head.kind} head of these settings is not linear: pass --init none")
    said = ", ".join(
        f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}" for name, value in params.items()
    )
    note = (
        f"the head is fitted on train alone ({said or 'its settings'}), so that val can compare it with what is trained"
    )
    return replace(start, layer=again.head.model, notes=(*start.notes, note))


def _check_deal(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse to deal pictures otherwise than for the head: some of its test pictures would be trained on."""

    def fitted_on(record: Mapping[str, Any]) -> int:
        return int(record["n_train"]) + (0 if record.get("folds") else int(record["n_val"]))

    if not {"n_train", "n_val", "n_test_untouched"} <= set(theirs):
        return
    found = [(fitted_on(record), int(record["n_test_untouched"])) for record in (theirs, ours)]
    if found[0] != found[1]:
        raise UsageError(
            f"the head was fitted on {found[0][0]:,} pictures and left {found[0][1]:,} for test, here these would be "
            f"{found[1][0]:,} and {found[1][1]:,}: give the --splits that it was fitted with, or its --cache"
        )


def _check_held_out(start: Start, pictures: Pictures) -> None:
    """Refuse validation pictures that an earlier fine-tuning trained on."""
    held_out = {} if start.bundle is None else start.bundle.arrays
    digests = held_out.get("val_digests", np.zeros(0, np.uint64))
    if seen := int((~np.isin(pictures.digests[pictures.val], digests)).sum()):
        raise UsageError(
            f"{seen} of {len(pictures.val)} pictures that would decide were trained on when {start.path} was made: name the "
            "pictures, and the --splits, that it was trained with"
        )


def make_network(start: Start, outputs: int, *, seed: int) -> Network:
    """The network, with the fitted head or, seeded, torch's initial values of a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(start.backbone, outputs, unit_rows=start.layer is not None and start.layer.unit_rows)
    if start.layer is not None:
        network.set_head(start.layer)
    return network


def check_start(
    start: Start,
    ids: tuple[str, ...],
    scores_nK: NDArray[np.float32],
    labels: NDArray[Any],
    target: Target,
    *,
    precision: str,
) -> dict[str, Any] | None:
    """Compare the untrained network with its head on cached features of the same pictures.

    Args:
        start: with a head and its cache.
        ids: n ids.
        scores_nK: (n, K) scores of the network before any step.
        labels: of those pictures.
        target: what they are.
        precision: what the network computed in.

    Returns:
        Figures for the record: n, accuracy on the cache and of the network, share of equal answers (for classes), largest
        difference of a score. None where there is no cache or no picture.

    Raises:
        HeadError: the network is not what the head was fitted on.
    """
    if start.cache is None or start.layer is None or not len(ids):
        return None
    row_of = {name: row for row, name in enumerate(start.cache.ids)}
    rows = np.array([row_of[name] for name in ids], np.int64)
    step = block_rows(start.cache.dim)
    cached_nK = np.concatenate(
        [
            start.layer.scores(np.asarray(start.cache.features[rows[at : at + step]], np.float32))
            for at in range(0, len(rows), step)
        ]
    )
    difference = float(np.abs(cached_nK - scores_nK).max())
    cached = str(start.cache.spec.get("precision"))
    found: dict[str, Any] = {"n": len(rows), "max_abs_difference": difference, "features": cached}
    wrong = ""
    if target is Target.CLASS:
        ours, theirs = scores_nK.argmax(1), cached_nK.argmax(1)
        found["accuracy_cache"] = float((theirs == labels).mean())
        found["accuracy_network"] = float((ours == labels).mean())
        found["agreement"] = float((ours == theirs).mean())
        if (differ := int((ours != theirs).sum())) > max(1, (1 - MIN_AGREEMENT) * len(rows)):
            accuracies = f"accuracy {found['accuracy_network']:.4f} instead of {found['accuracy_cache']:.4f}"
            wrong = f"for {differ} of {len(rows)} pictures ({accuracies})"
    scale = max(1.0, float(np.abs(cached_nK).max()))  # of probabilities 1, of a regression its largest value
    tolerance = _TOLERANCE if {cached, precision} == {"float32"} else _ROUGH_TOLERANCE
    if not wrong and difference > scale * tolerance:
        wrong = f"by up to {difference:.2g}"
    if wrong:
        raise HeadError(
            f"before any step the network answers otherwise than the head on {start.cache.path}, {wrong}: the cache is of "
            "other pictures, weights or another decoder; extract and fit again"
        )
    return found
