from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from finetune.pages.plots import Level, Mark, Row, Series, chart, histogram, rows, thinned

NAN, INF = float("nan"), float("inf")


def svg(figure: str) -> ElementTree.Element:
    found = ElementTree.fromstring(figure).find("svg")
    assert found is not None
    return found


def numbers(drawn: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in drawn.iter("circle")]


def test_points_lie_where_their_values_are():
    series = [Series("it", [(0, 1.0), (5, 3.0), (10, 2.0)], "held", has_dots=True)]
    (x0, y0), (x1, y1), (x2, y2) = numbers(svg(chart("t", series, "step")))
    assert x0 < x1 < x2
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y2 < y0  # upwards is less
    assert y0 - y2 == pytest.approx(y2 - y1, abs=0.2)


def test_everything_stays_on_the_paper():
    series = [Series(f"a very long name of a line {i}", [(i, i * 10.0), (9, 5)], f"s{i}") for i in range(6)]
    marks = [Mark("phase", 3), Mark("best 5", 9, 5.0, "best"), Mark("beyond", 99)]
    drawn = svg(chart("t", series, "step", levels=[Level("probe 70", 70.0)], marks=marks))
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    for text in drawn.iter("text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height
        if text.attrib.get("text-anchor") is None:
            assert float(text.attrib["x"]) + 5.9 * len(text.text or "") <= width
    named = [text.text for text in drawn.iter("text")]
    assert "beyond" not in named
    assert "probe 70" in named
    places = [float(t.attrib["y"]) for g in drawn.iter("g") if "name" in g.attrib["class"] for t in g.iter("text")]
    assert len(places) == len(set(places)) == 7


def test_lines_differ_in_more_than_their_colour():
    drawn = svg(chart("t", [Series(n, [(0, 1.0), (1, 2.0)], f"s{i}") for i, n in enumerate("ab")], "step"))
    named = [g.attrib["class"] for g in drawn.iter("g") if "name" in g.attrib["class"] and g.find("path") is not None]
    assert named == ["name s0", "name s1"]  # each name has a piece of its line


def test_what_is_no_number_is_left_out():
    drawn = svg(chart("t", [Series("it", [(0, 1.0), (1, NAN), (2, INF), (3, 2.0)], "held", has_dots=True)], "step"))
    assert len(numbers(drawn)) == 2
    assert chart("t", [Series("it", [(0, NAN)], "held")], "step") == ""
    assert chart("t", [], "step") == ""
    assert rows("t", [Row("it", NAN)], "x") == ""
    assert histogram("t", [NAN], "x") == ""


def test_a_single_point_is_seen():
    assert len(numbers(svg(chart("t", [Series("it", [(0, 0.0)], "held")], "step")))) == 1


def test_rows_have_their_intervals():
    drawn = svg(rows("t", [Row("model", 0.9, 0.8, 0.95), Row("probe", 0.7)], "accuracy"))
    (model, _), (probe, _) = numbers(drawn)
    (span,) = [p.attrib["d"] for p in drawn.iter("path") if p.attrib["class"] == "span"]
    left, right = (float(n) for n in re.findall(r"M([\d.]+) [\d.]+H([\d.]+)", span)[0])
    assert probe < left < model < right
    assert (model - left) / (right - model) == pytest.approx(2, abs=0.05)


def test_a_histogram_counts_every_value():
    drawn = svg(histogram("t", [0.0, 0.1, 0.1, 1.0, NAN], "x", bins=4))
    told = [title.text or "" for title in drawn.iter("title")]
    assert [int(text.rpartition(" ")[2]) for text in told] == [3, 1]
    heights = [float(bar.attrib["height"]) for bar in drawn.iter("rect")]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.3)


def test_many_points_are_thinned_and_peaks_stay():
    points = [(float(i), 1.0) for i in range(50_000)]
    points[31_234] = (31_234.0, 9.0)
    few = thinned(points)
    assert len(few) <= 400
    assert (31_234.0, 9.0) in few
    assert few == sorted(few)
    assert len(chart("t", [Series("it", points, "train")], "step")) < 20_000
    assert thinned(points[:400]) == points[:400]
