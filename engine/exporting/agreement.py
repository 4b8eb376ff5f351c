"""Two ways to compute the same classifier, on the same pictures.

# n pictures, K outputs
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tle.cores import usable_cores
from tle.enums import Target
from tle.errors import AllImagesFailedError
from tle.images import DECODERS, DEFAULT_MAX_PIXELS, EXACT_DECODER
from tle.pipeline import Decoding, run
from tle.progress import track
from tle.sources import Source

if TYPE_CHECKING:
    from tle.classifier import Classifier
    from tle.heads.head import Head
    from tle.runtimes.runtime import Runtime

# Pixels uint8 (B, H, W, 3) -> scores float32 (B, K).
Scorer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
BATCH_SIZE = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Agreement:
    """Scores of the same pictures, computed twice.

    Attributes:
        indices: (n,) int64 rows of the good pictures in the source.
        expected: (n, K) float32.
        found: (n, K) float32.
        digests: (n,) uint64.
        target: what the scores are of.
    """

    indices: NDArray[np.int64]
    expected: NDArray[np.float32]
    found: NDArray[np.float32]
    digests: NDArray[np.uint64]
    target: Target

    @property
    def max_abs_difference(self) -> float:
        """The largest difference of a score; of values beyond 1, relative to the largest."""
        scale = max(1.0, float(np.abs(self.expected).max()))
        return float(np.abs(self.expected - self.found).max()) / scale

    @property
    def top1_agreement(self) -> float | None:
        """Part of the pictures with the same most probable class; None where there are no classes to choose from."""
        if self.target is not Target.CLASS:
            return None
        return float((self.expected.argmax(axis=1) == self.found.argmax(axis=1)).mean())


class _Both:
    """A runtime whose features are the scores of both, side by side."""

    description = "two scorers"
    device = "cpu"

    def __init__(self, expected: Scorer, found: Scorer, batch: int | None) -> None:
        self._expected, self._found, self.batch = expected, found, batch

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([self._expected(pixels), self._found(pixels)], axis=1)


def score_with(runtime: "Runtime", head: "Head") -> Scorer:
    """The scores of a head on the features of a runtime."""

    def score(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = head.predict(runtime(pixels))
        return scores.reshape(len(scores), -1)

    return score


def compare(
    classifier: "Classifier", source: Source, expected: Scorer, found: Scorer, *, what: str, shown: bool
) -> Agreement:
    """Score all pictures of a source in two ways; memory holds the scores alone.

    Args:
        classifier: says how pictures are decoded, resized and cropped.
        source: the pictures.
        expected: the one way.
        found: the other.
        what: what is being done, in a word or two.
        shown: show progress on standard error.

    Returns:
        The scores of the good pictures.

    Raises:
        AllImagesFailedError: not one picture could be read.
    """
    head, backbone = classifier.head, classifier.backbone
    outputs = 1 if head.target is Target.REGRESSION else len(head.classes)
    decoder = str(head.spec["decoder"])
    # One that works on a GPU only is no part of what is compared: any pixels do.
    decoder = decoder if decoder in DECODERS else EXACT_DECODER
    decoding = Decoding(preprocess=backbone.preprocess, decoder=decoder, max_pixels=DEFAULT_MAX_PIXELS)
    runtime = _Both(expected, found, backbone.onnx.batch if backbone.onnx is not None else None)
    batches, reason = [], ""
    with track(len(source), what, shown=shown) as counter:
        for batch in run(source, runtime, decoding, batch_size=BATCH_SIZE, dim=2 * outputs, workers=usable_cores()):
            reason = reason or next((failure.reason for failure in batch.failures), "")
            counter.advance(len(batch.indices) + len(batch.failures), len(batch.failures))
            if len(batch.indices):
                batches.append(batch)
    if not batches:
        raise AllImagesFailedError(f"all {len(source)} pictures of {source.root} failed, the first because: {reason}")
    scores = np.concatenate([batch.features for batch in batches])
    return Agreement(
        indices=np.concatenate([batch.indices for batch in batches]),
        expected=scores[:, :outputs],
        found=scores[:, outputs:],
        digests=np.concatenate([batch.digests for batch in batches]),
        target=head.target,
    )
