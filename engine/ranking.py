"""Who is best, by how much, and how surely: models that were measured on the same pictures.

# n pictures, M models, K columns of the scores, R resamples
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.bootstrap import COUNTED, is_right, percentile_interval, probability_above, resample_figures, sign_test
from tle.enums import Target
from tle.errors import HeadError
from tle.heads.figures import LOWER_IS_BETTER, METRICS, measure_figures

ALPHA = 0.05  # of the sign test, as the intervals are of 95 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A model's place among others.

    Attributes:
        value: the metric on the pictures measured.
        interval: its 95 % bootstrap interval.
        behind: how much worse than the best, in the metric's unit; 0 for the best, never negative.
        behind_interval: its 95 % interval by the paired bootstrap; None for the best.
        behind_probability: part of the resamples in which the best is better; None for the best.
        sign_test_p: p of the exact sign test against the best; None for the best, and for metrics that count no pictures.
        told_apart: whether the best is better beyond doubt: the interval excludes 0, and p is at most 0.05.
    """

    value: float
    interval: list[float] | None
    behind: float = 0.0
    behind_interval: list[float] | None = None
    behind_probability: float | None = None
    sign_test_p: float | None = None
    told_apart: bool = False


def rank_models(
    scores: Sequence[NDArray[np.float32]], labels: NDArray[Any], target: Target, metric: str, *, seed: int = 0
) -> list[tuple[int, Standing]]:
    """Models by a metric, the best first; equal ones by a second figure, then as they were given.

    Args:
        scores: of each of M models, (n, K), for the same pictures.
        labels: of the n pictures.
        target: what the labels are.
        metric: one of `METRICS` of the target.
        seed: seed of the bootstrap.

    Returns:
        (index into `scores`, standing) of each.

    Raises:
        HeadError: the metric is not defined on these pictures.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    known = METRICS[target]
    second = known[-1] if metric != known[-1] else known[0]
    second_sign = -1.0 if second in LOWER_IS_BETTER else 1.0
    measured = [measure_figures(target, (metric, second), scores_NK, labels) for scores_NK in scores]
    values, others = ([figures[name].value for figures in measured] for name in (metric, second))
    if any(value is None for value in values):
        raise HeadError(
            f"{metric} is not defined on these {len(labels)} pictures: measure on others, or take another metric (--metric)"
        )
    values_M = sign * np.array(values, np.float64)
    others_M = second_sign * np.array([value or 0.0 for value in others])
    order = sorted(range(len(scores)), key=lambda model: (-values_M[model], -others_M[model], model))
    values_RM = sign * resample_figures(metric, target, scores, labels, seed=seed)
    best, ranked = order[0], []
    for model in order:
        found = Standing(value=float(sign * values_M[model]), interval=percentile_interval(sign * values_RM[:, model]))
        if model != best:
            behind_R, p = values_RM[:, best] - values_RM[:, model], None
            if metric in COUNTED:
                p = sign_test(*(is_right(metric, scores[which], labels) for which in (best, model)))
            interval = percentile_interval(behind_R)
            found = Standing(
                value=found.value,
                interval=found.interval,
                behind=float(values_M[best] - values_M[model]),
                behind_interval=interval,
                behind_probability=probability_above(behind_R),
                sign_test_p=p,
                told_apart=interval is not None and interval[0] > 0 and (p is None or p <= ALPHA),
            )
        ranked.append((model, found))
    return ranked


def show_figure(metric: str, value: float) -> str:
    """A value of a metric for people: percent for what lies between 0 and 1, else four digits."""
    return f"{value:.4g}" if _is_raw(metric) else f"{round(100 * value, 1) + 0.0:.1f}"  # + 0.0: never "-0.0"


def give_verdict(ranked: Sequence[tuple[str, Standing]], metric: str, n: int) -> str:
    """Which backbone, in one line: the best is better than the rest, or cannot be told apart from some of it.

    Args:
        ranked: names and standings of at least two, the best first.
        metric: what they are sorted by.
        n: pictures measured.
    """
    best = ranked[0][0]
    unit = "" if _is_raw(metric) else " points"
    unit += "" if metric == "accuracy" else f" of {metric}"

    def margin(standing: Standing) -> str:
        low, high = standing.behind_interval or (np.nan, np.nan)
        behind, low_text, high_text = (show_figure(metric, value) for value in (standing.behind, low, high))
        return f"{behind}{unit} (95 %: {low_text} to {high_text})"

    near = [(name, standing) for name, standing in ranked[1:] if not standing.told_apart]
    far = [(name, standing) for name, standing in ranked[1:] if standing.told_apart]
    if not near:
        more = f", and still more so than {_listed(name for name, _ in far[1:])}" if far[1:] else ""
        return f"{best} is better than {far[0][0]} by {margin(far[0][1])}{more}"
    names = _listed([best, *(name for name, _ in near)])
    clear = f"; {best} is better than {_listed(name for name, _ in far)}" if far else ""
    return (
        f"{names} cannot be told apart on these {n:,} pictures: {near[0][0]} is behind by {margin(near[0][1])}{clear}"
    )


def _is_raw(metric: str) -> bool:
    """Whether a metric is no part of 1, to be shown as it is."""
    return metric in LOWER_IS_BETTER or metric == "r2"


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
