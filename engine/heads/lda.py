"""Linear discriminant analysis with a shrunk covariance, in closed form.

# n samples, D feature dim, C classes, P classes present in the fit

    S_W = 1/n sum_i (z_i - m_{y_i})(z_i - m_{y_i})^T                     m_k: class means, z: standardised features
    S   = (1 - s) S_W + s (tr S_W / D) I                                 s: shrinkage, above 0 and at most 1
    logit_k = m_k^T S^-1 z - 1/2 m_k^T S^-1 m_k + log prior_k

One pass over the features gives S_W and the means, one eigendecomposition every s: shrinking moves eigenvalues only.
`auto` is the s of Ledoit and Wolf, computed from the same decomposition and the lengths of the centred rows (a second,
cheap pass). At s = 1 this is the nearest class mean.

The logits are those of the model; whether its probabilities are honest is for a calibration to say.

Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", as scikit-learn's
`ledoit_wolf` has it; Friedman 1989, "Regularized Discriminant Analysis", for the shrinkage.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError, UsageError
from tle.heads.affine import Affine, Link, embed_classes, make_affine
from tle.heads.gram import Moments, decompose_symmetric, measure_moments
from tle.heads.params import Params
from tle.heads.samples import Samples, Task
from tle.heads.scaler import Scaler
from tle.heads.sweep import Attempt, Refit, score_samples
from tle.heads.threads import blas_threads
from tle.heads.words import is_standard, one_of

PARAMS = ("shrinkage", "priors", "scaler")
TARGETS = (Target.CLASS,)
AUTO = "auto"
# Denser towards 0, where a large n wants to be; `auto` last, as the one that is not known beforehand.
GRID: tuple[float | str, ...] = (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4, AUTO)
PRIORS = ("empirical", "uniform")


@dataclass(frozen=True, slots=True)
class Discriminant:
    """What every shrinkage shares.

    Attributes:
        scaler: what stands before the layer.
        means_PD: float64 (P, D), class means of standardised features.
        vectors_DD: eigenvectors of S_W.
        values_D: its eigenvalues, none negative.
        present_P: classes that have samples.
        shares_P: their share of the samples.
        n_classes: C.
    """

    scaler: Scaler
    means_PD: NDArray[np.float64]
    vectors_DD: NDArray[np.float64]
    values_D: NDArray[np.float64]
    present_P: NDArray[np.int64]
    shares_P: NDArray[np.float64]
    n_classes: int

    def layer(self, shrinkage: float, priors: str) -> Affine:
        """The layer of one shrinkage.

        Raises:
            HeadError: the covariance is zero: within each class all pictures are the same.
        """
        shrunk_D = (1.0 - shrinkage) * self.values_D + shrinkage * self.values_D.mean()
        if not shrunk_D.min() > 0:
            raise HeadError(
                f"the covariance within classes cannot be inverted at shrinkage {shrinkage:g} "
                f"(least eigenvalue {shrunk_D.min():.1e}): the pictures of a class hardly differ, or raise shrinkage"
            )
        with blas_threads(self.vectors_DD.size * len(self.means_PD)):
            projected_PD = self.means_PD @ self.vectors_DD
            weight_PD = (projected_PD / shrunk_D) @ self.vectors_DD.T
        prior_P = self.shares_P if priors == PRIORS[0] else np.full_like(self.shares_P, 1.0 / len(self.shares_P))
        bias_P = np.log(prior_P) - 0.5 * np.einsum("pd,pd->p", weight_PD, self.means_PD)
        weight_PD, bias_P = self.scaler.fold(weight_PD, bias_P)
        return make_affine(*embed_classes(weight_PD, bias_P, self.present_P, self.n_classes), Link.SOFTMAX)


def attempts(task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
    """Every shrinkage from one decomposition, the strongest first.

    Raises:
        UsageError: a setting out of range.
    """
    grid, priors = _grid(params), one_of(params, "priors", PRIORS)
    shared = discriminate(task, train, standard=is_standard(params))
    for shrinkage in grid:
        value = ledoit_wolf(train, shared) if isinstance(shrinkage, str) else shrinkage
        layer = shared.layer(value, priors)
        yield Attempt(
            settings={"shrinkage": shrinkage},
            scores=score_samples(layer, val, task.outputs),
            details={"shrinkage_used": value} if isinstance(shrinkage, str) else {},
            model=layer,
        )


def default_settings(params: Params) -> dict[str, Any]:
    """The shrinkage that was given, or else Ledoit and Wolf's, which needs nothing to choose by.

    Raises:
        HeadError: several values were given.
    """
    grid = _grid(params)
    if "shrinkage" in params.values and len(grid) > 1:
        raise HeadError(
            f"{len(grid)} values of shrinkage were given and no validation pictures to choose by: give one, or auto"
        )
    return {"shrinkage": grid[0] if "shrinkage" in params.values else AUTO}


def refit(
    task: Task,
    params: Params,
    samples: Samples,
    settings: Mapping[str, Any],
    carried: Sequence[Mapping[str, Any]],  # noqa: ARG001 - nothing is carried
    n_tried_on: int,  # noqa: ARG001 - the shrinkage is a share already
) -> Refit:
    """The last fit; see `tle.heads.sweep.Kind`."""
    shared = discriminate(task, samples, standard=is_standard(params))
    shrinkage = settings["shrinkage"]
    value = ledoit_wolf(samples, shared) if isinstance(shrinkage, str) else float(shrinkage)
    priors = one_of(params, "priors", PRIORS)
    details = {"shrinkage_used": value, "priors": priors}
    return Refit(model=shared.layer(value, priors), details=details, notes=shared.scaler.notes, packages=("scipy",))


def discriminate(task: Task, samples: Samples, *, standard: bool) -> Discriminant:
    """One pass and one eigendecomposition."""
    moments = measure_moments(samples, Target.CLASS, task.outputs, scatter=True)
    scaler = moments.scaler(standard=standard)
    present_P = np.flatnonzero(moments.counts())
    within_DD = _within(moments, present_P) / len(samples)
    within_DD /= scaler.scale_D
    within_DD /= scaler.scale_D[:, None]
    values_D, vectors_DD = decompose_symmetric(within_DD)
    means_PD = moments.class_means(present_P) / scaler.scale_D
    shares_P = moments.target_mean_K[present_P]
    return Discriminant(scaler, means_PD, vectors_DD, values_D, present_P, shares_P, task.outputs)


def _within(moments: Moments, present_P: NDArray[np.int64]) -> NDArray[np.float64]:
    """The scatter within classes: what the class means leave of all."""
    assert moments.scatter_DD is not None  # noqa: S101 - the caller asks for it; for the type checker
    sums_PD = moments.cross_KD[present_P]
    scaled_PD = sums_PD / np.sqrt(moments.counts()[present_P, None])
    between_DD: NDArray[np.float64] = scaled_PD.T @ scaled_PD
    return moments.scatter_DD - between_DD


def ledoit_wolf(samples: Samples, shared: Discriminant) -> float:
    """The shrinkage of least expected squared error, at least 1e-6 so that the covariance stays invertible.

    s = min(b, d) / d with d = |S_W - mu I|^2 / D and b = (1/n sum_i |z_i - m_{y_i}|^4 - |S_W|^2) / (n D).
    """
    n, dim = len(samples), samples.dim
    mu, squares = shared.values_D.mean(), float(np.square(shared.values_D).sum())
    row_of = np.zeros(shared.n_classes, np.int64)
    row_of[shared.present_P] = np.arange(len(shared.present_P))
    fourth = 0.0
    for positions, x_BD in samples.blocks():
        z_BD = shared.scaler.apply(x_BD)
        z_BD -= shared.means_PD[row_of[samples.labels[positions]]]
        fourth += float(np.square(np.einsum("bd,bd->b", z_BD, z_BD)).sum())
    spread = squares / dim - mu**2
    error = (fourth / n - squares) / (n * dim)
    return float(np.clip(error / spread, 1e-6, 1.0)) if spread > 0 else 1.0


def _grid(params: Params) -> tuple[float | str, ...]:
    """Shrinkages, the strongest first and `auto` last."""
    given = params.values.get("shrinkage", GRID)
    items = list(given) if isinstance(given, list | tuple) else [given]
    numbers = [item for item in items if item != AUTO]
    values: tuple[float, ...] = ()
    if numbers or not items:
        values = Params(params.head, {"shrinkage": numbers}).numbers("shrinkage", ())
    if values and values[-1] > 1:
        raise UsageError(f"parameter shrinkage of head {params.head} takes {AUTO} or a number above 0 and at most 1, got "
                         f"{values[-1]!r}")  # fmt: skip
    return (*values[::-1], *((AUTO,) if AUTO in items else ()))
