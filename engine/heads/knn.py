"""Weighted k nearest neighbours by cosine similarity.

# B queries of a block, N bank rows, D feature dim, C classes, K neighbours

    s_j = cos(x, bank_j)    of the K nearest rows
    w_j = exp(s_j / T) / sum_i exp(s_i / T)
    score = sum_j w_j label_j       label: one-hot class, 0/1 indicators, or a value

T is 0.07 unless it is given; k is chosen on validation data (T too where several are given), all from one search.

Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4; the
grid of k as in the evaluations of DINO and DINOv2.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError
from tle.heads.params import Params
from tle.heads.samples import Samples, Task
from tle.heads.sweep import Attempt, Refit, sole_value
from tle.kernels.topk import topk_similarity

PARAMS = ("k", "temperature")
TARGETS = (Target.CLASS, Target.MULTILABEL, Target.REGRESSION)
GRID = (10, 20, 100, 200)
DEFAULT_K = 20
TEMPERATURE = 0.07


def normalise(x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length, float32; a row of zeros stays so, and is equally unlike everything."""
    norm_N1 = np.sqrt(np.square(x_ND, dtype=np.float64).sum(axis=1, keepdims=True))
    norm_N1[norm_N1 == 0] = 1.0
    unit_ND: NDArray[np.float32] = (x_ND / norm_N1).astype(np.float32)
    return unit_ND


