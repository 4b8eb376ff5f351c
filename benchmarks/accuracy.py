"""Do the figures come out? tle against the plain script, on real pictures, same files, same splits.

    python -m tle.benchmarks.accuracy [art4apps] [tiles]

`art4apps`: 585 illustrations in 12 classes, 5-fold cross-validation. `tiles`: 1,939 tiles cut from 36 photos, the left
60 % of each photo is train, the rest test. Backbone: the packaged EfficientNet-Lite0. The plain script is PIL, timm's
transforms, torch eager, StandardScaler and LogisticRegression(C = 0.01); tle chooses C itself.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tle
from tle.benchmarks import datasets, plain
from tle.enums import Split

FOLDS = 5
SEED = 0


def compare(images: Path, *, folds: int | None) -> tuple[list[float], list[float], float]:
    """Test accuracies of tle and of the plain script.

    Args:
        images: a folder or manifest.
        folds: stratified folds over all pictures; None takes the splits of the source.

    Returns:
        tle's accuracies (one a fold), the plain script's, and the smallest cosine between their features.
    """
    checkpoint = datasets.lite0_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        result = tle.extract(
            images,
            Path(folder) / "cache.h5",
            backbone="timm/tf_efficientnet_lite0",
            weights=str(checkpoint),
            progress=True,
        )
        cache = tle.open_cache(result.path)
        source = tle.open_source(images)
        plain_ND = plain.features(
            [source.path(row) for row in range(len(source))], *plain.efficientnet_lite0(checkpoint)
        )
        ours, theirs = [], []
        for number, splits in enumerate(_splits(cache, folds)):
            head = tle.fit_head(cache, Path(folder) / f"{number}.head", splits=splits, seed=SEED).head
            ours.append(float(tle.evaluate(head, cache, splits=splits).metrics["top1"]))
            theirs.append(_plain_accuracy(plain_ND, np.asarray(cache.labels), splits))
        x_ND = np.asarray(cache.features)
        cosine_N = (x_ND * plain_ND).sum(1) / np.linalg.norm(x_ND, axis=1) / np.linalg.norm(plain_ND, axis=1)
    return ours, theirs, float(cosine_N.min())


def _splits(cache: "tle.Cache", folds: int | None) -> list[NDArray[np.uint8]]:
    if folds is None:
        return [np.asarray(cache.splits)]
    found = []
    splitter = StratifiedKFold(folds, shuffle=True, random_state=SEED)
    for _, test in splitter.split(np.zeros(len(cache)), cache.labels):
        splits = np.full(len(cache), Split.TRAIN, np.uint8)
        splits[test] = Split.TEST
        found.append(splits)
    return found


def _plain_accuracy(x_ND: NDArray[np.float32], labels: NDArray[np.int64], splits: NDArray[np.uint8]) -> float:
    train, test = splits == Split.TRAIN, splits == Split.TEST
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(x_ND[train], labels[train])
    return float(model.score(x_ND[test], labels[test]))


def main(chosen: list[str]) -> int:
    """Run the comparisons; returns the exit code."""
    for name in chosen or ["art4apps", "tiles"]:
        images = datasets.art4apps() if name == "art4apps" else datasets.photo_tiles() / "manifest.csv"
        ours, theirs, cosine = compare(images, folds=FOLDS if name == "art4apps" else None)
        print(
            f"{name}: tle {100 * np.mean(ours):.1f} %, plain script {100 * np.mean(theirs):.1f} % "
            f"({len(ours)} split{'s' * (len(ours) > 1)}); smallest feature cosine {cosine:.7f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
