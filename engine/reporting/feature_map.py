"""A map of the pictures: near each other where the backbone sees them alike.

# n pictures, m drawn, D feature dim
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tle.enums import Target
from tle.reporting.numbers import brief, clip, percent
from tle.reporting.page import Section, notes, paragraph
from tle.reporting.subject import Subject
from tle.reporting.svg import Scale, chart, element, escape, spread, tag
from tle.reporting.thumbnails import Thumbnails

_POINTS = 1500
_SIDE = 84  # pixels of a thumbnail
_WIDTH, _HEIGHT, _EDGE = 760.0, 520.0, 14.0
# Hues that are told apart by people with any of the usual colour vision deficiencies (Okabe and Ito 2008), times shapes.
_COLOURS, _SHAPES = 6, 4
_RADIUS = 4.6


def feature_map(subject: Subject, thumbnails: Thumbnails) -> tuple[Section, list[str]]:
    """The two directions in which the features vary most, a mark a picture.

    Returns:
        The section, and the thumbnails that its marks refer to.
    """
    title = "Map of the features"
    lead = (
        "Each mark is a picture; near marks look alike to the backbone. Classes that overlap here may still be told apart "
        "in the other dimensions. Point at a mark, or press the arrow keys, to see its picture."
    )
    n = len(subject.rows)
    if n < 3 or not np.ptp(subject.features, axis=0).any():
        return Section("map", title, lead, paragraph("There are too few different pictures for a map.")), []
    places = np.arange(n) if n <= _POINTS else np.arange(_POINTS) * n // _POINTS
    points_m2, share = _principal(subject.features[places])
    wrong = _wrong(subject)[places]
    order = np.argsort(~wrong, kind="stable")  # where not all fit on the page, mistakes are what is looked for
    rows = [int(subject.rows[place]) for place in places]
    uris = thumbnails.make([rows[index] for index in order], side=_SIDE)
    number = {row: index for index, row in enumerate(uris)}
    drawing = np.argsort(points_m2[:, 0], kind="stable")  # the arrow keys then go from left to right
    x = Scale(*spread(points_m2[:, 0].tolist()), _EDGE, _WIDTH - _EDGE)
    y = Scale(*spread(points_m2[:, 1].tolist()), _HEIGHT - _EDGE, _EDGE)
    one_hue = subject.target is not Target.CLASS or len(subject.classes) > _COLOURS * _SHAPES
    parts = [
        _mark(
            subject,
            int(places[index]),
            (x(points_m2[index, 0]), y(points_m2[index, 1])),
            number.get(rows[index]),
            miss=bool(wrong[index]),
            one_hue=one_hue,
        )
        for index in drawing
    ]
    drawn = chart(
        "".join(parts), label="Map of the features", width=_WIDTH, height=_HEIGHT, nearest=True, name="chart map"
    )
    body = _legend(subject, one_hue=one_hue) + element("div", drawn, id="map-chart")
    body += paragraph(
        f"Across: the first principal component, {percent(share[0], 0)} of the variance; upwards: the second, "
        f"{percent(share[1], 0)}.",
        class_="soft small",
    )
    lines = [f"{len(places):,} of {n:,} pictures are drawn, evenly spread"] if n > len(places) else []
    return Section("map", title, lead, body + notes(lines + thumbnails.notes())), list(uris.values())


def _principal(features_mD: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(m, 2) coordinates along the two principal components, and their shares of the variance."""
    from sklearn.decomposition import PCA

    dims = min(2, *features_mD.shape)
    pca = PCA(dims, svd_solver="full" if min(features_mD.shape) < 64 else "randomized", random_state=0)
    found = pca.fit_transform(features_mD.astype(np.float64))
    points_m2, share = np.zeros((len(found), 2)), np.zeros(2)
    points_m2[:, :dims], share[:dims] = found, pca.explained_variance_ratio_
    return points_m2, share


