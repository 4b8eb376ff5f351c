"""Weighted k nearest neighbours by cosine similarity.

# B queries of a block, N bank rows, D feature dim, C classes, K neighbours

    s_j = cos(x, bank_j)    of the K nearest rows
    w_j = exp(s_j / T) / sum_i exp(s_i / T)
    score = sum_j w_j label_j       label: one-hot class, 0/1 indicators, or a value

T is 0.07 unless it is given; k is chosen on validation data.

Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4; the
grid of k as in the evaluations of DINO and DINOv2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.errors import HeadError
from tle.heads.params import Params
from tle.heads.samples import Samples, Task
from tle.heads.sweep import Fitted, run_trials, sole_value
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


def fit(task: Task, params: Params) -> Fitted:
    """Choose k on validation data; the bank is train + val.

    Args:
        task: the samples.
        params: `k` (one or a list; more than there are pictures means all) and `temperature`.

    Returns:
        The bank, with the sweep.

    Raises:
        UsageError: a setting out of range.
        HeadError: several k and nothing to choose by.
    """
    wanted = params.integers("k", GRID)
    temperature = params.number("temperature", TEMPERATURE)
    notes: tuple[str, ...] = ()
    if "k" in params.values and max(wanted) > len(task.train):
        notes += (f"k = {max(wanted)} is more than the {len(task.train)} train pictures: all of them vote",)
    grid = tuple(sorted({min(k, len(task.train)) for k in wanted}))
    trials: list[dict[str, Any]] = []
    val_scores = None
    if len(task.val):
        model = _make(task, task.train, max(grid), temperature)
        queries = ((positions, normalise(x_BD)) for positions, x_BD in task.val.blocks())
        found = [topk_similarity(query_BD, model.bank_ND, model.k) for _, query_BD in queries]
        sims = np.concatenate([values for values, _ in found])
        neighbours = np.concatenate([indices for _, indices in found])

        def score(setting: Mapping[str, Any]) -> NDArray[np.float32]:
            return model.vote(sims[:, : setting["k"]], neighbours[:, : setting["k"]])

        best, trials = run_trials(task, [{"k": k} for k in grid], score)
        k, val_scores = int(best.settings["k"]), best.scores
    else:
        k = int(sole_value("k", grid, "k" in params.values, min(DEFAULT_K, len(task.train))))
    return Fitted(
        model=_make(task, task.both, k, temperature),
        chosen={"k": k, "temperature": temperature},
        trials=trials,
        val_scores=val_scores,
        notes=notes,
        packages=(),
    )


def _make(task: Task, samples: Samples, k: int, temperature: float) -> Knn:
    bank_ND = np.empty((len(samples), samples.dim), samples.features.dtype)
    for positions, x_BD in samples.blocks():
        bank_ND[positions] = normalise(x_BD)
    return Knn(bank_ND, samples.labels, k, temperature, task.target, task.outputs)
