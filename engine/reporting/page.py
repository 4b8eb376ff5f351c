"""The page: sections under one heading, with style and script inside; nothing is fetched from anywhere.

A content security policy forbids the page all else: connections, frames, and every script but its own, which is named by
its digest. What a class is called can therefore never run, even if it were not escaped.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from tle.reporting.script import SCRIPT
from tle.reporting.style import STYLE
from tle.reporting.svg import element, escape, tag

_LONG = 14  # rows from which a table scrolls in a box of its own


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a report.

    Attributes:
        id: its anchor.
        title: its heading, plain text.
        lead: how it is to be read, plain text.
        body: markup.
    """

    id: str
    title: str
    lead: str
    body: str


def paragraph(text: str, *, class_: str | None = None) -> str:
    """A paragraph of plain text."""
    return tag("p", text, class_=class_)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    sortable: bool = False,
    texts: Sequence[int] = (),
    sorted_by: int | None = None,
    drawn: Sequence[int] = (),
) -> str:
    """A table whose first column names the rows.

    Args:
        head: titles of the columns, plain text.
        rows: cells, each made by `cell` or `name_cell`.
        sortable: whether a click on a title sorts.
        texts: columns that hold words; the others hold numbers, to the right.
        sorted_by: column that the rows rise by already.
        drawn: columns of small pictures, each cell made by `drawn_cell`; a phone leaves them out.

    Returns:
        Markup, in a box that scrolls sideways where the screen is narrow, and down where there are many rows.
    """
    titles = []
    for number, title in enumerate(head):
        kind = "text" if number in texts else None
        place = "extra" if number in drawn else None if kind else "n"
        content = element("button", escape(title), type="button") if sortable and title else escape(title)
        rising = "ascending" if number == sorted_by else None
        titles.append(element("th", content, scope="col", class_=place, data_kind=kind, aria_sort=rising))
    whole = element(
        "table",
        element("thead", element("tr", *titles)),
        element("tbody", *(element("tr", *cells) for cells in rows)),
        data_sort="" if sortable else None,
    )
    long = len(rows) > _LONG
    return element("div", whole, class_="scroll long" if long else "scroll", tabindex="0" if long else None)


def name_cell(text: object) -> str:
    """The cell that names a row."""
    return tag("th", text, scope="row")


def cell(text: object, *, value: float | None = None, number: bool = True) -> str:
    """A cell of plain text; `value` is what it is sorted by, if not by its text."""
    return tag("td", text, class_="n" if number else "text", data_value=None if value is None else f"{value:.9g}")


def drawn_cell(markup: str) -> str:
    """A cell with a small picture that repeats a number beside it."""
    return element("td", markup, class_="extra")


def definitions(pairs: Sequence[tuple[str, object]]) -> str:
    """A table of names and values, both plain text."""
    rows = "".join(element("tr", name_cell(name), tag("td", value, class_="text")) for name, value in pairs)
    return element("div", element("table", element("tbody", rows)), class_="scroll names")


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """A few figures beside each other."""
    return element("dl", *(element("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_="facts")


def notes(lines: Sequence[str]) -> str:
    """What the reader has to know, a line each; nothing where there is nothing."""
    return element("ul", *(tag("li", line) for line in lines), class_="notes") if lines else ""


def render(title: str, subtitle: str, sections: Sequence[Section], thumbs: Sequence[str], footer: str) -> bytes:
    """The whole page.

    Args:
        title: heading, plain text.
        subtitle: stands below, plain text.
        sections: in their order.
        thumbs: data URIs that marks refer to by number, with `data-thumb`.
        footer: stands last, plain text.

    Returns:
        HTML in UTF-8.
    """
    links = "".join(element("li", tag("a", section.title, href=f"#{section.id}")) for section in sections)
    body = "".join(_section(section) for section in sections)
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p><nav aria-label="Sections"><ul>{links}</ul></nav></header>
<main>{body}</main>
<footer>{escape(footer)}</footer>
<div id="tip" role="status"></div>
<script type="application/json" id="thumbs">{json.dumps(list(thumbs))}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""
    return page.encode()


def _section(section: Section) -> str:
    heading = f"{section.id}-title"
    about = element("div", tag("h2", section.title, id=heading), paragraph(section.lead), class_="about")
    return element(
        "section", about, element("div", section.body, class_="content"), id=section.id, aria_labelledby=heading
    )
