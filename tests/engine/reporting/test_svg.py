import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tle.reporting.svg import Frame, Scale, chart, element, escape, spread, tag


def test_text_is_harmless_and_attributes_are_quoted():
    hostile = "<script>\"'&\n"
    made = tag("text", hostile, data_tip=hostile, class_="a", text_anchor="end", x=1.5, hidden=None)
    parsed = ET.fromstring(made)
    assert parsed.text == "<script>\"'&\\n"
    assert parsed.attrib == {
        "data-tip": hostile,
        "class": "a",
        "text-anchor": "end",
        "x": "1.5",
    }
    assert escape("\x00") == "\\x00"
    assert escape("5\N{NO-BREAK SPACE}%") == "5&#160;%"


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_round_inside_and_about_as_many_as_wanted(low, width, wanted):
    scale = Scale(low, low + width, 0.0, 100.0)
    ticks = scale.ticks(wanted)
    assert 1 <= len(ticks) <= wanted + 1
    for value in ticks:
        assert low - 1e-6 * width <= value <= low + width * (1 + 1e-6)
    if len(ticks) > 2:
        np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-5, atol=1e-9)


def test_a_logarithmic_scale_spaces_factors_evenly():
    scale = Scale(1e-5, 1e-1, 300.0, 0.0, log=True)
    places = [scale(10.0**power) for power in range(-5, 0)]
    np.testing.assert_allclose(np.diff(places), -75.0)
    np.testing.assert_allclose(scale.ticks(), [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert Scale(2e-3, 6e-3, 0.0, 1.0, log=True).ticks() == pytest.approx([2e-3, 5e-3])


def test_a_range_is_never_empty():
    for values in ([], [3.0], [0.0, 0.0], [float("nan")], [1.0, 2.0]):
        low, high = spread(values)
        assert low < high


def test_a_chart_with_marks_is_reached_by_keyboard_and_others_are_not_in_the_way():
    frame = Frame.of((0.0, 1.0), (0.0, 1.0))
    with_marks = ET.fromstring(chart(frame.axes("x", "y") + frame.dot(0.5, 0.5, tip="half"), label="A & B"))
    assert with_marks.attrib["tabindex"] == "0"
    assert with_marks.attrib["aria-label"] == "A & B"
    assert "tabindex" not in ET.fromstring(chart(element("g"), label="none")).attrib
