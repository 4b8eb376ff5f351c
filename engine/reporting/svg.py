"""Charts as inline SVG, in plain strings; their colours are classes of the page's style sheet.

Every chart has a view box about as wide as a phone's screen, so that its text has nearly the same size everywhere.
"""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tle.sources.source import printable

WIDTH, HEIGHT = 460.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 14.0, 12.0, 44.0
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


def escape(text: object) -> str:
    """Any text, harmless in HTML and in quoted attributes, on one line; spaces that do not break are kept."""
    parts = str(text).split("\N{NO-BREAK SPACE}")
    return "&#160;".join(html.escape(printable(part), quote=True) for part in parts)


def element(tag: str, *content: str, **attributes: object) -> str:
    """One element.

    Args:
        tag: its name.
        content: what is in it, as markup.
        attributes: their values are escaped, line breaks kept, floats have 2 decimals; None leaves one out. An underscore at
            the end of a name is dropped (`class_`), others become hyphens.

    Returns:
        Markup.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is None:
            continue
        text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        lines = "&#10;".join(map(escape, str(text).split("\n")))
        parts.append(f'{name.rstrip("_").replace("_", "-")}="{lines}"')
    return f"<{' '.join(parts)}>{''.join(content)}</{tag}>"


def tag(name: str, content: object, **attributes: object) -> str:
    """An element that holds a text, which is escaped."""
    return element(name, escape(content), **attributes)


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to positions along an axis.

    Attributes:
        low: value at `start`.
        high: value at `end`, above `low`.
        start: position of `low`, in units of the view box.
        end: position of `high`.
        log: logarithmic, both values above 0.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values within the scale, about as many as wanted."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1, 2, 5) if last - first <= 2 else (1,)
            marks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
            inside = [mark for mark in marks if self.low * (1 - 1e-9) <= mark <= self.high * (1 + 1e-9)]
            return inside[:: max(1, math.ceil(len(inside) / (wanted + 1)))]
        rough = (self.high - self.low) / max(1, wanted)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(nice * power for nice in _NICE if nice * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def spread(values: Iterable[float], *, margin: float = 0.05) -> tuple[float, float]:
    """A range that holds all finite values, with some room at both ends; never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = (high - low) * margin or max(abs(high) * margin, 1e-9)
    return low - room, high + room


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Two axes and the room for them."""

    x: Scale
    y: Scale

    @classmethod
    def of(
        cls,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        width: float = WIDTH,
        height: float = HEIGHT,
        log_y: bool = False,
    ) -> "Frame":
        """Axes over two ranges, on a chart of this size."""
        return cls(x=Scale(*x, _LEFT, width - _RIGHT), y=Scale(*y, height - _BOTTOM, _TOP, log_y))

    def axes(
        self,
        x_title: str,
        y_title: str,
        *,
        x_format: Callable[[float], str] = "{:,g}".format,
        y_format: Callable[[float], str] = "{:,g}".format,
        x_ticks: Sequence[float] | None = None,
    ) -> str:
        """Grid lines, values and titles."""
        x, y = self.x, self.y
        parts = []
        for value in y.ticks():
            at = y(value)
            parts.append(element("line", class_="grid", x1=x.start, x2=x.end, y1=at, y2=at))
            parts.append(tag("text", y_format(value), class_="tick", x=x.start - 8, y=at + 4, text_anchor="end"))
        parts.append(element("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start))
        for value in x.ticks() if x_ticks is None else x_ticks:
            parts.append(tag("text", x_format(value), class_="tick", x=x(value), y=y.start + 17, text_anchor="middle"))
        middle_x, middle_y = (x.start + x.end) / 2, (y.start + y.end) / 2
        parts.append(tag("text", x_title, class_="title", x=middle_x, y=y.start + 36, text_anchor="middle"))
        turned = f"rotate(-90 13 {middle_y:.1f})"
        parts.append(tag("text", y_title, class_="title", x=13.0, y=middle_y, text_anchor="middle", transform=turned))
        return "".join(parts)

    def line(self, points: Iterable[tuple[float, float]], **attributes: object) -> str:
        """A line through (x, y) values."""
        path = " ".join(f"{self.x(x):.2f},{self.y(y):.2f}" for x, y in points)
        return element("polyline", points=path, fill="none", **attributes)

    def dot(self, x: float, y: float, *, tip: str, radius: float = 4.0, **attributes: object) -> str:
        """A mark that says its values."""
        return element("circle", cx=self.x(x), cy=self.y(y), r=radius, data_tip=tip, **attributes)


def chart(
    content: str,
    *,
    label: str,
    width: float = WIDTH,
    height: float = HEIGHT,
    columns: int | None = None,
    nearest: bool = False,
    name: str = "chart",
) -> str:
    """A whole chart, whose marks with `data-tip` are reached by pointer and by arrow keys.

    Args:
        content: markup.
        label: what it shows, for who does not see it.
        width: of the view box.
        height: of the view box.
        columns: marks a row where they form a grid; the arrows up and down then move by rows.
        nearest: whether the pointer takes the nearest mark instead of the one that it is on: for small marks.
        name: further class.

    Returns:
        Markup.
    """
    explorable = "data-tip=" in content
    return element(
        "svg",
        content,
        class_=name,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        style=f"--natural:{width:g}px",
        tabindex="0" if explorable else None,
        data_explore="" if explorable else None,
        data_columns=columns,
        data_nearest="" if nearest else None,
    )
