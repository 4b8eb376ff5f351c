"""Are these the same features? What a faster way to make them costs, measured on the user's own pictures.

# n pictures, D feature dim
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How near some features are to those of the reference.

    Attributes:
        n: pictures compared.
        min_cosine: smallest cosine between a picture's two feature vectors.
        mean_cosine: mean of them.
        centred_min_cosine: smallest cosine after the reference's mean vector is taken from both. Features of one network
            share a large common part, which flatters the plain cosine; what a head works with is the rest.
        neighbour_agreement: share of the pictures whose nearest neighbour among the others is the same picture; None
            with fewer than three.
    """

    n: int
    min_cosine: float
    mean_cosine: float
    centred_min_cosine: float
    neighbour_agreement: float | None

    def to_dict(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for people."""
        agreement = "" if self.neighbour_agreement is None else f", same neighbour {self.neighbour_agreement:.0%}"
        return (
            f"cosine to the float32 reference on {self.n} pictures: least {self.min_cosine:.6f}, mean "
            f"{self.mean_cosine:.6f}, centred least {self.centred_min_cosine:.4f}{agreement}"
        )


def compare_features(reference_nD: NDArray[Any], features_nD: NDArray[Any]) -> Parity:
    """Compare features with those of the reference, row by row, in float64.

    Args:
        reference_nD: (n, D) of any float type, n >= 1.
        features_nD: (n, D) likewise. A row that is not finite has cosine -1, or 1 where the reference's is not either: both
            make the picture a failure.

    Returns:
        The comparison.
    """
    reference, features = reference_nD.astype(np.float64), features_nD.astype(np.float64)
    unfit, broken = ~np.isfinite(reference).all(1), ~np.isfinite(features).all(1)
    reference[unfit] = features[broken] = 0
    cosines = _cosines(reference, features)
    mean_D = reference.sum(0) / max(1, (~unfit).sum())
    # One picture alone has nothing left without the mean.
    centred = _cosines(reference - mean_D, features - mean_D) if len(reference) > 1 else cosines
    for found in (cosines, centred):
        found[unfit | broken] = -1.0
        found[unfit & broken] = 1.0
    agreement = None
    if len(reference) > 2:
        agreement = float((_neighbours(reference) == _neighbours(features)).mean())
    return Parity(
        n=len(reference),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        centred_min_cosine=float(centred.min()),
        neighbour_agreement=agreement,
    )


def _cosines(a_nD: NDArray[np.float64], b_nD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each pair of rows; just 1 for the same twice, zero or not, and 0 for one zero vector."""
    norms = np.linalg.norm(a_nD, axis=1) * np.linalg.norm(b_nD, axis=1)
    same = (a_nD == b_nD).all(1)
    cosines: NDArray[np.float64] = (a_nD * b_nD).sum(1) / np.where(norms > 0, norms, 1.0)
    cosines[same] = 1.0  # and not 1 less a rounding
    return cosines


def _neighbours(x_nD: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of each row's nearest other row, by cosine."""
    norms = np.linalg.norm(x_nD, axis=1, keepdims=True)
    unit = x_nD / np.where(norms > 0, norms, 1.0)
    similarity_nn = unit @ unit.T
    np.fill_diagonal(similarity_nn, -np.inf)
    nearest: NDArray[np.int64] = similarity_nn.argmax(1)
    return nearest
