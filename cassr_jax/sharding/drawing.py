"""Drawings for a page: bars of several parts and lines, as SVG that fits any width."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise

COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")
LIMIT = "#d62728"
_TEXT, _BAR, _GAP, _AXIS = 20, 22, 14, 26  # px: the line of a title, a bar, the space below it, the numbers of an axis
_TICKS = 2  # at least so many steps of an axis, and at most five: their numbers need room
_HEIGHT = 280  # px, of lines
_LEFT, _RIGHT, _TOP, _BOTTOM = 12.0, 96.0, 4.0, 88.0  # the place of lines in percent of the width and the height

Words = Callable[[float], str]


def bars(
    given: Sequence[tuple[str, Mapping[str, float]]],
    say: Words,
    limits: Sequence[float | None] | None = None,
    limit: str = "",
    unit: float = 1.0,
) -> str:
    """Horizontal bars of several parts, with their titles above them, an axis below and a key.

    Args:
        given: the title of each bar, and its parts by name.
        say: the words for a value.
        limits: the limit of each bar, which a stroke marks; None for none.
        limit: what the limits are, for the key.
        unit: the axis has round numbers of this.
    """
    limits = limits or [None] * len(given)
    names = list(dict.fromkeys(name for _, parts in given for name in parts))
    most = max([sum(parts.values()) for _, parts in given] + [value for value in limits if value is not None]) or 1.0
    height = len(given) * (_TEXT + _BAR + _GAP)
    marks = []
    for value in _ticks(most / unit):
        marks += _mark(100 * value * unit / most, say(value * unit) if value else "0", height)
    for number, ((title, parts), most_of_it) in enumerate(zip(given, limits, strict=True)):
        top, left = number * (_TEXT + _BAR + _GAP), 0.0
        whole = say(sum(parts.values()))
        words = whole + ("" if most_of_it is None else f" of {say(most_of_it)}") + f": {title}"
        marks.append(f'<text x="0" y="{top + 15}">{escape(words)}</text>')
        for name, value in parts.items():
            width, color = 100 * value / most, COLORS[names.index(name) % len(COLORS)]
            marks.append(
                f'<rect x="{left:.2f}%" y="{top + _TEXT}" width="{width:.2f}%" height="{_BAR}" fill="{color}">'
                f"<title>{escape(f'{name}: {say(value)}')}</title></rect>"
            )
            left += width
        if most_of_it is not None:
            marks.append(
                _line(100 * most_of_it / most, top + _TEXT - 3, 100 * most_of_it / most, top + _TEXT + _BAR + 3, LIMIT)
            )
    key = [(COLORS[number % len(COLORS)], name) for number, name in enumerate(names)]
    key += [(LIMIT, limit)] if any(value is not None for value in limits) else []
    return _key(key) + _svg(height + _AXIS, marks)


def lines(given: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str) -> str:
    """Lines over a number that doubles, both axes logarithmic, with what proportion to the first point would give.

    Args:
        given: title -> points (x, y) above 0, at least two, in the order of x.
        across, up: what x and y are.
    """
    places = sorted({x for points in given.values() for x, _ in points})
    ideal = {title: [(x, y) for x, y in _proportional(points)] for title, points in given.items()}
    values = [y for points in (*given.values(), *ideal.values()) for _, y in points]
    low, high = math.log(min(values)), math.log(max(values))

    def at(x: float, y: float) -> tuple[float, float]:
        right = math.log(x / places[0]) / math.log(places[-1] / places[0])
        above = (math.log(y) - low) / ((high - low) or 1.0)
        return _LEFT + (_RIGHT - _LEFT) * right, _BOTTOM - (_BOTTOM - _TOP) * above

    def percent(points: Sequence[tuple[float, float]], color: str, more: str = "") -> list[str]:
        ends = [at(*point) for point in points]
        return [
            f'<line x1="{a:.2f}%" y1="{b:.2f}%" x2="{c:.2f}%" y2="{d:.2f}%" stroke="{color}" stroke-width="2" {more}/>'
            for (a, b), (c, d) in pairwise(ends)
        ]

    marks = []
    for value in _round(min(values), max(values)):
        _, y = at(places[0], value)
        marks.append(f'<line class="grid" x1="{_LEFT}%" y1="{y:.2f}%" x2="{_RIGHT}%" y2="{y:.2f}%"/>')
        marks.append(f'<text x="{_LEFT - 1}%" y="{y:.2f}%" dy="4" text-anchor="end">{value:,.6g}</text>')
    for x in places:
        marks.append(f'<text x="{at(x, 1)[0]:.2f}%" y="97%" text-anchor="middle">{x:,.6g}</text>')
    for number, (title, points) in enumerate(given.items()):
        color = COLORS[number % len(COLORS)]
        marks += percent(ideal[title], color, 'stroke-dasharray="4 4" opacity="0.5"') + percent(points, color)
        for x, y in points:
            cx, cy = at(x, y)
            words = escape(f"{title}, {x:g}: {y:,.4g}")
            marks.append(f'<circle cx="{cx:.2f}%" cy="{cy:.2f}%" r="4" fill="{color}"><title>{words}</title></circle>')
    key = [(COLORS[number % len(COLORS)], title) for number, title in enumerate(given)]
    caption = f"{up}, over {across}; dashed: in proportion to the first"
    return f"<p>{escape(caption)}</p>" + _key(key) + _svg(_HEIGHT, marks)


def _proportional(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    (first, value), *_ = points
    return [(x, value * x / first) for x, _ in points]


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 up to `most`, at most six of them."""
    step = max(value for value in _round(most / 1000, most) if most / value >= _TICKS)
    return [step * number for number in range(math.floor(most / step) + 1)]


def _round(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (part * 10.0**power for power in powers for part in (1, 2, 5))
    return [value for value in values if low <= value <= high]


def _mark(at: float, words: str, height: float) -> list[str]:
    anchor = "start" if at < 5 else "end" if at > 90 else "middle"
    return [
        f'<line class="grid" x1="{at:.2f}%" y1="0" x2="{at:.2f}%" y2="{height}"/>',
        f'<text x="{at:.2f}%" y="{height + 16}" text-anchor="{anchor}">{escape(words)}</text>',
    ]


def _line(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    return f'<line x1="{x1:.2f}%" y1="{y1}" x2="{x2:.2f}%" y2="{y2}" stroke="{color}" stroke-width="3"/>'


def _key(entries: Sequence[tuple[str, str]]) -> str:
    found = (f'<span><i style="background:{color}"></i>{escape(name)}</span>' for color, name in entries)
    return f'<p class="key">{" ".join(found)}</p>'


def _svg(height: float, marks: Sequence[str]) -> str:
    return f'<svg width="100%" height="{height}" role="img">{"".join(marks)}</svg>'
