"""Figures as SVG inside a page: charts, intervals in rows, histograms. The page's style gives them their colours.

Every figure says in words what it shows; lines differ in their dashes and have their names beside them, so that no
colour is needed to tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.pages.axes import Scale, apart, exact, scale, short
from finetune.pages.markup import Content, Markup, tag

WIDTH, HEIGHT = 420.0, 236.0
_LEFT, _TOP, _BOTTOM = 50.0, 30.0, 40.0
_GUTTER = 142.0  # at the right, where lines have their names
_LETTERS = 23  # that fit there
_LABEL = 13.0  # from label to label

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points with a name; `look` is a class of the style. Points of a span have an interval each, low and high."""

    name: str
    points: Sequence[Point]
    look: str
    is_line: bool = True
    has_dots: bool = False
    spans: Sequence[Point] = ()

    def sound(self) -> list[Point]:
        """The points that can be drawn."""
        return [point for point in self.points if all(map(math.isfinite, point))]


@dataclass(frozen=True)
class Level:
    """A value to compare with: a horizontal line."""

    name: str
    value: float


@dataclass(frozen=True)
class Mark:
    """A place worth a vertical line, and a ring at a height if it has one."""

    name: str
    x: float
    y: float | None = None
    look: str = "mark"


def chart(
    title: str,
    series: Sequence[Series],
    x_name: str,
    y_name: str = "",
    levels: Sequence[Level] = (),
    marks: Sequence[Mark] = (),
    may_be_log: bool = False,
    is_square: bool = False,
    is_over_choices: bool = False,
) -> Markup:
    """Series over a common axis, as a figure with its title; nothing where there is no point to draw.

    Args:
      is_over_choices: what lies across was chosen, and is no time that begins at 0: ratios may count on it.
      is_square: both axes have the same scale, and a diagonal.
    """
    shown = [one for one in series if one.sound()]
    points = [point for one in shown for point in one.sound()]
    if not points:
        return Markup()
    xs, ys = [x for x, _ in points], [y for _, y in points]
    ys += [end for one in shown for span in one.spans for end in span] + [level.value for level in levels]
    xs, ys = ([*xs, *ys], [*xs, *ys]) if is_square else (xs if is_over_choices else [0.0, *xs], ys)
    gutter = 14.0 if len(shown) == 1 and not levels else _GUTTER
    right, bottom = WIDTH - gutter, HEIGHT - _BOTTOM
    across = scale(xs, _LEFT, right, is_over_choices, 0.03 if is_square else 0.05 if is_over_choices else 0.0)
    up = scale(ys, bottom, _TOP, may_be_log, room=0.03 if is_square else 0.06)
    if is_square:
        across = Scale(across.low, across.high, _LEFT, _LEFT + bottom - _TOP)
        right = across.end
    named = [(level.name, up(level.value), "level") for level in levels]
    named += [(one.name, up(one.sound()[-1][1]), one.look) for one in shown]
    parts = [
        *_frame(across, up, x_name, y_name, right, bottom),
        tag("path", class_="diagonal", d=f"M{_LEFT:.1f} {bottom:.1f}L{right:.1f} {_TOP:.1f}") if is_square else None,
        *(tag("path", class_="level", d=f"M{_LEFT:.1f} {up(v.value):.1f}H{right:.1f}") for v in levels),
        *(_mark(mark, across, up, right, bottom) for mark in marks if across.low <= mark.x <= across.high),
        *(_drawn(one, across, up) for one in shown),
        *(_names(named, right, bottom) if gutter == _GUTTER else ()),
    ]
    return _figure(title, parts, HEIGHT, _told(shown, x_name, levels, marks))


def _frame(across: Scale, up: Scale, x_name: str, y_name: str, right: float, bottom: float) -> list[Markup]:
    return [
        *(tag("path", class_="grid", d=f"M{_LEFT:.1f} {up(y):.1f}H{right:.1f}") for y in up.ticks()),
        *(_words(_LEFT - 6, up(y) + 4, short(y), "end") for y in up.ticks()),
        *(_words(across(x), bottom + 16, short(x), "middle") for x in across.ticks()),
        tag("path", class_="axis", d=f"M{_LEFT:.1f} {bottom:.1f}H{right:.1f}"),
        _words((_LEFT + right) / 2, bottom + 32, x_name + " (log)" * across.is_log, "middle"),
        *([_words(_LEFT - 44, _TOP - 12, y_name + (" (log)" if up.is_log else ""))] if y_name or up.is_log else []),
    ]


