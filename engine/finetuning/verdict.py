"""Did fine-tuning win? The trained network against the frozen head, on the same validation pictures.

# n pictures, K outputs
"""

from typing import Any

import numpy as np

from tle.bootstrap import COUNTED, is_right, percentile_interval, resample_figures, sign_test
from tle.enums import Target
from tle.finetuning.scoring import Scored
from tle.heads.figures import LOWER_IS_BETTER, measure_figures


def judge(head: Scored, tuned: Scored, *, target: Target, metric: str, keep: str, seed: int) -> dict[str, Any]:
    """Compare the two, and say which to keep.

    The difference is noise as long as it is within one standard error: of a figure that counts right answers, the one that
    it would have if the two were equally good, sqrt(pictures that changed) / n (McNemar), by which a single picture is never
    a win; of others its own, by a paired bootstrap over the pictures. The best of several epochs is chosen on these very
    pictures, which flatters it a little more.

    Args:
        head: scores before any step.
        tuned: scores of the epoch that would be kept.
        target: what the labels are.
        metric: see `tle.heads.figures`.
        keep: "best" lets the head win; anything else keeps what was trained.
        seed: seed of the bootstrap.

    Returns:
        kept ("head" or "finetuned"), metric, head, finetuned, difference (positive where fine-tuning is better), its
        standard error and 95 % interval, for accuracies p of the exact sign test, n.
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
    }
    won = False
    right = [is_right(metric, scores, labels) for scores in pair] if metric in COUNTED else None
    if values[0] is not None and values[1] is not None:
        resampled_RM = resample_figures(metric, target, pair, labels, seed=seed)
        difference_R = sign * (resampled_RM[:, 1] - resampled_RM[:, 0])
        difference = sign * (values[1] - values[0])
        error = float(np.nanstd(difference_R))
        won = bool(difference > error)
        if right is not None:
            gained, changed = int(right[1].sum()) - int(right[0].sum()), int((right[0] != right[1]).sum())
            error, won = changed**0.5 / len(common), gained > changed**0.5  # in whole numbers, so that ties are ties
        found |= {"difference": difference, "standard_error": error, "interval": percentile_interval(difference_R)}
    if right is not None:
        found["p"] = sign_test(*right)
    return {"kept": "finetuned" if won or keep != "best" else "head", "won": won, **found}


def describe_verdict(verdict: dict[str, Any]) -> str:
    """The verdict in a sentence."""
    metric, n = verdict["metric"], verdict["n"]
    if verdict["difference"] is None:
        return f"{metric} is not defined on the {n:,} validation pictures: nothing can be compared"
    figures = (
        f"{metric} {verdict['finetuned']:.4f} against {verdict['head']:.4f} of the frozen head on {n:,} validation pictures "
        f"(better by {verdict['difference']:+.4f}, standard error {verdict['standard_error']:.4f})"
    )
    if verdict["won"]:
        return f"fine-tuning won: {figures}"
    kept = "the head is kept" if verdict["kept"] == "head" else "it is kept all the same, as --keep says"
    return f"fine-tuning did not win by more than noise: {figures}; {kept}"
