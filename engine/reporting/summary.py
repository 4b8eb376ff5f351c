"""The first sections: what the classifier is worth, and the pictures behind it."""

from collections.abc import Iterable, Mapping
from typing import Any

from tle.enums import Target
from tle.metrics import LEVEL
from tle.reporting.numbers import NONE, brief, decimal, percent, percent_range
from tle.reporting.page import Section, cell, definitions, drawn_cell, facts, name_cell, notes, paragraph, table
from tle.reporting.subject import Subject
from tle.reporting.svg import element, tag
from tle.sources.source import plural

# What a report leads with, by target: key of the figure, and its name in a sentence.
HEADLINES = {
    Target.CLASS: ("top1", "of pictures are classified correctly"),
    Target.MULTILABEL: ("mAP", "mean average precision"),
    Target.REGRESSION: ("r2", "R\N{SUPERSCRIPT TWO}: share of the variance that is explained"),
}
_SPLIT_WORDS = {"test": "test pictures", "val": "validation pictures", "train": "training pictures", "all": "pictures"}


def summary(subject: Subject) -> Section:
    """The headline, what fine-tuning brought, and what the reader has to know."""
    metrics, target = subject.metrics, subject.target
    key, words = HEADLINES[target]
    as_share = target is Target.CLASS
    value = percent(metrics[key]) if as_share else decimal(metrics[key], 3)
    interval = _interval(subject, key)
    if interval is None:
        within = ""
    else:
        low_high = percent_range(interval) if as_share else f"{interval[0]:.3f} to {interval[1]:.3f}"
        within = f"95 % interval {low_high}"
    headline = element("div", tag("strong", value), tag("span", words), tag("span", within), class_="headline")
    body = headline + facts(_facts(subject))
    if verdict := verdict_sentence(subject.training.get("verdict")):
        body += paragraph(verdict, class_="verdict")
    elif not subject.bundle.training:
        body += paragraph("The backbone is frozen: only the head was fitted, on its features.", class_="soft")
    body += notes([*_warnings(subject), *subject.metric_notes, *subject.notes])
    n, split = len(subject.rows), _SPLIT_WORDS[subject.chosen.split]
    lead = f"Measured on {n:,} {split}; the interval says how far the figure may be off because these are not all there are."
    return Section("summary", "Summary", lead, body)


def _interval(subject: Subject, key: str) -> list[float] | None:
    """The interval of the headline; exact where all pictures are right, or none, and a bootstrap has no width."""
    interval: list[float] | None = subject.metrics.get(f"{key}_interval")
    if subject.target is not Target.CLASS or interval is None or interval[0] < interval[1]:
        return interval
    bound = ((1 - LEVEL) / 2) ** (1 / len(subject.rows))  # Clopper and Pearson 1934
    return [bound, 1.0] if interval[0] > 0 else [0.0, 1 - bound]


def verdict_sentence(verdict: Mapping[str, Any] | None) -> str:
    """What fine-tuning brought against the frozen head, in words; empty where nothing is recorded."""
    if not verdict or verdict.get("kept") is None:
        return ""
    kept = "The fine-tuned backbone was kept" if verdict["kept"] == "finetuned" else "The frozen head was kept"
    if verdict["kept"] == "finetuned" and verdict.get("won") is False:
        kept += ", though it is not better by more than noise"
    head, finetuned, metric = verdict.get("head"), verdict.get("finetuned"), verdict.get("metric", "accuracy")
    if head is None or finetuned is None:
        return f"{kept}."
    as_share = metric not in ("nll", "mae", "mse", "r2")
    show = percent if as_share else decimal
    text = f"{kept}: {metric} {show(finetuned)} after fine-tuning against {show(head)} before"
    if verdict.get("n"):
        text += f", on the same {plural(int(verdict['n']), 'validation picture')}"
    difference, interval = verdict.get("difference"), verdict.get("interval")
    if difference is not None:
        scale, unit = (100, " points") if as_share else (1, "")
        text += f"; a difference of {scale * difference:+.2f}{unit}"
        extra = []
        if interval is not None:
            extra.append(f"95 % interval {scale * interval[0]:+.2f} to {scale * interval[1]:+.2f}")
        if verdict.get("p") is not None:
            extra.append(f"p = {verdict['p']:.2g}")
        text += f" ({', '.join(extra)})" if extra else ""
    if verdict.get("decided_by") == "truth" and (truth := verdict.get("truth")):
        text += (
            f". Right answers alone could not tell; the probability of the true class could: {decimal(truth['finetuned'], 3)} "
            f"against {decimal(truth['head'], 3)}, a difference of {truth['difference']:+.3f} (standard error "
            f"{truth['standard_error']:.3f})"
        )
    return f"{text}."