def _drawn(one: Series, across: Scale, up: Scale) -> Markup:
    shown = one.sound() if one.spans else thinned(one.sound())
    places = [(across(x), up(y)) for x, y in shown]
    spans = zip(places, one.spans, strict=True) if one.spans else ()
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return tag(
        "g",
        [tag("path", class_="span", d=f"M{x:.1f} {up(a):.1f}V{up(b):.1f}") for (x, _), (a, b) in spans],
        tag("path", class_="line", d=f"M{path}") if one.is_line and len(places) > 1 else None,
        [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.4") for x, y in places]
        if one.has_dots or len(places) == 1
        else None,
        class_=one.look,
    )


def thinned(points: Sequence[Point], most: int = 400) -> list[Point]:
    """As many points as a figure can show: of each stretch the lowest and the highest, so that no peak is lost.

    >>> thinned([(0, 1.0), (1, 5.0), (2, 2.0), (3, 0.0), (4, 1.0), (5, 1.0)], most=4)
    [(0, 1.0), (1, 5.0), (3, 0.0), (4, 1.0)]
    """
    if len(points) <= most:
        return list(points)
    size = -(-len(points) // (most // 2))
    found = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        found += sorted(ends)
    return found


def _mark(mark: Mark, across: Scale, up: Scale, right: float, bottom: float) -> Markup:
    x = across(mark.x)
    is_late = x + 6 * len(mark.name) > right
    ring = None if mark.y is None else tag("circle", cx=f"{x:.1f}", cy=f"{up(mark.y):.1f}", r="5")
    y = _TOP - 2 if ring is None else bottom - 5
    words = _words(x - 3 if is_late else x + 3, y, mark.name, "end" if is_late else "")
    return tag("g", tag("path", d=f"M{x:.1f} {_TOP:.1f}V{bottom:.1f}"), ring, words, class_=mark.look)


def _names(named: Sequence[tuple[str, float, str]], right: float, bottom: float) -> list[Markup]:
    """What lines are called, each with a piece of its own dashes; levels are seen to lead to their names."""
    places = apart([y for _, y, _ in named], _LABEL, _TOP, bottom)
    found = []
    for (name, _, look), y in zip(named, places, strict=True):
        own = 0 if look == "level" else 22
        piece = tag("path", class_="line", d=f"M{right + 6:.1f} {y:.1f}h18") if own else None
        words = _words(right + 6 + own, y + 4, _cropped(name, _LETTERS - own // 3))
        found.append(tag("g", piece, words, class_=f"name {look}"))
    return found


@dataclass(frozen=True)
class Row:
    """A value with a name, and how far it may be off where that is known."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def rows(title: str, given: Sequence[Row], x_name: str) -> Markup:
    """Values below each other, the first one's interval going through all the others."""
    shown = [row for row in given if math.isfinite(row.value)]
    if not shown:
        return Markup()
    ends = [end for row in shown for end in (row.value, row.low, row.high) if end is not None]
    bottom = 14 + 26.0 * len(shown)
    across = scale(ends, 122.0, WIDTH - 60, may_be_log=True)
    first = shown[0]
    parts: list[Content] = [
        *(tag("path", class_="grid", d=f"M{across(x):.1f} 8V{bottom:.1f}") for x in across.ticks()),
        *(_words(across(x), bottom + 16, short(x), "middle") for x in across.ticks()),
        tag("path", class_="axis", d=f"M{across.start:.1f} {bottom:.1f}H{across.end:.1f}"),
        _words(WIDTH / 2, bottom + 32, x_name + (" (log)" if across.is_log else ""), "middle"),
    ]
    if first.low is not None and first.high is not None:
        left, width = across(first.low), across(first.high) - across(first.low)
        parts.append(tag("rect", class_="band", x=f"{left:.1f}", y=8, width=f"{width:.1f}", height=f"{bottom - 8:.1f}"))
    for number, row in enumerate(shown):
        y, look = 26.0 + 26 * number, "held" if row is first else "other"
        whisker = None
        if row.low is not None and row.high is not None:
            whisker = tag("path", class_="span", d=f"M{across(row.low):.1f} {y:.1f}H{across(row.high):.1f}")
        dot = tag("circle", cx=f"{across(row.value):.1f}", cy=f"{y:.1f}", r="4")
        name = _words(114, y + 4, _cropped(row.name, 18), "end")
        parts.append(tag("g", whisker, dot, name, _words(across.end + 8, y + 4, exact(row.value)), class_=look))
    told = "; ".join(f"{row.name} {exact(row.value)}" for row in shown)
    return _figure(title, parts, bottom + 40, told)


def histogram(title: str, values: Sequence[float], x_name: str, bins: int = 24) -> Markup:
    """How many values lie where."""
    given = [value for value in values if math.isfinite(value)]
    if not given:
        return Markup()
    low, high = min(given), max(given)
    width = (high - low) / bins or 1.0
    counts = [0] * bins
    for value in given:
        counts[min(int((value - low) / width), bins - 1)] += 1
    right, bottom = WIDTH - 14, HEIGHT - _BOTTOM
    across, up = Scale(low, low + bins * width, _LEFT, right), Scale(0.0, max(counts) * 1.06, bottom, _TOP)
    each = (right - _LEFT) / bins
    bars = [
        tag(
            "rect",
            tag("title", f"{short(low + i * width)} to {short(low + (i + 1) * width)}: {count}"),
            class_="bar",
            x=f"{_LEFT + i * each + 0.5:.1f}",
            y=f"{up(count):.1f}",
            width=f"{each - 1:.1f}",
            height=f"{bottom - up(count):.1f}",
        )
        for i, count in enumerate(counts)
        if count
    ]
    told = f"{len(given)} values from {short(low)} to {short(high)}"
    return _figure(title, [*_frame(across, up, x_name, "examples", right, bottom), *bars], HEIGHT, told)


def _figure(title: str, parts: Content, height: float, told: str) -> Markup:
    drawn = tag("svg", parts, viewBox=f"0 0 {WIDTH:.0f} {height:.0f}", role="img", aria_label=f"{title}: {told}")
    return tag("figure", tag("figcaption", title), drawn)


def _told(series: Sequence[Series], x_name: str, levels: Sequence[Level], marks: Sequence[Mark]) -> str:
    """A chart in words, for those who do not see it."""
    ends = [(one.name or "it", one.sound()[0], one.sound()[-1]) for one in series]
    said = [
        f"{name} from {short(a[1])} at {x_name} {short(a[0])} to {short(b[1])} at {short(b[0])}" for name, a, b in ends
    ]
    return "; ".join([*said, *(f"{v.name} {short(v.value)}" for v in levels), *(m.name for m in marks)])


def _words(x: float, y: float, text: str, anchor: str = "") -> Markup:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor or None)


def _cropped(text: str, letters: int) -> str:
    """Text of a limited length; the end of a longer one is kept, for that is what names differ in."""
    return text if len(text) <= letters else f"…{text[1 - letters :]}"
