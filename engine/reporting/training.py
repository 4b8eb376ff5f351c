"""How the fine-tuning went, and how fast each part of the network was allowed to move.

# S steps, G groups
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tle.reporting.numbers import NONE, brief, decimal, plain
from tle.reporting.page import Section, cell, name_cell, paragraph, table
from tle.reporting.subject import Subject
from tle.reporting.svg import Frame, chart, element, spread, tag

_FROZEN_LEAD = "What only fine-tuning has."
_FROZEN = "The backbone is frozen, so there was no training to show: only the head was fitted, on its features."
# Points of a line: more than pixels of a screen tell nothing.
_POINTS = 400
# Rates below this share of the smallest peak belong to the first steps of a warmup and would stretch the axis for nothing.
_FLOOR = 0.02
_RATES_WIDTH = 520.0


def learning_curves(subject: Subject) -> Section:
    """Loss and metric by epoch, and the same as a table."""
    title, history = "Learning curves", subject.training.get("history") or []
    lead = (
        "Epoch 0 is the frozen head that training started from. Validation loss that rises while training loss falls is "
        "overfitting. The dotted line is the best epoch."
    )
    if not history:
        return Section("curves", title, _FROZEN_LEAD, paragraph(_FROZEN))
    metric = _metric(subject.training, history)
    best = subject.training.get("best_epoch")
    charts = [_curves(history, {"train_loss": "training", "val_loss": "validation"}, "loss", best)]
    if any(row.get(f"val_{metric}") is not None for row in history):
        names = {f"train_{metric}": "training", f"val_{metric}": "validation"}
        charts.append(_curves(history, names, metric.replace("_", " "), best))
    drawn = element("div", *filter(None, charts), class_="two")
    legend = _legend([("calm", "training"), ("accent", "validation")])
    return Section("curves", title, lead, legend + drawn + _epochs(history, metric, best))


def _metric(training: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """The metric that epochs were compared by, or the first that was recorded."""
    if named := training["options"].get("metric"):
        return str(named)
    keys = [key for row in history for key in row if key.startswith("val_") and key != "val_loss"]
    return keys[0].removeprefix("val_") if keys else "accuracy"


def _curves(history: Sequence[Mapping[str, Any]], names: Mapping[str, str], title: str, best: int | None) -> str:
    """A chart of some columns of the history; empty where none has a value."""
    lines = {
        name: [(float(row["epoch"]), float(row[name])) for row in history if row.get(name) is not None]
        for name in names
    }
    values = [value for points in lines.values() for _, value in points]
    if not values:
        return ""
    last = max(float(row["epoch"]) for row in history)
    frame = Frame.of((0.0, max(last, 1.0)), spread(values, margin=0.08))
    epochs = [mark for mark in frame.x.ticks() if mark == int(mark)]
    parts = [frame.axes("epoch", title, x_ticks=epochs, y_format=brief)]
    if best is not None and 0 <= best <= last:
        at = frame.x(float(best))
        parts.append(element("line", class_="ideal", x1=at, x2=at, y1=frame.y.start, y2=frame.y.end))
        side = ("end", at - 5) if best > last / 2 else ("start", at + 5)
        parts.append(tag("text", "best", class_="tick", x=side[1], y=frame.y.end + 10, text_anchor=side[0]))
    for name, points in lines.items():
        kind = "accent" if name.startswith("val_") else "calm"
        parts.append(frame.line(points, class_=kind))
        for epoch, value in points:
            tip = f"epoch {epoch:g}, {names[name]}\n{title} {value:.4f}"
            parts.append(frame.dot(epoch, value, tip=tip, radius=3.2, class_=kind))
    return element("div", chart("".join(parts), label=f"{title} by epoch"))


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    items = []
    for kind, name in entries:
        line = element("line", class_=kind, x1=0.0, x2=14.0, y1=7.0, y2=7.0, stroke_width=3)
        mark = element(
            "svg", line, element("circle", class_=kind, cx=7.0, cy=7.0, r=3.0), viewBox="0 0 14 14", aria_hidden="true"
        )
        items.append(element("li", mark, tag("span", name)))
    return element("ul", *items, class_="legend")


def _epochs(history: Sequence[Mapping[str, Any]], metric: str, best: int | None) -> str:
    rows = []
    for row in history:
        named = f"{row['epoch']} (best)" if row["epoch"] == best else str(row["epoch"])
        speed, seconds = row.get("images_per_s"), row.get("seconds")
        rows.append(
            [
                name_cell(named),
                cell(f"{row.get('step', 0):,}"),
                *(cell(decimal(row.get(name))) for name in ("train_loss", "val_loss", f"val_{metric}")),
                cell(NONE if speed is None else f"{speed:,.1f}"),
                cell(NONE if seconds is None else f"{seconds:,.1f}"),
            ]
        )
    head = [
        "Epoch",
        "Steps",
        "Training loss",
        "Validation loss",
        f"Validation {metric.replace('_', ' ')}",
        "Images/s",
        "Seconds",
    ]
    return table(head, rows, texts=(0,))


def learning_rates(subject: Subject) -> Section:
    """The rate of every group at every step, as it was applied, and what each group holds."""
    title = "Learning rates"
    lead = (
        "The rate that each group of parameters really had at each step, on a logarithmic axis: paler lines are nearer to "
        "the picture and move less; the rise at the left is the warmup."
    )
    groups, lr_SG = subject.training.get("groups") or [], subject.bundle.arrays.get("lr")
    if not groups:
        return Section("rates", title, _FROZEN_LEAD, paragraph(_FROZEN))
    body = element("div", _groups_table(groups, lr_SG))
    if lr_SG is None or not (lr_SG > 0).any():
        return Section("rates", title, lead, paragraph("The rates that were applied are not recorded.") + body)
    return Section("rates", title, lead, _rates(groups, lr_SG) + body)


def _rates(groups: Sequence[Mapping[str, Any]], lr_SG: NDArray[np.float64]) -> str:
    steps = np.unique(np.linspace(0, len(lr_SG) - 1, min(len(lr_SG), _POINTS)).round().astype(np.int64))
    lines: dict[bytes, list[int]] = {}  # groups of the same rates are one line
    for column in range(len(groups)):
        if (lr_SG[:, column] > 0).any():
            lines.setdefault(lr_SG[:, column].tobytes(), []).append(column)
    shown = sorted(lines.values(), key=lambda columns: _depth(groups, columns))
    peaks = [float(lr_SG[:, columns[0]].max()) for columns in shown]
    low, high = _FLOOR * min(peaks), max(peaks)
    frame = Frame.of((1.0, max(2.0, float(len(lr_SG)))), (low, high * 1.3), width=_RATES_WIDTH, log_y=True)
    parts = [frame.axes("step", "learning rate", y_format="{:.0e}".format)]
    for place, columns in enumerate(shown):
        rates = lr_SG[steps, columns[0]]
        names = ", ".join(str(groups[column]["name"]) for column in columns)
        strength = 0.25 + 0.75 * place / max(1, len(shown) - 1)
        points = [(float(step + 1), float(rate)) for step, rate in zip(steps, rates, strict=True) if rate >= low]
        parts.append(frame.line(points, class_="accent", stroke_opacity=float(strength)))
        peak = int(np.argmax(rates))
        tip = f"{names}\npeak {brief(peaks[place])} at step {steps[peak] + 1:,}"
        at = {"fill_opacity": float(strength), "stroke_opacity": 0.0}
        parts.append(frame.dot(float(steps[peak] + 1), float(rates[peak]), tip=tip, radius=4.5, class_="accent", **at))
    label = "Learning rate of each group by step"
    return element("div", chart("".join(parts), label=label, width=_RATES_WIDTH))


def _depth(groups: Sequence[Mapping[str, Any]], columns: Sequence[int]) -> float:
    """Where in the network some groups are; the head last."""
    return min(float(groups[column].get("layer_id") or 0) for column in columns)


def _groups_table(groups: Sequence[Mapping[str, Any]], lr_SG: NDArray[np.float64] | None) -> str:
    rows = []
    for column, group in enumerate(groups):
        peak = group.get("lr") if lr_SG is None or not len(lr_SG) else float(lr_SG[:, column].max())
        rows.append(
            [
                name_cell(group["name"]),
                cell(plain(group.get("layer_id"))),
                cell(f"{group.get('n_parameters', 0):,}"),
                cell("frozen" if group.get("frozen") else brief(peak)),
                cell(brief(group.get("weight_decay"))),
                cell(plain(group.get("warmup"))),
                cell(plain(group.get("batchnorm")), number=False),
            ]
        )
    head = ["Group", "Layer", "Parameters", "Peak rate", "Weight decay", "Warmup", "BatchNorm"]
    return table(head, rows, texts=(0, 6))