def _wrong(subject: Subject) -> NDArray[np.bool_]:
    """(n,) which pictures the classifier gets wrong; of a regression the tenth with the largest errors."""
    if subject.target is Target.CLASS:
        return np.asarray(subject.predicted != subject.labels)
    if subject.target is Target.MULTILABEL:
        return np.asarray(((subject.scores >= 0.5) != subject.labels.astype(bool)).any(axis=1))
    off_N = np.abs(subject.scores - subject.labels)
    return np.asarray(off_N > np.quantile(off_N, 0.9))


def _mark(
    subject: Subject, place: int, at: tuple[float, float], thumb: int | None, *, miss: bool, one_hue: bool
) -> str:
    """One picture of the map."""
    id_ = clip(subject.id_of(int(subject.rows[place])), 60)
    if subject.target is Target.CLASS:
        label = int(subject.labels[place])
        name, group = subject.classes[label], str(label)
        said = subject.classes[subject.predicted[place]]
        told = f"{name}\ntaken for {said}" if miss else name
    elif subject.target is Target.MULTILABEL:
        own = np.flatnonzero(subject.labels[place])
        told = ", ".join(subject.classes[label] for label in own) or "no label"
        group, label = " ".join(map(str, own)), 0
    else:
        told = f"true {brief(float(subject.labels[place]))}, predicted {brief(float(subject.scores[place]))}"
        group, label = "", 0
    kind = ("bad" if miss else "plain") if one_hue else f"p{label % _COLOURS}{' miss' if miss else ''}"
    common = {
        "class_": f"point {kind}",
        "data_tip": f"{told}\n{id_}",
        "data_thumb": thumb,
        "data_group": group or None,
        "data_x": at[0],
        "data_y": at[1],
    }
    return _shape(0 if one_hue else label // _COLOURS, at, _RADIUS, **common)


def _shape(number: int, at: tuple[float, float], radius: float, **attributes: object) -> str:
    """A circle, square, triangle or diamond of about the same area."""
    x, y = at
    if number == 0:
        return element("circle", cx=x, cy=y, r=radius, **attributes)
    r = 1.25 * radius
    corners = {
        1: ((-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)),
        2: ((0.0, -1.1), (1.05, 0.8), (-1.05, 0.8)),
        3: ((0.0, -1.08), (1.08, 0.0), (0.0, 1.08), (-1.08, 0.0)),
    }[number]
    return element("polygon", points=" ".join(f"{x + r * i:.2f},{y + r * j:.2f}" for i, j in corners), **attributes)


def _legend(subject: Subject, *, one_hue: bool) -> str:
    """Buttons that pick a class out of the map, or a list of them where they are many."""
    if not one_hue:
        items = [
            element(
                "li",
                element(
                    "button",
                    _sample(f"p{label % _COLOURS}", label // _COLOURS),
                    escape(name),
                    type="button",
                    value=label,
                    aria_pressed="false",
                ),
            )
            for label, name in enumerate(subject.classes)
        ]
        ringed = element("li", _sample("plain miss", 0), tag("span", "ringed: misclassified"))
        return element("ul", *items, ringed, class_="legend", data_picks="map-chart")
    words = "among the tenth with the largest errors" if subject.target is Target.REGRESSION else "misclassified"
    legend = element("ul", element("li", _sample("bad", 0), tag("span", words)),
                     element("li", _sample("plain", 0), tag("span", "the others")), class_="legend")  # fmt: skip
    return legend + (_choice(subject.classes) if subject.classes else "")


def _sample(kind: str, shape: int) -> str:
    return element(
        "svg", _shape(shape, (7.0, 7.0), 4.6, class_=f"point {kind}"), viewBox="0 0 14 14", aria_hidden="true"
    )


def _choice(classes: Sequence[str]) -> str:
    options = [
        tag("option", "all", value=""),
        *(tag("option", name, value=label) for label, name in enumerate(classes)),
    ]
    return element("p", element("label", "Show ", element("select", *options, data_picks="map-chart")), class_="small")
