"""The per-feature standard scaler that stands before a head, and its folding into a linear layer.

# n samples, D feature dim, K outputs

    z = (x - mean) / scale      scale: the standard deviation, 1 where a feature is constant, and never below
                                FLOOR times the median of the features that vary
    w_KD z + b = (w_KD / scale) x + (b - (w_KD / scale) mean)

The floor is for features that are all but dead, such as a ReLU's output that is 0.002 in one picture of the fit and 0
in all others. To divide by that spread makes one ordinary value in a new picture outweigh all other features: of 355
digits (EfficientNet-Lite0) one stood at 14,905 standard deviations, and took the ECE of a ridge head from 0.05 to 0.43.
Where no feature varies a thousand times less than the others, this is scikit-learn's `StandardScaler`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.heads.samples import Samples

FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class Scaler:
    """Mean and scale of each feature.

    Attributes:
        mean_D: float64 (D,).
        scale_D: float64 (D,), standard deviations (population form), 1 for constant features, floored.
        n_floored: features whose standard deviation is below the floor.
    """

    mean_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]
    n_floored: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user has to be told."""
        if not self.n_floored:
            return ()
        return (
            f"{self.n_floored} of {len(self.mean_D)} features hardly vary and are scaled as if they varied a thousandth as "
            "much as the median feature",
        )

    def apply(self, x_ND: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Standardised features, float64 (n, D)."""
        z_ND = x_ND - self.mean_D
        z_ND /= self.scale_D
        return z_ND

    def load(self, samples: Samples) -> NDArray[np.float64]:
        """All features of `samples`, standardised, float64 (n, D); one copy in memory."""
        z_ND = np.empty((len(samples), samples.dim))
        for positions, x_BD in samples.blocks():
            z_ND[positions] = self.apply(x_BD)
        return z_ND

    def fold(
        self, weight_KD: NDArray[np.float64], bias_K: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The layer on raw features that equals `weight_KD`, `bias_K` on standardised ones; float64 (K, D), (K,)."""
        weight_KD = weight_KD / self.scale_D
        return weight_KD, bias_K - weight_KD @ self.mean_D


def fit_scaler(samples: Samples) -> Scaler:
    """Measure mean and scale block by block, in float64; apply the floor.

    Source: scikit-learn's `StandardScaler.partial_fit`, and so its rule for what counts as a constant feature.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for _, x_BD in samples.blocks():
        scaler.partial_fit(x_BD.astype(np.float64))
    scale_D = np.array(scaler.scale_, np.float64)
    # scikit-learn sets the scale of what it takes for constant to exactly 1, and nothing else to that.
    varying = scale_D != 1.0
    floor = FLOOR * np.median(scale_D[varying]) if varying.any() else 0.0
    low = varying & (scale_D < floor)
    scale_D[low] = floor
    return Scaler(np.asarray(scaler.mean_, np.float64), scale_D, int(low.sum()))
