"""The pictures that the classifier is most wrong about, to be looked at.

# N pictures, C classes
"""

from dataclasses import dataclass

import numpy as np

from tle.enums import Target
from tle.reporting.numbers import brief, clip, percent
from tle.reporting.page import Section, notes, paragraph
from tle.reporting.subject import Subject
from tle.reporting.svg import element, escape, tag
from tle.reporting.thumbnails import Thumbnails

SHOWN = 24
_LETTERS = 40  # of a class name below a thumbnail
_SIDE = 176  # pixels: what a thumbnail measures on most screens


@dataclass(frozen=True, slots=True)
class _Mistake:
    """One mistake: row of the source, and what stands below the picture, as markup."""

    row: int
    caption: str


def mistakes(subject: Subject, thumbnails: Thumbnails) -> Section:
    """Thumbnails of the most confident mistakes; of a regression, of the largest errors."""
    if subject.target is Target.CLASS:
        title, found, n = "Most confident mistakes", *_of_classes(subject)
        lead = "Often a wrong label, a picture of two things, or one that should not be there. The surest come first."
    elif subject.target is Target.MULTILABEL:
        title, found, n = "Most confident mistakes", *_of_labels(subject)
        lead = "A label that was given and is not there, or is there and was not given; the surest come first."
    else:
        title, found, n = "Largest errors", *_of_values(subject)
        lead = "Pictures whose value is farthest from the truth. Often the label is wrong."
    if not found:
        body = paragraph("There is no mistake among these pictures.")
        return Section("mistakes", title, lead, body)
    uris = thumbnails.make([mistake.row for mistake in found], side=_SIDE)
    items = []
    for mistake in found:
        uri, id_ = uris.get(mistake.row), subject.id_of(mistake.row)
        image = element("span", "not shown") if uri is None else f'<img src="{uri}" alt="{escape(id_)}">'
        caption = element("figcaption", mistake.caption, tag("span", id_, class_="id"))
        items.append(element("li", element("figure", element("div", image, class_="frame"), caption)))
    body = element("ul", *items, class_="gallery")
    if n > len(found):
        body += paragraph(f"{len(found)} of {n:,} are shown.", class_="soft small")
    return Section("mistakes", title, lead, body + notes(thumbnails.notes()))


def _of_classes(subject: Subject) -> tuple[list[_Mistake], int]:
    wrong = np.flatnonzero(subject.predicted != subject.labels)
    order = wrong[np.argsort(-subject.confidence[wrong], kind="stable")]
    found = []
    for place in order[:SHOWN]:
        true, predicted = subject.classes[subject.labels[place]], subject.classes[subject.predicted[place]]
        said = f"{escape(clip(predicted, _LETTERS))} {percent(float(subject.confidence[place]), 0)}"
        caption = f'<b>{escape(clip(true, _LETTERS))}</b>, taken for <b class="was">{said}</b>'
        found.append(_Mistake(int(subject.rows[place]), caption))
    return found, len(wrong)


def _of_labels(subject: Subject) -> tuple[list[_Mistake], int]:
    off_NC = np.abs(subject.scores - subject.labels)
    places = np.argwhere(off_NC > 0.5)
    order = np.argsort(-off_NC[places[:, 0], places[:, 1]], kind="stable")
    found = []
    for place, column in places[order[:SHOWN]]:
        given = "is there" if subject.labels[place, column] else "is not there"
        said = f"given {percent(float(subject.scores[place, column]), 0)}"
        caption = f'<b>{escape(clip(subject.classes[column], _LETTERS))}</b> {given}, <b class="was">{said}</b>'
        found.append(_Mistake(int(subject.rows[place]), caption))
    return found, len(places)


def _of_values(subject: Subject) -> tuple[list[_Mistake], int]:
    off_N = np.abs(subject.scores - subject.labels)
    found = []
    for place in np.argsort(-off_N, kind="stable")[:SHOWN]:
        true, said = brief(float(subject.labels[place])), brief(float(subject.scores[place]))
        found.append(_Mistake(int(subject.rows[place]), f'true <b>{true}</b>, predicted <b class="was">{said}</b>'))
    return found, len(off_N)
