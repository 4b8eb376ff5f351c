"""The nearest class mean, as probabilities: the cheapest head there is, and a hard one to beat with few pictures.

# n samples, B rows of a block, D feature dim, C classes, P classes present in the fit

    cosine:     logit_k = cos(x, m_k) / T              m_k: mean of the unit vectors of class k
    euclidean:  logit_k = -|z - m_k|^2 / (2 T)         z: standardised features; the |z|^2 is common to all and drops out

The Euclidean form is linear in x and is saved as a layer. The cosine one is a vote of all class means, so it is saved as
the neighbours that it is: a bank of P rows.

T is fitted on validation pictures. Without any it is fitted on the samples themselves, each measured against the mean of
its class without it, which is exact and costs nothing: m_k without x is (n_k m_k - x) / (n_k - 1).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import UsageError
from tle.heads.affine import Affine, Link, embed_classes, make_affine
from tle.heads.gram import measure_moments, target_sums
from tle.heads.knn import Knn, normalise
from tle.heads.params import Params
from tle.heads.samples import Samples, Task
from tle.heads.scaler import Scaler
from tle.heads.sweep import Attempt, Model, Refit, score_samples
from tle.heads.temperature import fit_temperature

PARAMS = ("metric",)
TARGETS = (Target.CLASS,)
METRICS = ("cosine", "euclidean")


class Prototypes:
    """Class means in the space of one metric.

    Attributes:
        metric: one of `METRICS`.
        present_P: classes that have samples.
        scaler: what stands before the Euclidean distance; None for the cosine.
    """

    def __init__(self, task: Task, samples: Samples, metric: str) -> None:
        self.metric, self._outputs = metric, task.outputs
        self.scaler: Scaler | None = None
        counts_C = np.bincount(samples.labels, minlength=task.outputs)
        self.present_P = np.flatnonzero(counts_C)
        self._counts_P = counts_C[self.present_P].astype(np.float64)
        if metric == "euclidean":
            moments = measure_moments(samples, Target.CLASS, task.outputs, scatter=False)
            self.scaler = moments.scaler(standard=True)
            self._means_PD = moments.class_means(self.present_P) / self.scaler.scale_D
        else:
            sums_CD = np.zeros((task.outputs, samples.dim))
            for positions, x_BD in samples.blocks():
                unit_BD = normalise(x_BD).astype(np.float64)
                sums_CD += target_sums(samples.labels[positions], unit_BD, Target.CLASS, task.outputs)
            self._means_PD = sums_CD[self.present_P] / self._counts_P[:, None]

    def model(self, temperature: float) -> Model:
        """The head of one temperature."""
        if self.scaler is None:
            bank_PD = normalise(self._means_PD.astype(np.float32))
            n = len(bank_PD)
            return Knn(bank_PD, self.present_P.astype(np.int64), n, temperature, Target.CLASS, self._outputs)
        return self._layer(temperature)

    def logits(self, x_BD: NDArray[np.float32], own_B: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Logits at T = 1, float64 (B, P).

        Args:
            x_BD: raw features.
            own_B: for samples of the fit, which of the P classes is their own: its mean is taken without them. The only
                sample of a class gets minus infinity there.
        """
        z_BD = normalise(x_BD).astype(np.float64) if self.scaler is None else self.scaler.apply(x_BD)
        dot_BP = z_BD @ self._means_PD.T
        square_B, square_P = np.einsum("bd,bd->b", z_BD, z_BD), np.einsum("pd,pd->p", self._means_PD, self._means_PD)
        rows_B = np.arange(len(z_BD))
        if self.scaler is None:
            length_BP = np.broadcast_to(np.sqrt(square_P), dot_BP.shape).copy()
            if own_B is not None:
                n_B, own_dot_B = self._counts_P[own_B], dot_BP[rows_B, own_B]
                rest_B = np.maximum(n_B - 1, 1)
                dot_BP[rows_B, own_B] = (n_B * own_dot_B - square_B) / rest_B
                square_rest_B = n_B**2 * square_P[own_B] - 2 * n_B * own_dot_B + square_B
                length_BP[rows_B, own_B] = np.sqrt(square_rest_B.clip(0)) / rest_B
            logits_BP = dot_BP / np.where(length_BP > 0, length_BP, 1.0)
        else:
            logits_BP = dot_BP - 0.5 * square_P - 0.5 * square_B[:, None]
            if own_B is not None:
                n_B = self._counts_P[own_B]
                logits_BP[rows_B, own_B] *= (n_B / np.maximum(n_B - 1, 1)) ** 2
        if own_B is not None:
            alone_B = self._counts_P[own_B] == 1
            logits_BP[rows_B[alone_B], own_B[alone_B]] = -np.inf
        return logits_BP

    def fit_temperature(self, samples: Samples, *, fitted: bool) -> float:
        """T of the least cross-entropy on samples; `fitted` where the means were made of these very samples."""
        logits_NP = np.empty((len(samples), len(self.present_P)))
        for positions, x_BD in samples.blocks():
            own_B = np.searchsorted(self.present_P, samples.labels[positions]) if fitted else None
            logits_NP[positions] = self.logits(x_BD, own_B)
        usable = np.isfinite(logits_NP).all(axis=1)
        return fit_temperature(logits_NP[usable], samples.labels[usable], Target.CLASS, self.present_P)

    def _layer(self, temperature: float) -> Affine:
        assert self.scaler is not None  # noqa: S101 - the caller has looked; for the type checker
        weight_PD = self._means_PD / temperature
        bias_P = -0.5 * np.einsum("pd,pd->p", weight_PD, self._means_PD)
        folded = self.scaler.fold(weight_PD, bias_P)
        return make_affine(*embed_classes(*folded, self.present_P, self._outputs), Link.SOFTMAX)


def attempts(task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
    """Both metrics, or the one that was given.

    Raises:
        UsageError: an unknown metric.
    """
    for metric in _metrics(params):
        prototypes = Prototypes(task, train, metric)
        temperature = prototypes.fit_temperature(val, fitted=False)
        model = prototypes.model(temperature)
        yield Attempt(
            settings={"metric": metric},
            scores=score_samples(model, val, task.outputs),
            carry={"temperature": temperature},
            model=model,
        )


def default_settings(params: Params) -> dict[str, Any]:
    """The metric that was given, or else the cosine."""
    return {"metric": _metrics(params)[0]}


def refit(
    task: Task,
    params: Params,  # noqa: ARG001 - the metric is in the settings
    samples: Samples,
    settings: Mapping[str, Any],
    carried: Sequence[Mapping[str, Any]],
    n_tried_on: int,  # noqa: ARG001 - nothing here depends on it
) -> Refit:
    """The last fit; see `tle.heads.sweep.Kind`."""
    prototypes = Prototypes(task, samples, str(settings["metric"]))
    notes = () if prototypes.scaler is None else prototypes.scaler.notes
    if carried:
        temperature = float(np.exp(np.mean([np.log(float(carry["temperature"])) for carry in carried])))
    else:
        temperature = prototypes.fit_temperature(samples, fitted=True)
        notes += ("the temperature was fitted on train, each picture against its class without it",)
    details = {"temperature": temperature}
    return Refit(model=prototypes.model(temperature), details=details, notes=notes, packages=("scipy",))


def _metrics(params: Params) -> tuple[str, ...]:
    given = params.values.get("metric", METRICS)
    items = tuple(given) if isinstance(given, list | tuple) else (given,)
    for item in items:
        if item not in METRICS:
            raise UsageError(f"parameter metric of head {params.head} is {' or '.join(METRICS)}, got {item!r}")
    return tuple(metric for metric in METRICS if metric in items)
