"""Where training starts: a fitted head and its backbone (LP-FT), or a new head; and the proof that the start is the head.

Linear probing first, then fine-tuning, keeps the features from being torn apart by a random head in the first steps
(Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").

# n validation pictures, D feature dim, K outputs
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tle.backbones.backbone import Backbone
from tle.backbones.load import PreprocessOverrides, load_backbone
from tle.cache import Cache, open_cache
from tle.classifier import load_classifier
from tle.enums import Target
from tle.errors import FingerprintError, HeadError, UsageError
from tle.finetuning.network import Network
from tle.finetuning.pictures import default_cache
from tle.heads.affine import Affine
from tle.heads.head import Head
from tle.heads.samples import block_rows
from tle.images import FAST_DECODER

# Share of top-1 answers that the network and the head on cached features must have in common at the start. Features that
# were extracted in bfloat16 tip some close calls; a wrong preprocessing or other weights tip far more.
MIN_AGREEMENT = 0.97
FINETUNED_KIND = "finetuned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What training starts from.

    Attributes:
        backbone: loaded, with its weights; it is trained in place.
        decoder: identity of the decoder of its pictures.
        path: the file that was given; None for a new head.
        head: the head in it.
        layer: the linear layer that training starts from: that of the head, or of its settings fitted on train alone.
        cache: the features that the head was fitted on, where they are at hand.
        notes: one-line facts that the user has to be told.
    """

    backbone: Backbone
    decoder: str
    path: Path | None = None
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
    classifier = load_classifier(init, weights=weights)
    head = classifier.head
    if not isinstance(head.model, Affine):
        raise HeadError(
            f"{init} is a {head.kind} head, and fine-tuning starts from a linear one: fit logistic, linear, ridge, lda or "
            "prototype, or pass --init none"
        )
    found = cache or default_cache(init)
    opened = None if found is None else open_cache(found)
    notes = classifier.backbone.notes
    if opened is not None and opened.fingerprint != head.fingerprint:
        if cache is not None:
            raise FingerprintError(
                f"{cache} holds other features than {init} was fitted on: name the cache of the fit with --cache"
            )
        notes += (f"{opened.path} beside {init.name} holds other features and is not used",)
        opened = None
    return Start(
        backbone=classifier.backbone,
        decoder=str(head.spec["decoder"]),
        path=init,
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


def without_val(start: Start, *, n_train: int, n_val: int, val_fraction: float | None) -> Start:
    """The start, its layer fitted without the validation pictures.

    A head is usually fitted again on train and val together. To be compared on val with what is trained on train alone, it
    must not have seen val either: the same settings are fitted on train alone, which takes a moment on the cache.

    Args:
        start: with a head, or without.
        n_train: pictures to train on.
        n_val: pictures that decide.
        val_fraction: part of train that they were held out as; None where there is a val split.

    Raises:
        UsageError: the head has seen the validation pictures, and its cache is not at hand.
    """
    head = start.head
    if head is None or not n_val:
        return start
    dealt = dict(head.fit.get("selection") or {})
    if not head.fit.get("refit", False) and (dealt.get("n_train"), dealt.get("n_val")) == (n_train, n_val):
        return start
    if start.cache is None:
        raise UsageError(
            "the head was fitted on the validation pictures as well, so nothing could be compared on them: name the cache "
            "that it was fitted on with --cache, or fit it with --no-refit"
        )
    from tle.heads.fit import fit_head

    if "sweep" not in head.fit or head.kind == FINETUNED_KIND:
        raise UsageError(
            "the classifier was fine-tuned with other pictures held out, so nothing could be compared on these: name the "
            "pictures that it was trained with"
        )
    chosen, choice = head.fit["chosen"], head.fit["choice"]
    params = {**head.fit["settings"], **{name: chosen[name] for name in choice.get("settings", ()) if name in chosen}}
    again = fit_head(
        start.cache,
        head=head.kind,
        params=params,
        seed=int(head.fit["seed"]),
        val_fraction=val_fraction or 0.0,
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


def make_network(start: Start, outputs: int, *, seed: int) -> Network:
    """The network, with the fitted head or, seeded, torch's initial values of a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(start.backbone, outputs, unit_rows=start.layer is not None and start.layer.unit_rows)
    if start.layer is not None:
        network.set_head(start.layer)
    return network


def check_start(
    start: Start, ids: tuple[str, ...], scores_nK: NDArray[np.float32], labels: NDArray[Any], target: Target
) -> dict[str, Any] | None:
    """Compare the untrained network with its head on cached features of the same pictures.

    Args:
        start: with a head and its cache.
        ids: n ids.
        scores_nK: (n, K) scores of the network before any step.
        labels: of those pictures.
        target: what they are.

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
    found: dict[str, Any] = {
        "n": len(rows),
        "max_abs_difference": float(np.abs(cached_nK - scores_nK).max()),
        "features": start.cache.spec.get("precision"),
    }
    if target is Target.CLASS:
        ours, theirs = scores_nK.argmax(1), cached_nK.argmax(1)
        found["accuracy_cache"] = float((theirs == labels).mean())
        found["accuracy_network"] = float((ours == labels).mean())
        found["agreement"] = float((ours == theirs).mean())
        if (differ := int((ours != theirs).sum())) > max(1, (1 - MIN_AGREEMENT) * len(rows)):
            accuracies = f"accuracy {found['accuracy_network']:.4f} instead of {found['accuracy_cache']:.4f}"
            raise HeadError(
                f"before any step the network answers otherwise than the head on {start.cache.path} for {differ} of "
                f"{len(rows)} pictures ({accuracies}): the cache is of other pictures, weights or another decoder; extract "
                "and fit again"
            )
    return found
