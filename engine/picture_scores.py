"""What a classifier makes of all pictures of a source, held in memory: for measuring and for showing.

# G good pictures, D feature dim, C classes
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tle.classifier import Classifier
from tle.errors import AllImagesFailedError
from tle.pipeline import Failure
from tle.progress import track
from tle.sources import Source

if TYPE_CHECKING:
    from tle.tuning.choice import Choice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PictureScores:
    """Scores of the pictures of a source, and the features that they were made of.

    Attributes:
        indices: (G,) int64 rows of the good pictures in the source, ascending.
        features: (G, D) float32.
        scores: (G, C) float32 probabilities, or (G,) float32 values of a regression.
        digests: (G,) uint64 digests of the good pictures.
        failures: the other rows, with their reasons.
        images_per_s: rate of the pass, failed pictures counted, start-up excluded.
        elapsed_s: seconds of the pass, start-up excluded.
        choice: how the backbone was run; `choice.describe()` says it in a line.
    """

    indices: NDArray[np.int64]
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    digests: NDArray[np.uint64]
    failures: tuple[Failure, ...]
    images_per_s: float
    elapsed_s: float
    choice: "Choice"


def score_pictures(
    classifier: Classifier, source: Source, *, progress: bool = False, say: Callable[[str], None] = lambda _: None
) -> PictureScores:
    """Run every picture of a source through a classifier once.

    Args:
        classifier: backbone and head.
        source: the pictures; their labels are not looked at.
        progress: show progress on standard error.
        say: told how the backbone is run, and what the user has to know about it, a line at a time.

    Returns:
        The scores of all good pictures.

    Raises:
        AllImagesFailedError: not one picture could be read.
        TleError: the backbone cannot be run as it is to be; see `Classifier.choose`.
    """
    choice = classifier.choose(source, say=say)
    for line in (*choice.notes, choice.describe()):
        say(line)
    with track(len(source), "classifying", shown=progress) as counter:
        batches = []
        for batch in classifier.predict(source, choice):
            batches.append(batch)
            counter.advance(len(batch.indices) + len(batch.failures), len(batch.failures))
    failures = tuple(failure for batch in batches for failure in batch.failures)
    if len(failures) == len(source):
        raise AllImagesFailedError(
            f"all {len(source)} pictures of {source.root} failed, the first because: {failures[0].reason}"
        )
    return PictureScores(
        indices=np.concatenate([batch.indices for batch in batches]),
        features=np.concatenate([batch.features for batch in batches]),
        scores=np.concatenate([batch.scores for batch in batches]),
        digests=np.concatenate([batch.digests for batch in batches]),
        failures=failures,
        images_per_s=counter.rate,
        elapsed_s=counter.elapsed_s,
        choice=choice,
    )