@dataclass(frozen=True, slots=True)
class Knn:
    """A bank of labelled features.

    Attributes:
        bank_ND: (N, D) float16 or float32, rows of unit length.
        labels: (N,) int64, (N, C) uint8 or (N,) float32.
        k: neighbours that vote, at most N.
        temperature: T.
        target: what the labels are.
        outputs: columns of the scores: C, or 1 for regression.
    """

    bank_ND: NDArray[Any]
    labels: NDArray[Any]
    k: int
    temperature: float
    target: Target
    outputs: int

    def scores(self, x_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 (B, C) probabilities, or (B, 1) values for regression."""
        return self.vote(*topk_similarity(normalise(x_BD), self.bank_ND, self.k))

    def vote(self, sims_BK: NDArray[np.float32], neighbours_BK: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores from the neighbours and their similarities."""
        weight_BK = np.exp((sims_BK - sims_BK.max(axis=1, keepdims=True)).astype(np.float64) / self.temperature)
        weight_BK /= weight_BK.sum(axis=1, keepdims=True)
        scores_BC = np.zeros((len(sims_BK), self.outputs))
        rows_B = np.arange(len(sims_BK))
        for rank in range(sims_BK.shape[1]):  # one neighbour at a time: (B, K, C) is never held
            label = self.labels[neighbours_BK[:, rank]]
            if self.target is Target.CLASS:
                scores_BC[rows_B, label] += weight_BK[:, rank]
            else:
                scores_BC += weight_BK[:, rank, None] * label.reshape(len(label), -1)
        if self.target is not Target.REGRESSION:
            scores_BC.clip(0.0, 1.0, out=scores_BC)  # sums of weights may pass 1 by a rounding error
        return scores_BC.astype(np.float32)

    def record(self) -> dict[str, Any]:
        """What `load` needs beside the tensors."""
        return {"type": "knn", "k": self.k, "temperature": self.temperature}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Arrays to be stored."""
        return {"bank": self.bank_ND, "labels": self.labels}

    def files(self) -> dict[str, bytes]:
        """Further files to be stored: none."""
        return {}

    @classmethod
    def load(
        cls, record: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], *, target: Target, outputs: int, dim: int
    ) -> Self:
        """Read back what `record` and `tensors` wrote.

        Raises:
            HeadError: a tensor or setting is missing or does not fit.
        """
        bank_ND, labels = tensors.get("bank"), tensors.get("labels")
        k, temperature = record.get("k"), record.get("temperature")
        if (
            bank_ND is None
            or bank_ND.ndim != 2
            or bank_ND.shape[1] != dim
            or bank_ND.dtype not in (np.float16, np.float32)
        ):
            raise HeadError(f"expected a tensor 'bank' of shape (N, {dim}), float16 or float32")
        shape = (len(bank_ND), outputs) if target is Target.MULTILABEL else (len(bank_ND),)
        kind = {Target.CLASS: np.int64, Target.MULTILABEL: np.uint8}.get(target, np.float32)
        if labels is None or labels.shape != shape or labels.dtype != kind:
            raise HeadError(f"expected a tensor 'labels' of shape {shape}, {np.dtype(kind)}")
        if target is Target.CLASS and len(labels) and not 0 <= labels.min() <= labels.max() < outputs:
            raise HeadError(f"expected labels from 0 to {outputs - 1}, found {labels.min()} to {labels.max()}")
        if not isinstance(k, int) or not 1 <= k <= len(bank_ND):
            raise HeadError(f"expected k from 1 to {len(bank_ND)}, found {k!r}")
        if not isinstance(temperature, int | float) or not 0 < temperature < np.inf:
            raise HeadError(f"expected a temperature above 0, found {temperature!r}")
        return cls(bank_ND, labels, k, float(temperature), target, outputs)


def attempts(task: Task, params: Params, train: Samples, val: Samples) -> Iterator[Attempt]:
    """Every k and temperature from one search, the most neighbours and the flattest weights first.

    Raises:
        UsageError: a setting out of range.
    """
    ks, temperatures = _ks(params, len(train)), params.numbers("temperature", (TEMPERATURE,))[::-1]
    model = _make(task, train, min(ks[0], len(train)), TEMPERATURE)
    found = [topk_similarity(normalise(x_BD), model.bank_ND, model.k) for _, x_BD in val.blocks()]
    sims_NK = np.concatenate([values_BK for values_BK, _ in found])
    neighbours_NK = np.concatenate([indices_BK for _, indices_BK in found])
    for k in ks:
        for temperature in temperatures:
            voting = replace(model, k=min(k, len(train)), temperature=temperature)
            yield Attempt(
                settings={"k": k, "temperature": temperature},
                scores=voting.vote(sims_NK[:, : voting.k], neighbours_NK[:, : voting.k]),
                carry={"k": voting.k},
                model=voting,
                notes=_too_many(params, len(train)),
            )


def default_settings(params: Params) -> dict[str, Any]:
    """The k and temperature that were given, or else 20 and 0.07.

    Raises:
        HeadError: several values were given.
    """
    ks, temperatures = params.integers("k", GRID), params.numbers("temperature", (TEMPERATURE,))
    return {
        "k": int(sole_value("k", ks, "k" in params.values, DEFAULT_K)),
        "temperature": sole_value("temperature", temperatures, "temperature" in params.values, TEMPERATURE),
    }


def refit(
    task: Task,
    params: Params,
    samples: Samples,
    settings: Mapping[str, Any],
    carried: Sequence[Mapping[str, Any]],
    n_tried_on: int,  # noqa: ARG001 - k is kept: it says how local the vote is
) -> Refit:
    """The bank of all samples; never more neighbours than voted in the attempts."""
    k = min(max((int(carry["k"]) for carry in carried), default=int(settings["k"])), len(samples))
    temperature = float(settings["temperature"])
    notes = () if carried else _too_many(params, len(samples))
    details = {"k": k, "temperature": temperature}
    return Refit(model=_make(task, samples, k, temperature), details=details, notes=notes, packages=())


def _ks(params: Params, n: int) -> tuple[int, ...]:
    """What is tried, descending: of several k that all mean every picture only the least."""
    wanted = params.integers("k", GRID)
    return tuple(k for index, k in enumerate(wanted) if index == 0 or wanted[index - 1] < n)[::-1]


def _too_many(params: Params, n: int) -> tuple[str, ...]:
    most = params.integers("k", GRID)[-1]
    if "k" not in params.values or most <= n:
        return ()
    return (f"k = {most} is more than the {n} train pictures: all of them vote",)


def _make(task: Task, samples: Samples, k: int, temperature: float) -> Knn:
    bank_ND = np.empty((len(samples), samples.dim), samples.features.dtype)
    for positions, x_BD in samples.blocks():
        bank_ND[positions] = normalise(x_BD)
    return Knn(bank_ND, samples.labels, k, temperature, task.target, task.outputs)
