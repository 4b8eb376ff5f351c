"""One number that turns scores into probabilities.

# n validation samples, K outputs

    softmax:  p_nK = softmax(s_nK / T)
    sigmoid:  p_nK = sigmoid(s_nK / T)

T minimises the cross-entropy on validation data. The targets are smoothed by a = 1 / (n + 2), so that a validation set
without an error, on which T would run to zero, still gives probabilities that n pictures can vouch for.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2; the smoothing follows Platt 1999,
"Probabilistic Outputs for Support Vector Machines", section 2.2.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target

_LOG_T_RANGE = (-12.0, 12.0)  # six decades either way: scores of any usual size


def fit_temperature(
    scores_NK: NDArray[np.floating[Any]], labels: NDArray[Any], target: Target, columns_K: NDArray[np.int64]
) -> float:
    """The temperature of the least cross-entropy.

    Args:
        scores_NK: (n, K) uncalibrated scores; for multi-label 0 is the threshold.
        labels: (n,) class indices, or (n, C) 0/1 indicators.
        target: CLASS or MULTILABEL.
        columns_K: (K,) ascending, the classes or labels that the columns of the scores belong to. Pictures of other
            classes, which no temperature can help, are passed over.

    Returns:
        T above 0; 1 where no picture is left. In 1 / T the loss is convex, so the minimum is the only one.
    """
    from scipy.optimize import minimize_scalar

    scores_NK = np.asarray(scores_NK, np.float64)
    if target is Target.CLASS:
        known = np.isin(labels, columns_K)
        scores_NK, labels = scores_NK[known], np.searchsorted(columns_K, labels[known])
    else:
        labels = labels[:, columns_K]
    if not len(labels):
        return 1.0
    n, n_outputs = scores_NK.shape
    smoothing = 1.0 / (n + 2)
    if target is Target.CLASS:
        truth_NK = np.full((n, n_outputs), smoothing / n_outputs)
        truth_NK[np.arange(n), labels] += 1.0 - smoothing
    else:
        truth_NK = smoothing / 2 + (1.0 - smoothing) * np.asarray(labels, np.float64)

    def loss(log_t: float) -> float:
        logits_NK = scores_NK * np.exp(-log_t)
        if target is Target.CLASS:
            shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
            return float(np.log(np.exp(shifted_NK).sum(axis=1)).mean() - (truth_NK * shifted_NK).sum(axis=1).mean())
        # -t log sigmoid(z) - (1 - t) log sigmoid(-z) = log(1 + exp(z)) - t z
        return float((np.logaddexp(0.0, logits_NK) - truth_NK * logits_NK).mean())

    found = minimize_scalar(loss, bounds=_LOG_T_RANGE, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