def _facts(subject: Subject) -> list[tuple[str, object]]:
    metrics = subject.metrics
    pairs: list[tuple[str, object]] = [("Pictures", f"{len(subject.rows):,}")]
    if subject.target is Target.CLASS:
        pairs += [
            ("Classes", f"{len(subject.classes):,}"),
            ("Balanced accuracy", percent(metrics["balanced_accuracy"])),
            ("Macro F1", decimal(metrics["macro_f1"], 3)),
            ("Calibration error", percent(metrics["ece"])),
        ]
    elif subject.target is Target.MULTILABEL:
        pairs += [("Labels", f"{len(subject.classes):,}"), ("Micro F1", decimal(metrics["micro_f1"], 3))]
    else:
        pairs.append(("Mean absolute error", brief(metrics["mae"])))
    if subject.n_failed:
        pairs.append(("Could not be read", f"{subject.n_failed:,}"))
    return pairs


def _warnings(subject: Subject) -> list[str]:
    lines = []
    if subject.seen:
        lines.append(
            f"{subject.seen:,} of these {len(subject.rows):,} pictures in the fit: they flatter the classifier"
        )
    if subject.chosen.split == "val":
        lines.append("validation pictures were used to choose settings: their figures are a little too good")
    return lines


def data(subject: Subject) -> Section:
    """Where the pictures are, and how many there are of each class in each split."""
    recorded, source = subject.bundle.data, subject.chosen.source
    lines: list[tuple[str, object]] = [
        ("Measured here", f"{source.root} ({source.kind}), {subject.chosen.split}: {len(subject.rows):,} pictures")
    ]
    if subject.n_failed:
        lines.append(("Could not be read", plural(subject.n_failed, "picture")))
    if recorded.get("images"):
        lines.append(("Made of", f"{recorded['images']} ({recorded.get('kind', 'pictures')})"))
    selection = subject.bundle.head.fit.get("selection", {})
    counts = recorded.get("counts") or {
        name: selection[f"n_{name}"] for name in ("train", "val") if f"n_{name}" in selection
    }
    if counts:
        lines.append(("Pictures by split", ", ".join(f"{counts[name]:,} {name}" for name in _in_order(counts))))
    body = definitions(lines)
    per_class, columns = _per_class(subject)
    if per_class:
        body += _counts_table(per_class, columns)
    elif subject.target is not Target.REGRESSION:
        body += paragraph("No counts by class are recorded.", class_="soft")
    lead = "Which pictures were used for what. Classes with few pictures have uncertain figures below."
    return Section("data", "Data", lead, body)


def _per_class(subject: Subject) -> tuple[dict[str, Mapping[str, int]], list[str]]:
    """Counts by class and split: those that the classifier was made of if recorded, else those of the source."""
    recorded = subject.bundle.data.get("classes")
    found: dict[str, Mapping[str, int]]
    if recorded:
        found = {str(name): dict(counts) for name, counts in recorded.items()}
    else:
        counts = subject.chosen.counts
        names = [name for name in next(iter(counts.values()), {}) if name]
        found = {name: {split: per.get(name, 0) for split, per in counts.items()} for name in names}
    seen = {split for counts in found.values() for split in counts}
    return found, _in_order(seen)


def _in_order(splits: Iterable[str]) -> list[str]:
    """Names of splits as people expect them; unknown ones last."""
    known = {"train": 0, "val": 1, "test": 2}
    return sorted(splits, key=lambda name: (known.get(name, 3), name))


def _counts_table(per_class: Mapping[str, Mapping[str, int]], columns: list[str]) -> str:
    largest = max((sum(counts.values()) for counts in per_class.values()), default=0) or 1
    rows = []
    for name, counts in per_class.items():
        total = sum(counts.values())
        bar = element(
            "svg",
            element("rect", class_="back", x=0.0, y=0.0, width=150.0, height=8.0, rx=2.0),
            element("rect", class_="fill", x=0.0, y=0.0, width=150.0 * total / largest, height=8.0, rx=2.0),
            class_="spark",
            viewBox="0 0 150 8",
            aria_hidden="true",
        )
        cells = [
            cell(f"{counts[split]:,}" if split in counts else NONE, value=counts.get(split, 0)) for split in columns
        ]
        rows.append([name_cell(name), *cells, drawn_cell(bar)])
    return table(
        ["Class", *(split or "pictures" for split in columns), ""],
        rows,
        sortable=True,
        texts=(0,),
        drawn=(len(columns) + 1,),
    )
