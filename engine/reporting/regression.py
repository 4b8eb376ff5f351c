"""True against predicted values."""

import numpy as np

from tle.reporting.numbers import brief, clip
from tle.reporting.page import Section, paragraph
from tle.reporting.subject import Subject
from tle.reporting.svg import Frame, chart, element, spread

_POINTS = 2000
_SIDE = 520.0


def values(subject: Subject) -> Section:
    """A scatter plot of predicted over true values."""
    n = len(subject.rows)
    shown = np.arange(n) if n <= _POINTS else np.arange(_POINTS) * n // _POINTS
    both = spread(np.concatenate([subject.labels, subject.scores]).astype(float).tolist())
    frame = Frame.of(both, both, width=_SIDE, height=_SIDE)
    parts = [frame.axes("true", "predicted", x_format=brief, y_format=brief), frame.line([(both[0],) * 2, (both[1],) * 2],
             class_="ideal")]  # fmt: skip
    for place in shown:
        true, predicted = float(subject.labels[place]), float(subject.scores[place])
        tip = f"true {brief(true)}, predicted {brief(predicted)}\n{clip(subject.id_of(int(subject.rows[place])), 60)}"
        at = {"data_x": frame.x(true), "data_y": frame.y(predicted)}
        parts.append(frame.dot(true, predicted, tip=tip, radius=3.5, class_="fill point", fill_opacity=0.7, **at))
    body = element(
        "div",
        chart("".join(parts), label="Predicted over true values", width=_SIDE, height=_SIDE, nearest=True),
    )
    if n > len(shown):
        body += paragraph(f"{len(shown):,} of {n:,} pictures are drawn, evenly spread.", class_="soft small")
    lead = "Dots on the diagonal are right. A flatter cloud than the diagonal: extremes are pulled towards the mean."
    return Section("values", "True and predicted", lead, body)
