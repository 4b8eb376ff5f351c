"""Did fine-tuning win? The trained network against the frozen head, on the same validation pictures.

# n pictures, K outputs
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.bootstrap import COUNTED, is_right, percentile_interval, resample_figures, sign_test
from tle.enums import Target
from tle.finetuning.scoring import Scored
from tle.heads.affine import Link, apply_link
from tle.heads.figures import LOWER_IS_BETTER, measure_figures
from tle.heads.temperature import fit_temperature

# Figures that only see the likeliest class, and so little of a few hundred pictures.
_COARSE = COUNTED | {"balanced_accuracy", "macro_f1"}
# Standard errors that a difference must exceed. With one, the best of five epochs that are all as good as the head would win
# in a third to a half of all cases, with two in one of twenty (simulated, 200 pictures).
_ERRORS = 2.0
_LEAST_P = 1e-30
_ROUNDING = 1e-5  # of the mean of float32 probabilities, with room


def judge(head: Scored, tuned: Scored, *, target: Target, metric: str, keep: str, seed: int) -> dict[str, Any]:
    """Compare the two, and say which to keep.

    The difference is noise as long as it is within two standard errors: of a figure that counts right answers, the one that
    it would have if the two were equally good, sqrt(pictures that changed) / n (McNemar), by which few pictures are never
    a win; of others its own, by a paired bootstrap over the pictures. The best of several epochs is chosen on these very
    pictures, which flatters it a little more.

    Few pictures hardly tell two accuracies apart. Where that of fine-tuning is at least as high, but not by more than noise,
    the probability that the true class is given decides, in which every picture has a say, and an outlier no more than one.
    Each side first gets the temperature of the least log-loss, so that being more or less sure of oneself is no merit. On 1,200
    pictures of Fashion-MNIST, where fine-tuning gained 2.3 points, the difference was 8.5 standard errors; that of the
    log-loss 5.9.

    Args:
        head: scores before any step.
        tuned: scores of the epoch that would be kept.
        target: what the labels are.
        metric: see `tle.heads.figures`.
        keep: "best" lets the head win; anything else keeps what was trained.
        seed: seed of the bootstrap.

    Returns:
        kept ("head" or "finetuned"), metric, head, finetuned, difference (positive where fine-tuning is better), its
        standard error and 95 % interval, for accuracies p of the exact sign test, n; decided_by, the figure that was told
        apart, None where none was; truth, where it was looked at: the mean probability of the true class of both, the
        difference and its standard error.
    """
    common, ours, theirs = np.intersect1d(head.rows, tuned.rows, assume_unique=True, return_indices=True)
    labels, pair = tuned.labels[theirs], (head.scores[ours], tuned.scores[theirs])
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    values = [measure_figures(target, [metric], scores, labels)[metric].value for scores in pair]
    found: dict[str, Any] = {
        "metric": metric,
        "head": values[0],
        "finetuned": values[1],
        "difference": None,
        "standard_error": None,
        "interval": None,
        "p": None,
        "n": len(common),
        "decided_by": None,
        "truth": None,
    }
    won = False
    right = [is_right(metric, scores, labels) for scores in pair] if metric in COUNTED else None
    if values[0] is not None and values[1] is not None:
        resampled_RM = resample_figures(metric, target, pair, labels, seed=seed)
        difference_R = sign * (resampled_RM[:, 1] - resampled_RM[:, 0])
        difference = sign * (values[1] - values[0])
        error = float(np.nanstd(difference_R))
        won = bool(difference > _ERRORS * error)
        if right is not None:
            gained, changed = int(right[1].sum()) - int(right[0].sum()), int((right[0] != right[1]).sum())
            error, won = (
                changed**0.5 / len(common),
                gained > _ERRORS * changed**0.5,
            )  # in whole numbers, so that ties are ties
        found |= {"difference": difference, "standard_error": error, "interval": percentile_interval(difference_R)}
    if right is not None:
        found["p"] = sign_test(*right)
    if won:
        found["decided_by"] = metric
    elif target is Target.CLASS and metric in _COARSE and len(common) > 1 and (found["difference"] or 0) >= 0:
        found["truth"] = truth = _compare_truth(*pair, labels)
        if won := bool(truth["difference"] > max(_ERRORS * truth["standard_error"], _ROUNDING)):
            found["decided_by"] = "truth"
    return {"kept": "finetuned" if won or keep != "best" else "head", "won": won, **found}


def _compare_truth(
    head_nC: NDArray[np.float32], tuned_nC: NDArray[np.float32], labels_n: NDArray[np.int64]
) -> dict[str, float]:
    """Mean probability of the true class of both at their best temperatures, the difference and its standard error."""
    given = []
    for scores_nC in (head_nC, tuned_nC):
        logits_nC = np.log(np.maximum(scores_nC, _LEAST_P))
        t = fit_temperature(logits_nC, labels_n, Target.CLASS, np.arange(scores_nC.shape[1]))
        scores_nC = apply_link((logits_nC / t).astype(np.float32), Link.SOFTMAX)
        given.append(scores_nC[np.arange(len(labels_n)), labels_n].astype(np.float64))
    difference_n = given[1] - given[0]
    return {
        "head": float(given[0].mean()),
        "finetuned": float(given[1].mean()),
        "difference": float(difference_n.mean()),
        "standard_error": float(difference_n.std(ddof=1) / np.sqrt(len(labels_n))),
    }


def describe_verdict(verdict: dict[str, Any]) -> str:
    """The verdict in a sentence."""
    metric, n = verdict["metric"], verdict["n"]
    if verdict["difference"] is None:
        kept = "the head" if verdict["kept"] == "head" else "what was trained"
        return f"{metric} is not defined on the {n:,} validation pictures: nothing can be compared, and {kept} is kept"
    figures = (
        f"{metric} {verdict['finetuned']:.4f} against {verdict['head']:.4f} of the frozen head on {n:,} validation pictures "
        f"(better by {verdict['difference']:+.4f}, standard error {verdict['standard_error']:.4f})"
    )
    if verdict["truth"] is not None:
        truth = verdict["truth"]
        figures += (
            f"; probability of the true class {truth['finetuned']:.4f} against {truth['head']:.4f}, both at their best "
            f"temperature (better by {truth['difference']:+.4f}, standard error {truth['standard_error']:.4f})"
        )
    if verdict["won"]:
        return f"fine-tuning won: {figures}"
    kept = "the head is kept" if verdict["kept"] == "head" else "it is kept all the same, as --keep says"
    return f"fine-tuning did not win by more than noise: {figures}; {kept}"
