"""How far the probabilities of a head can be believed, and the one number that mends them.

# n validation pictures, K outputs, P outputs that the fit has seen

A temperature T is fitted on validation scores of the chosen setting, which was fitted without those pictures:
softmax(log p / T), for multi-label sigmoid(logit p / T). The exact optimum of a head's own objective stays what it is;
T is reported, and applied only on request.

T is fitted on all n pictures. What it does to NLL and ECE is measured by halves: T of one half on the other half, so that
no picture judges a temperature that it helped to choose.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.heads.affine import ABSENT_LOGIT, Affine, Link, apply_link, make_affine
from tle.heads.estimator import Estimator, log_probability
from tle.heads.samples import Task
from tle.heads.sweep import Model
from tle.heads.temperature import fit_temperature

# The smallest probability that a softmax of float32 logits gives. Votes and trees give zeros that mean "not seen", for
# which `tle.heads.estimator` has a floor.
_SOFTMAX_FLOOR = float(np.finfo(np.float32).tiny)
_LEAST = 4  # pictures: below, halves say nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A temperature and what it does on validation pictures.

    Attributes:
        source: "val" or "folds", which pictures it was fitted on; "head" where the kind of head fits one of its own.
        temperature: T; above 1 where the head is too sure.
        applied: whether the head that was saved has it.
        n: pictures.
        nll_before: mean negative log-likelihood of the scores as they are; None where `source` is "head".
        nll_after: the same with T, by halves.
        ece_before: expected calibration error of the scores as they are; for multi-label over all decisions.
        ece_after: the same with T, by halves.
    """

    source: str
    temperature: float
    applied: bool
    n: int
    nll_before: float | None = None
    nll_after: float | None = None
    ece_before: float | None = None
    ece_after: float | None = None

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def calibrate(
    task: Task,
    scores_NK: NDArray[np.float32],
    labels: NDArray[Any],
    columns_P: NDArray[np.int64],
    *,
    source: str,
    model: Model,
) -> Calibration | None:
    """Fit a temperature and measure it.

    Args:
        task: target and seed.
        scores_NK: probabilities of pictures that they were not fitted on.
        labels: their labels.
        columns_P: ascending, classes that were present in the fits.
        source: which pictures these are, for the record.
        model: the head after the last fit; its type says how small a probability can be.

    Returns:
        The temperature and the figures; None for regression, and for fewer than four pictures.
    """
    if task.target is Target.REGRESSION or len(labels) < _LEAST:
        return None
    floor = _SOFTMAX_FLOOR if isinstance(model, Affine) else None
    logits_NP = log_probability(scores_NK[:, columns_P], task.target, floor)
    half_N = np.random.default_rng(task.seed).permutation(len(labels)) % 2 == 0
    after_NK = scores_NK.copy()
    for own_N in (half_N, ~half_N):
        t = fit_temperature(logits_NP[own_N], labels[own_N], task.target, columns_P)
        after_NK[np.ix_(~own_N, columns_P)] = apply_link(
            (logits_NP[~own_N] / t).astype(np.float32), Link.of(task.target)
        )
    (nll_before, ece_before), (nll_after, ece_after) = (_figures(scores, labels) for scores in (scores_NK, after_NK))
    return Calibration(
        source=source,
        temperature=fit_temperature(logits_NP, labels, task.target, columns_P),
        applied=False,
        n=len(labels),
        nll_before=nll_before,
        nll_after=nll_after,
        ece_before=ece_before,
        ece_after=ece_after,
    )


def own_temperature(temperatures: Sequence[float], n: int) -> Calibration:
    """The record of a kind of head that fits a temperature itself: the geometric mean over folds."""
    return Calibration(source="head", temperature=float(np.exp(np.log(temperatures).mean())), applied=True, n=n)


def apply_temperature(model: Model, found: Calibration, kind: str) -> tuple[Model, Calibration, tuple[str, ...]]:
    """The head with the temperature folded in, or a note that this kind of head has no place for one."""
    t = found.temperature
    if isinstance(model, Affine):
        weight_KD, bias_K = model.weight_KD.astype(np.float64) / t, model.bias_K.astype(np.float64) / t
        # A class without a picture stays where nothing can choose it.
        absent = (model.bias_K == np.float32(ABSENT_LOGIT)) & ~model.weight_KD.any(axis=1)
        bias_K[absent & (model.link is Link.SOFTMAX)] = ABSENT_LOGIT
        tempered_layer = make_affine(weight_KD, bias_K, model.link, unit_rows=model.unit_rows)
        return tempered_layer, replace(found, applied=True), ()
    if isinstance(model, Estimator):
        tempered = replace(model, temperature=model.temperature * t)
        return tempered, replace(found, applied=True), ()
    return model, found, (f"a {kind} head has no place for a temperature: it is reported, not applied",)


def _figures(scores_NK: NDArray[np.float32], labels: NDArray[Any]) -> tuple[float, float]:
    """NLL and ECE; for multi-label every label of every picture is a decision of its own."""
    from tle.metrics import calibration_error, mean_nll

    nll = mean_nll(scores_NK, labels)
    if labels.ndim == 1:
        return nll, calibration_error(scores_NK, scores_NK.argmax(axis=1) == labels)
    p = scores_NK.ravel()
    return nll, calibration_error(np.stack([1 - p, p], axis=1), (p >= 0.5) == labels.ravel().astype(bool))
