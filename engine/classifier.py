"""Backbone and head as one: pictures in, classes out.

# G good pictures of a batch, D feature dim, C classes
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tle.errors import FingerprintError, HeadError, UsageError, one_line
from tle.execution import Execution
from tle.identity import FINETUNED
from tle.images import DECODERS, EXACT_DECODER, GPU_DECODER
from tle.pipeline import Decoding, Failure, run
from tle.preprocess import Preprocess
from tle.sources import Source, open_source

if TYPE_CHECKING:
    from tle.backbones.backbone import Backbone
    from tle.bundle import Bundle
    from tle.heads.head import Head
    from tle.tuning.choice import Choice


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a classifier says about some consecutive pictures of a source.

    Attributes:
        indices: (G,) int64 rows of the good pictures, ascending.
        scores: (G, C) float32 probabilities, or (G,) float32 values of a regression.
        failures: the other rows, with their reasons.
        features: (G, D) float32, what the scores were made of.
        digests: (G,) uint64 digests of the good pictures.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]
    failures: tuple[Failure, ...]
    features: NDArray[np.float32]
    digests: NDArray[np.uint64]


class Classifier:
    """A head and the backbone that it was fitted on, ready to classify pictures.

    Attributes:
        head: the fitted head; `head.classes` names the columns of the scores.
        backbone: the backbone, its weights checked against those of the fit.
    """

    def __init__(self, head: "Head", backbone: "Backbone", execution: Execution) -> None:
        """Join the two; use `load_classifier`."""
        self.head = head
        self.backbone = backbone
        self._execution = execution
        self._choice: Choice | None = None

    def choose(self, source: Source, *, say: Callable[[str], None] = lambda _: None) -> "Choice":
        """How the backbone is best run over `source`: see `tle.tuning.choice.choose`.

        Args:
            source: the pictures.
            say: told what is being done, a line at a time.
        """
        from tle.tuning.choice import choose

        decoder = str(self.head.spec["decoder"])
        for flag, wanted, means in (
            ("--exact-decode", self._execution.exact_decode, EXACT_DECODER),
            ("--gpu-decode", self._execution.gpu_decode, GPU_DECODER),
        ):
            if wanted and decoder != means:
                raise UsageError(
                    f"the head was fitted on pictures decoded by {decoder!r} and takes them so: leave {flag} out, or fit "
                    "on a cache extracted with it"
                )
        self._choice = choose(self.backbone, source, self._execution, decoder=decoder, say=say)
        return self._choice

    def predict(self, images: str | Path | Source, choice: "Choice | None" = None) -> Iterator[Predictions]:
        """Classify every picture of a source, batch by batch, in order; memory is flat.

        Args:
            images: a folder, a manifest, or an opened source.
            choice: what `choose` gave for this source; None takes the last choice, or chooses now.

        Yields:
            Predictions that cover every row exactly once.

        Raises:
            SourceError: the folder or manifest cannot be used.
        """
        source = images if isinstance(images, Source) else open_source(images)
        choice = choice or self._choice or self.choose(source)
        decoding = Decoding(
            preprocess=self.backbone.preprocess, decoder=choice.decoder, max_pixels=self._execution.max_pixels
        )
        batches = run(
            source,
            choice.runtime,
            decoding,
            batch_size=choice.plan.batch_size,
            dim=self.backbone.dim,
            workers=self._execution.threads,
        )
        for batch in batches:
            features = batch.features if len(batch.indices) else np.zeros((0, self.head.dim), np.float32)
            scores = self.head.predict(features)
            yield Predictions(batch.indices, scores, batch.failures, features, batch.digests)


def load_classifier(path: str | Path, *, weights: str | None = None, execution: Execution | None = None) -> Classifier:
    """Load a head and the backbone that it names, or a classifier that brings its own.

    Args:
        path: a head written by `tle.fit_head`, or a classifier written by `tle.finetune` or `tle.export`.
        weights: where the backbone's weights are now; None looks where they were at the time of the extraction.
        execution: how to run the backbone; None leaves all of it to measurement.

    Returns:
        The classifier.

    Raises:
        HeadError: the file is no head or classifier, or damaged.
        BackboneError: the backbone or its weights cannot be loaded.
        FingerprintError: the weights are not those that the head was fitted on, or this version of tle decodes pictures
            differently.
        UsageError: the head says nothing about a backbone, or weights are named for a classifier that holds its own.
    """
    from tle.bundle import read_classifier

    return make_classifier(read_classifier(path), Path(path), weights=weights, execution=execution)


def make_classifier(
    bundle: "Bundle", path: Path, *, weights: str | None = None, execution: Execution | None = None
) -> Classifier:
    """What `load_classifier` makes of a file that was read already.

    Args:
        bundle: the content of the file.
        path: the file, for messages.
        weights: as for `load_classifier`, like what follows and what is raised.
        execution: how to run the backbone.
    """
    from tle.backbones.finetuned import load_finetuned
    from tle.backbones.load import load_backbone

    head = bundle.head
    recorded, preprocess = check_recorded(head, path)
    if bundle.state is not None and bundle.base is not None:
        if weights is not None:
            raise UsageError(f"{path} holds the weights of its backbone, which was fine-tuned: leave --weights out")
        backbone = load_finetuned(recorded, bundle.base, bundle.state, preprocess, origin=path)
        return Classifier(head, backbone, execution or Execution())
    if recorded["weights"] == FINETUNED:
        raise HeadError(
            f"{path} is the head of a fine-tuned backbone without its weights: take the .tle that was written with it"
        )
    backbone = load_backbone(
        recorded["name"],
        weights=weights or recorded["weights"],
        layer=recorded["layer"],
        pool=recorded["pool"],
        overrides=preprocess,
    )
    if backbone.weights_digest != recorded["weights_digest"]:
        raise FingerprintError(
            f"{path} was fitted on weights with digest {recorded['weights_digest']}, {weights or recorded['weights']} of "
            f"{recorded['name']} has {backbone.weights_digest}: pass --weights with the file that was used"
        )
    return Classifier(head, backbone, execution or Execution())


def check_recorded(head: "Head", path: Path) -> tuple[dict[str, str], Preprocess]:
    """What a head says about its backbone and preprocessing, shown to be enough to load them.

    Args:
        head: the head.
        path: its file, for messages.

    Returns:
        The backbone as `Backbone.spec` describes one, and the preprocessing.

    Raises:
        UsageError: it names no backbone that tle could run on pictures.
        FingerprintError: this version of tle decodes pictures differently.
        HeadError: the description is damaged.
    """
    recorded = head.spec.get("backbone")
    if not recorded or "name" not in recorded:
        raise UsageError(f"{path} does not say which backbone made its features: fit it on a cache of tle extract")
    if str(recorded["name"]).startswith("imported:"):
        raise UsageError(
            f"{path} was fitted on imported features ({recorded['name']}), which tle cannot make of pictures: import those of "
            "the new pictures under the same name, and use tle evaluate or the head's predict"
        )
    if head.spec.get("decoder") not in (*DECODERS, GPU_DECODER):
        raise FingerprintError(
            f"{path} was fitted on pictures decoded by {head.spec.get('decoder')!r}, this version of tle has "
            f"{' and '.join(map(repr, DECODERS))}: extract and fit again"
        )
    for key in ("name", "weights", "weights_digest", "layer", "pool"):
        if not isinstance(recorded.get(key), str):
            raise HeadError(
                f"{path} is damaged: its backbone's {key} should be a text, found {recorded.get(key)!r:.40}"
            )
    try:
        return dict(recorded), Preprocess.from_dict(head.spec["preprocess"])
    except (UsageError, KeyError, TypeError) as error:
        raise HeadError(f"{path} is damaged: its preprocessing cannot be used ({one_line(error)})") from error
