"""How fast it runs here, and what bounds it."""

from tle.reporting.numbers import percent, rate
from tle.reporting.page import Section, paragraph
from tle.reporting.subject import Subject
from tle.reporting.svg import WIDTH, Scale, chart, element, tag

_ROW = 46.0


def throughput(subject: Subject) -> Section:
    """Images a second of this pass and of the training, beside what the backbone alone would allow."""
    bars = [("this pass, from file to class", subject.images_per_s, "fill")]
    lines = []
    if subject.limit_images_per_s is not None:
        bars.append(("the backbone alone, its limit", subject.limit_images_per_s, "fill-calm"))
        share = min(1.0, subject.images_per_s / subject.limit_images_per_s)
        lines.append(
            f"The pass ran at {percent(share, 0)} of what the backbone alone does here; the rest goes to reading and decoding "
            "pictures, and on few pictures to starting and ending."
        )
    recorded = subject.training.get("throughput") or {}
    trained, limit = recorded.get("images_per_s"), recorded.get("limit_images_per_s")
    if trained:
        bars.append(("training, as it ran", float(trained), "fill"))
        if limit:
            bars.append(("training, decoded pictures at hand", float(limit), "fill-calm"))
            lines.append(
                f"The training ran at {percent(min(1.0, trained / limit), 0)} of its limit, on its own machine."
            )
    body = element("div", _bars(bars)) + "".join(paragraph(line) for line in lines)
    body += paragraph(f"How it was run: {subject.execution}.", class_="soft small")
    lead = "Images a second. A pass far below its limit is held up by reading and decoding: more cores help, a GPU does not."
    return Section("throughput", "Throughput", lead, body)


def _bars(bars: list[tuple[str, float, str]]) -> str:
    largest = max(value for _, value, _ in bars)
    x = Scale(0.0, largest, 0.0, WIDTH - 90)
    parts = []
    for number, (name, value, kind) in enumerate(bars):
        top = number * _ROW
        length = max(1.0, x(value))
        parts.append(tag("text", name, x=0.0, y=top + 13))
        tip = f"{name}: {rate(value)} images/s"
        parts.append(element("rect", class_=kind, x=0.0, y=top + 20, width=length, height=12.0, rx=2.0, data_tip=tip))
        parts.append(tag("text", rate(value), class_="strong", x=length + 8, y=top + 31))
    return chart("".join(parts), label="Images a second", height=_ROW * len(bars))
