"""How well each class, or each label, is told.

# N pictures, C classes
"""

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.reporting.numbers import percent
from tle.reporting.page import Section, cell, drawn_cell, name_cell, table
from tle.reporting.subject import Subject
from tle.reporting.svg import element


def per_class(subject: Subject) -> Section:
    """A table of pictures, precision, recall and F1, the weakest first."""
    average: list[float | None] = []
    if subject.target is Target.CLASS:
        title, lead = (
            "Classes",
            "Precision: of what is called so, how much is. Recall: of what is so, how much is found.",
        )
        labels, predicted, n_classes = subject.labels, subject.predicted, len(subject.classes)
        true_C, called_C, hit_C = (
            np.bincount(found, minlength=n_classes) for found in (labels, predicted, labels[labels == predicted])
        )
    else:
        title, lead = "Labels", "Precision and recall at a probability of 0.5; average precision needs no threshold."
        truth_NC, called_NC = subject.labels.astype(bool), subject.scores >= 0.5
        true_C, called_C, hit_C = truth_NC.sum(axis=0), called_NC.sum(axis=0), (truth_NC & called_NC).sum(axis=0)
        average = _average_precision(subject.scores, truth_NC)
    rows = []
    figures = []
    for column, name in enumerate(subject.classes):
        hits, true, called = int(hit_C[column]), int(true_C[column]), int(called_C[column])
        f1 = _ratio(2 * hits, true + called)
        shares = [*([average[column]] if average else []), _ratio(hits, called), _ratio(hits, true)]
        cells = [cell(percent(share), value=_sortable(share)) for share in shares]
        bar = drawn_cell(_bar(f1))
        rows.append(
            [name_cell(name), cell(f"{true:,}", value=true), *cells, cell(percent(f1), value=_sortable(f1)), bar]
        )
        figures.append(_sortable(f1))
    rows = [rows[place] for place in np.argsort(figures, kind="stable")]
    extra = ["Average precision"] if average else []
    head = [
        title.removesuffix("es" if title == "Classes" else "s"),
        "Pictures",
        *extra,
        "Precision",
        "Recall",
        "F1",
        "",
    ]
    body = table(head, rows, sortable=True, texts=(0,), drawn=(len(head) - 1,), sorted_by=len(head) - 2)
    return Section("classes", title, f"{lead} The weakest come first; a click on a title sorts.", body)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _sortable(share: float | None) -> float:
    return -1.0 if share is None else share


def _average_precision(scores_NC: NDArray[np.float32], truth_NC: NDArray[np.bool_]) -> list[float | None]:
    """Of each label; None where it has no positive."""
    from sklearn.metrics import average_precision_score

    return [
        float(average_precision_score(truth_NC[:, column], scores_NC[:, column])) if truth_NC[:, column].any() else None
        for column in range(truth_NC.shape[1])
    ]


def _bar(share: float | None) -> str:
    parts = [element("rect", class_="back", x=0.0, y=0.0, width=120.0, height=8.0, rx=2.0)]
    if share:
        parts.append(element("rect", class_="fill", x=0.0, y=0.0, width=120.0 * share, height=8.0, rx=2.0))
    return element("svg", *parts, class_="spark", viewBox="0 0 120 8", aria_hidden="true")
