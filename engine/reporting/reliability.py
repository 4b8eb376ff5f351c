"""Whether the classifier is as sure as it is right.

# N judgements: a picture, or of several labels a (picture, label) pair; B bins
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.metrics import ECE_BINS
from tle.reporting.numbers import percent
from tle.reporting.page import Section, facts, paragraph
from tle.reporting.subject import Subject
from tle.reporting.svg import HEIGHT, WIDTH, Frame, chart, element, tag

_Z = 1.959964  # of a 95 % interval
_PART = 120.0  # height of the counts below


@dataclass(frozen=True, slots=True)
class Bins:
    """Confidence against accuracy.

    Attributes:
        count: (B,) judgements in (low, high].
        confidence: (B,) their mean confidence; NaN in an empty bin.
        accuracy: (B,) share of them that is true; NaN in an empty bin.
        low: (B,) lower end of the 95 % interval of `accuracy` (Wilson).
        high: (B,) its upper end.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap, weighted by counts."""
        filled = self.count > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float((gaps * self.count[filled]).sum() / self.count.sum())


def reliability_bins(confidence_N: NDArray[np.float32], true_N: NDArray[np.bool_], bins: int = ECE_BINS) -> Bins:
    """Judgements by confidence, in bins (low, high] of equal width.

    Args:
        confidence_N: probabilities.
        true_N: whether what was given that probability is so.
        bins: B.

    Source: Guo et al. 2017, section 2; Wilson 1927 for the intervals.
    """
    confidence = confidence_N.astype(np.float64)
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    n = np.where(count > 0, count, np.nan)
    p = np.bincount(bin_of, true_N, minlength=bins) / n
    centre, spread = p + _Z**2 / (2 * n), _Z * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return Bins(count, np.bincount(bin_of, confidence, minlength=bins) / n, p, (centre - spread) / scale,
                (centre + spread) / scale)  # fmt: skip


def reliability(subject: Subject) -> Section:
    """The reliability diagram with its counts, and the calibration error."""
    if subject.target is Target.CLASS:
        confidence, true = subject.confidence, subject.predicted == subject.labels
        what, units = "the predicted class", "pictures"
    else:
        confidence, true = subject.scores.ravel(), subject.labels.astype(bool).ravel()
        what, units = "a label", "picture and label pairs"
    found = reliability_bins(confidence, true)
    mean, share = float(confidence.mean()), float(true.mean())
    gap = 100 * (mean - share)
    if abs(gap) < 0.05:
        words = "On average its probabilities are as high as they should be."
    else:
        words = f"On average it is {abs(gap):.1f} points {'surer' if gap > 0 else 'less sure'} than it should be."
    side = facts(
        [
            ("Calibration error (ECE)", percent(found.error)),
            ("Mean probability", percent(mean)),
            ("True", percent(share)),
        ]
    ) + paragraph(
        f"{words} The error is the mean distance from the diagonal over {len(found.count)} bins.", class_="soft"
    )
    drawn = element("div", _diagram(found, units))
    lead = (
        f"Among {units} where {what} is given a probability of 80 %, it should be true in 80 %: dots on the diagonal. Below "
        "it the classifier is too sure, above it not sure enough."
    )
    body = element("div", drawn, element("div", side, class_="content"), class_="two")
    return Section("reliability", "Reliability", lead, body)


def _diagram(bins: Bins, units: str) -> str:
    frame = Frame.of((0.0, 1.0), (0.0, 1.0), height=HEIGHT + 40)
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    as_percent = "{:.0%}".format
    parts = [frame.axes("probability", "true", x_format=as_percent, y_format=as_percent, x_ticks=ticks)]
    parts.append(frame.line([(0.0, 0.0), (1.0, 1.0)], class_="ideal"))
    edges = np.linspace(0.0, 1.0, len(bins.count) + 1)
    filled = np.flatnonzero(bins.count)
    for bin_ in filled:
        x = frame.x(bins.confidence[bin_])
        low, high = frame.y(bins.low[bin_]), frame.y(bins.high[bin_])
        parts.append(element("line", class_="whisker", x1=x, x2=x, y1=low, y2=high))
    for bin_ in filled:
        tip = (
            f"probability {edges[bin_]:.0%} to {edges[bin_ + 1]:.0%}: {bins.count[bin_]:,} {units}\n"
            f"mean {percent(bins.confidence[bin_])}, true {percent(bins.accuracy[bin_])} "
            f"({percent(bins.low[bin_])} to {percent(bins.high[bin_])})"
        )
        parts.append(frame.dot(bins.confidence[bin_], bins.accuracy[bin_], tip=tip, radius=5.0, class_="fill"))
    most = int(bins.count.max())
    top = HEIGHT + 40 + 8
    for bin_ in filled:
        height = max(1.0, (_PART - 40) * bins.count[bin_] / most)
        left, right = frame.x(edges[bin_]) + 1, frame.x(edges[bin_ + 1]) - 1
        y = top + _PART - 40 - height
        parts.append(element("rect", class_="fill-calm", x=left, y=y, width=right - left, height=height))
    base = top + _PART - 40
    parts.append(element("line", class_="axis", x1=frame.x.start, x2=frame.x.end, y1=base, y2=base))
    parts.append(tag("text", f"{most:,}", class_="tick", x=frame.x.start - 8, y=top + 8, text_anchor="end"))
    middle = (frame.x.start + frame.x.end) / 2
    parts.append(tag("text", units, class_="title", x=middle, y=base + 20, text_anchor="middle"))
    return chart("".join(parts), label="Reliability diagram", width=WIDTH, height=HEIGHT + 40 + _PART)
