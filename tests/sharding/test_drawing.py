"""Drawings of plans."""

import re
from html.parser import HTMLParser

import pytest

from cassr_jax.sharding.drawing import _round, _ticks, bars, lines


class Marks(HTMLParser):
    """The attributes of the elements of a drawing, by tag, and its words."""

    def __init__(self, text: str):
        super().__init__()
        self.found: dict[str, list[dict[str, str]]] = {}
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.setdefault(tag, []).append(dict(attrs))

    def handle_data(self, data):
        self.words.append(data)


def percent(element: dict[str, str], *names: str) -> list[float]:
    return [float(element[name].removesuffix("%")) for name in names]


@pytest.mark.parametrize(
    ("most", "ticks"),
    [(131.3, [0, 50, 100]), (14.9, [0, 5, 10]), (1.0, [0, 0.5, 1.0]), (0.0042, [0, 0.002, 0.004]), (4.9, [0, 2, 4])],
)
def test_an_axis_has_round_numbers(most: float, ticks: list[float]):
    assert _ticks(most) == pytest.approx(ticks)
    assert _round(30, 1200) == [50, 100, 200, 500, 1000]


def test_bars_are_as_long_as_their_parts():
    drawn = Marks(bars([("a", {"x": 1.0, "y": 3.0}), ("<b>", {"y": 6.0})], "{:g} s".format, [8.0, None], "the limit"))
    rects = drawn.found["rect"]
    assert [percent(rect, "x", "width") for rect in rects] == [[0, 12.5], [12.5, 37.5], [0, 75]]
    assert rects[1]["fill"] == rects[2]["fill"] != rects[0]["fill"]
    (limit,) = [line for line in drawn.found["line"] if line.get("stroke")]
    assert percent(limit, "x1", "x2") == [100, 100]
    assert {"4 s of 8 s: a", "6 s: <b>", "the limit", "0", "2 s", "8 s"} <= set(drawn.words)


def test_lines_go_through_their_points_and_beside_what_proportion_gives():
    text = lines({"even": [(8, 10.0), (16, 20.0), (32, 40.0)], "less": [(8, 10.0), (32, 20.0)]}, "devices", "images/s")
    drawn = Marks(text)
    places = [percent(circle, "cx", "cy") for circle in drawn.found["circle"]]
    (left, bottom), (middle, half), (right, top), first, last = places
    assert first == [left, bottom]
    assert middle == pytest.approx((left + right) / 2)
    assert half == pytest.approx((bottom + top) / 2, abs=0.01)
    assert last == [right, half]  # half of what 32 devices would give
    dashed = [line for line in drawn.found["line"] if "stroke-dasharray" in line]
    assert percent(dashed[-1], "x2", "y2") == [right, top]
    assert {"8", "16", "32", "10", "20"} <= set(drawn.words)


def test_no_drawing_is_wider_than_its_page():
    text = bars([("a", {"x": 1.0})], str) + lines({"a": [(1, 1.0), (2, 3.0)]}, "x", "y")
    assert re.findall(r'<svg width="([^"]*)"', text) == ["100%"] * 2
    assert all(0 <= float(value) <= 100 for value in re.findall(r'="(-?[\d.]+)%"', text))
