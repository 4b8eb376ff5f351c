"""What is taken for what.

# C classes, B blocks of neighbouring classes
"""

import numpy as np
from numpy.typing import NDArray

from tle.metrics import confusion_matrix
from tle.reporting.numbers import clip, percent
from tle.reporting.page import Section, cell, name_cell, paragraph, table
from tle.reporting.subject import Subject
from tle.reporting.svg import WIDTH, chart, element, tag

# Classes up to which each has a row of its own; beyond, cells would be too small to be seen or touched.
MAX_CLASSES = 40
_PAIRS = 12
_WIDE = 760.0
# Up to this many classes the matrix leaves room for the table beside it.
_NARROW = 14
_LETTERS, _LETTER_WIDTH = 14, 6.9
_SHORT = 2  # letters of names that stand upright below the matrix


def confusion(subject: Subject) -> Section:
    """The matrix as a heat map, and the pairs that are confused most."""
    names, labels, predicted = subject.classes, subject.labels, subject.predicted
    size = -(-len(names) // MAX_CLASSES)  # classes that share a row: 1 up to that many
    parts = [names[start : start + size] for start in range(0, len(names), size)]
    shown = [part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts]
    drawn = _heat_map(confusion_matrix(predicted // size, labels // size, len(parts)), shown)
    pairs = _pairs_table(labels, predicted, names)
    body = element("div", drawn, pairs, class_="two") if len(parts) <= _NARROW else drawn + pairs
    if size > 1:
        text = f"Each cell of the map stands for {size} x {size} classes that follow each other: {len(names):,} are too many."
        body = paragraph(text, class_="soft") + body
    lead = (
        "A row is a true class, a column what it was taken for. Blue on the diagonal is right, orange beside it is wrong; "
        "full colour is all pictures of the row."
    )
    return Section("confusion", "Confusion matrix", lead, body)


def _heat_map(matrix_CC: NDArray[np.int64], names: list[str]) -> str:
    n = len(names)
    width = WIDTH if n <= _NARROW else _WIDE
    longest = max(map(len, names))
    margin = 34 + min(_LETTERS, longest) * _LETTER_WIDTH
    size = min((width - margin) / n, 46.0)
    width, side = margin + size * n, size * n
    small = f"font-size:{max(7.0, min(13.0, 0.8 * size)):.1f}px"
    total_C = np.maximum(matrix_CC.sum(axis=1), 1)
    parts = [element("rect", class_="back", x=margin, y=0.0, width=side, height=side)]
    for row, name in enumerate(names):
        at = margin + (row + 0.5) * size
        short = clip(name, _LETTERS)
        across = (row + 0.5) * size + 4
        parts.append(tag("text", short, class_="tick", x=margin - 7, y=across, text_anchor="end", style=small))
        below: dict[str, object] = {"class_": "tick", "style": small}
        if longest <= _SHORT:
            parts.append(tag("text", short, x=at, y=side + 16, text_anchor="middle", **below))
        else:
            turned = f"rotate(-90 {at + 4:.1f} {side + 8:.1f})"
            parts.append(tag("text", short, x=at + 4, y=side + 8, text_anchor="end", transform=turned, **below))
    for row, column in np.argwhere(matrix_CC):
        count, share = int(matrix_CC[row, column]), matrix_CC[row, column] / total_C[row]
        x, y = margin + column * size, row * size
        right = row == column
        taken = "right" if right else f"taken for {names[column]}"
        tip = f"{names[row]}, {taken}: {count:,} of {total_C[row]:,} ({percent(share)})"
        # By the root: a few mistakes among many pictures are still to be seen.
        strength = 0.12 + 0.88 * (share if right else np.sqrt(share))
        kind = "cell fill" if right else "cell fill-wrong"
        parts.append(
            element("rect", class_=kind, x=x, y=y, width=size, height=size, fill_opacity=float(strength), data_tip=tip)
        )
        if size >= 20:
            dark = "count on" if strength > 0.6 else "count"
            parts.append(tag("text", f"{count}", class_=dark, x=x + size / 2, y=y + size / 2 + 4))
    parts.append(tag("text", "true", class_="title", x=12.0, y=side / 2, text_anchor="middle",
                     transform=f"rotate(-90 12 {side / 2:.1f})"))  # fmt: skip
    bottom = side + margin - 5
    parts.append(tag("text", "predicted", class_="title", x=margin + side / 2, y=bottom, text_anchor="middle"))
    label = f"Confusion matrix of {n} classes"
    name = "chart" if n <= _NARROW else "chart wide"
    return element("div", chart("".join(parts), label=label, width=width, height=side + margin, name=name))


def _pairs_table(labels_N: NDArray[np.int64], predicted_N: NDArray[np.int64], names: tuple[str, ...]) -> str:
    """The pairs of classes that are confused most often; no matrix of all pairs is made, which may be large."""
    wrong = labels_N != predicted_N
    pairs, counts = np.unique(labels_N[wrong] * len(names) + predicted_N[wrong], return_counts=True)
    total_C = np.bincount(labels_N, minlength=len(names))
    rows = []
    for place in np.argsort(-counts, kind="stable")[:_PAIRS]:
        true, said = divmod(int(pairs[place]), len(names))
        count = int(counts[place])
        shares = [cell(f"{count:,}"), cell(percent(count / total_C[true]))]
        rows.append([name_cell(names[true]), cell(names[said], number=False), *shares])
    if not rows:
        return paragraph("No picture was taken for another class.", class_="soft")
    title = tag("h3", "Confused most often")
    return element("div", title, table(["True", "Taken for", "Pictures", "Share"], rows, texts=(0, 1)))
