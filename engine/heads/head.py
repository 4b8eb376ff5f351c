"""A fitted head: features in, scores out, with all that is needed to use it on new pictures.

# N pictures, B rows of a block, D feature dim, C classes
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.artefact import read_artefact, write_artefact
from tle.enums import Target
from tle.errors import HeadError, ShapeError
from tle.heads.safe_skops import FILE as ESTIMATOR_FILE
from tle.heads.samples import block_rows
from tle.heads.sweep import Model

FORMAT = "tle-head"
VERSION = 1
_DIGESTS = "fit_digests"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A fitted head.

    Attributes:
        kind: a name of `tle.heads.driver.KINDS`, or "sklearn:IMPORT.PATH".
        target: what the labels were: CLASS, MULTILABEL or REGRESSION.
        classes: C class names, the columns of the scores; empty for regression.
        dim: feature dimension D.
        fingerprint: identity of the features that it was fitted on, and that it may be applied to.
        spec: backbone, preprocessing and decoder that made those features, as the cache describes them.
        fit: JSON-able record of the fit: settings, sweep, validation figures, split, seed, versions, notes.
        fit_digests: uint64, sorted, unique: digests of all pictures of the fit, train and val.
        model: the arithmetic. An `Affine` with `weight_KD` and `bias_K` where the head is linear.
    """

    kind: str
    target: Target
    classes: tuple[str, ...]
    dim: int
    fingerprint: str
    spec: Mapping[str, Any]
    fit: Mapping[str, Any]
    fit_digests: NDArray[np.uint64]
    model: Model

    def predict(self, x_ND: NDArray[Any]) -> NDArray[np.float32]:
        """Scores of raw features, about 64 MiB of them at a time.

        Args:
            x_ND: (N, D) features of this head's fingerprint, any float type; may be memory-mapped.

        Returns:
            Float32 scores. CLASS: (N, C) probabilities, rows sum to 1. MULTILABEL: (N, C) probabilities, each on its own.
            REGRESSION: (N,) values.

        Raises:
            ShapeError: the features are not (N, D) floats.
            HeadError: a feature is NaN or infinite, or the head gave such a score.
        """
        if x_ND.ndim != 2 or x_ND.shape[1] != self.dim or not np.issubdtype(x_ND.dtype, np.floating):
            raise ShapeError(f"expected float features (N, {self.dim}), got {x_ND.shape} {x_ND.dtype}")
        outputs = 1 if self.target is Target.REGRESSION else len(self.classes)
        scores_NK = np.empty((len(x_ND), outputs), np.float32)
        step = block_rows(max(self.dim, outputs))
        for start in range(0, len(x_ND), step):
            x_BD = np.asarray(x_ND[start : start + step], dtype=np.float32)
            finite = np.isfinite(x_BD).all(axis=1)
            if not finite.all():
                bad = np.flatnonzero(~finite)
                raise HeadError(
                    f"expected finite features, got NaN or infinity in {len(bad)} of rows {start} to {start + len(x_BD) - 1} "
                    f"(first: row {start + bad[0]}): look at that picture and the backbone's precision"
                )
            scores_BK = self.model.scores(x_BD)
            if not np.isfinite(scores_BK).all():
                raise HeadError(
                    f"the {self.kind} head gave a NaN or infinite score: its features are far from those of its fit"
                )
            scores_NK[start : start + step] = scores_BK
        return scores_NK[:, 0] if self.target is Target.REGRESSION else scores_NK

    def save(self, path: str | Path) -> Path:
        """Write the head, atomically; a file of that name is replaced. The same head gives the same bytes.

        Raises:
            OutputError: the path cannot be written.
            HeadError: an estimator that cannot be stored without a pickle.
        """
        document = {"format": FORMAT, "version": VERSION, **self.document()}
        return write_artefact(path, document, self.arrays(), self.model.files())

    def document(self) -> dict[str, Any]:
        """All but the arrays and the files of its model, JSON-able; with them `build_head` makes the head again."""
        return {
            "kind": self.kind,
            "target": str(self.target),
            "classes": list(self.classes),
            "dim": self.dim,
            "fingerprint": self.fingerprint,
            "spec": dict(self.spec),
            "fit": dict(self.fit),
            "model": self.model.record(),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays to be stored: those of the model, and the digests of the fit."""
        return {**self.model.tensors(), _DIGESTS: self.fit_digests}

    def summary(self) -> dict[str, Any]:
        """What the head is and how it came about, as a JSON-able dict for people to read."""
        return {
            "kind": self.kind,
            "target": str(self.target),
            "classes": list(self.classes),
            "dim": self.dim,
            "pictures": len(self.fit_digests),
            "fingerprint": self.fingerprint,
            **self.fit,
            **self.spec,
        }


def load_head(path: str | Path) -> Head:
    """Read a head written by `Head.save`; nothing in the file is executed.

    Args:
        path: the file.

    Returns:
        The head.

    Raises:
        HeadError: missing, damaged, not a head, or of a newer version.
    """
    path = Path(path)
    artefact = read_artefact(path, allowed=[ESTIMATOR_FILE])
    document = artefact.document
    if document.get("format") != FORMAT:
        raise HeadError(f"{path} is not a head of tle: its format is {document.get('format')!r}")
    if document.get("version") != VERSION:
        raise HeadError(
            f"{path} has head version {document.get('version')!r}, this version of tle reads {VERSION}: update tle"
        )
    return build_head(path, document, artefact.tensors, artefact.files)


def build_head(
    path: Path, document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], files: Mapping[str, bytes]
) -> Head:
    """Make a head of what `Head.document`, `Head.arrays` and its model's files gave, trusting none of it.

    Args:
        path: where it was read, for the message.
        document: the JSON object.
        tensors: arrays by name.
        files: further files by name.

    Raises:
        HeadError: something is missing or garbled.
    """
    try:
        return _build(document, dict(tensors), files)
    except HeadError as error:
        raise HeadError(f"{path} is damaged: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise HeadError(f"{path} is damaged: its document lacks or garbles {error}") from error


def _build(document: Mapping[str, Any], tensors: dict[str, NDArray[Any]], files: Mapping[str, bytes]) -> Head:
    target, dim, names = Target(document["target"]), document["dim"], document["classes"]
    if target is Target.NONE or not isinstance(dim, int) or dim < 0:
        raise HeadError(f"a head has a target and a dimension, found {target} and {dim!r}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise HeadError("classes should be a list of names")
    digests = tensors.pop(_DIGESTS, None)
    if digests is None or digests.ndim != 1 or digests.dtype != np.uint64:
        raise HeadError(f"expected a one-dimensional uint64 tensor {_DIGESTS!r}")
    for name in ("spec", "fit", "model"):
        if not isinstance(document[name], dict):
            raise HeadError(f"{name} should be a JSON object, found {type(document[name]).__name__}")
    outputs = 1 if target is Target.REGRESSION else len(names)
    return Head(
        kind=str(document["kind"]),
        target=target,
        classes=tuple(names),
        dim=dim,
        fingerprint=str(document["fingerprint"]),
        spec=document["spec"],
        fit=document["fit"],
        fit_digests=digests,
        model=_build_model(document["model"], tensors, files, target, outputs, dim),
    )


def _build_model(
    record: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    files: Mapping[str, bytes],
    target: Target,
    outputs: int,
    dim: int,
) -> Model:
    """The model that a record names; its module, and what that needs, is imported only now."""
    if record["type"] == "affine":
        from tle.heads.affine import Affine

        return Affine.load(record, tensors, target=target, outputs=outputs, dim=dim)
    if record["type"] == "knn":
        from tle.heads.knn import Knn

        return Knn.load(record, tensors, target=target, outputs=outputs, dim=dim)
    if record["type"] == "estimator":
        from tle.heads.estimator import Estimator

        return Estimator.load(record, tensors, files.get(ESTIMATOR_FILE), target=target, outputs=outputs, dim=dim)
    raise HeadError(f"unknown model type {record['type']!r}")
