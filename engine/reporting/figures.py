"""All figures with their intervals."""

from collections.abc import Iterator

import numpy as np

from tle.enums import Target
from tle.reporting.numbers import NONE, brief, decimal
from tle.reporting.page import Section, cell, drawn_cell, name_cell, paragraph, table
from tle.reporting.subject import Subject
from tle.reporting.svg import Scale, element

# Key, name, whether it lies within 0 and 1 and more is better, and what it means.
_FIGURES = {
    Target.CLASS: (
        ("top1", "Accuracy", True, "the most probable class is the true one"),
        ("top5", "Top-5 accuracy", True, "the true class is among the five most probable"),
        ("balanced_accuracy", "Balanced accuracy", True, "mean recall: every class counts the same"),
        ("macro_f1", "Macro F1", True, "mean of the F1 of the classes"),
        ("nll", "Log loss", False, "-log of the probability of the truth; smaller is better"),
        ("ece", "Calibration error", False, "how far confidence is from accuracy; 0 is best"),
    ),
    Target.MULTILABEL: (
        ("mAP", "mAP", True, "mean over labels of the average precision"),
        ("micro_f1", "Micro F1", True, "F1 of all (picture, label) pairs at probability 0.5"),
        ("nll", "Log loss", False, "mean binary cross-entropy; smaller is better"),
    ),
    Target.REGRESSION: (
        ("r2", "R\N{SUPERSCRIPT TWO}", True, "share of the variance that is explained"),
        ("mae", "Mean absolute error", False, "in the unit of the labels; smaller is better"),
    ),
}
_WIDTH = 150.0


def figures(subject: Subject) -> Section:
    """A row a figure: value, 95 % interval, the same as a picture, and what it means."""
    found = [
        (*row, subject.metrics[row[0]], subject.metrics.get(f"{row[0]}_interval"))
        for row in _FIGURES[subject.target]
        if row[0] in subject.metrics
    ]
    ends = [(interval or (value,))[0] for _, _, is_share, _, value, interval in found if is_share and value is not None]
    x = Scale(max(0.0, np.floor(10 * min([0.9, *ends]) - 1e-9) / 10), 1.0, 5.0, _WIDTH - 5.0)
    rows = []
    for key, name, is_share, meaning, value, interval in found:
        show = brief if subject.target is Target.REGRESSION and key == "mae" else decimal
        # Where all are right, or none, a bootstrap has no width: the summary says what is known then.
        within = NONE if interval is None or interval[0] == interval[1] else " to ".join(map(show, interval))
        drawn = drawn_cell(_whisker(x, value, interval) if is_share and value is not None else "")
        rows.append([name_cell(name), cell(show(value)), cell(within), drawn, cell(meaning, number=False)])
    titles = ["Figure", "Value", "95 % interval", f"{x.low:.1g} to 1", "Meaning"]
    lead = "Intervals come of resampling these pictures. Two classifiers compare best on the same pictures."
    body = table(titles, rows, texts=(0, 4), drawn=(3,)) + "".join(_recorded(subject))
    return Section("metrics", "Metrics", lead, body)


def _recorded(subject: Subject) -> Iterator[str]:
    """What was measured when the classifier was made, a line a split."""
    for split, values in subject.bundle.metrics.items():
        known = [
            f"{name} {decimal(values[key])}"
            for key, name, _, _ in _FIGURES[subject.target]
            if values.get(key) is not None
        ]
        if known:
            n = f", {values['n']:,} pictures" if values.get("n") else ""
            yield paragraph(f"Recorded when it was made ({split}{n}): {', '.join(known)}.", class_="soft small")


def _whisker(x: Scale, value: float, interval: list[float] | None) -> str:
    """A figure with its interval; what lies below the scale stands at its end."""
    parts = [element("line", class_="grid", x1=x.start, x2=x.end, y1=8.0, y2=8.0)]
    low, high = (x(min(x.high, max(x.low, end))) for end in interval or (value, value))
    at = x(min(x.high, max(x.low, value)))
    parts.append(element("line", class_="accent", stroke_width=4, opacity=0.4, x1=low, x2=high, y1=8.0, y2=8.0))
    parts.append(element("circle", class_="fill", cx=at, cy=8.0, r=3.5))
    return element("svg", *parts, class_="spark", viewBox=f"0 0 {_WIDTH:g} 16", aria_hidden="true")
