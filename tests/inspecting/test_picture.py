"""Pictures: well-formed, complete, and harmless whatever the names in them are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from finetune import packaged
from finetune.__main__ import main
from finetune.inspecting.inspect import sliced
from finetune.inspecting.layers import INPUT, JOIN, LAYER, Box, Diagram
from finetune.inspecting.layout import layout
from finetune.inspecting.picture import Caption, draw
from finetune.reading.variables import Variable
from finetune.showing import picture
from finetune.surgery.freeze import Fate

GOLDENS = Path(__file__).parents[1] / "goldens"
PAIRS = sorted({p.parent for p in GOLDENS.rglob("*.meta")})
DEMO = packaged.asset("demo/small_vgg")
SVG = "{http://www.w3.org/2000/svg}"
CAPTION = Caption(
    "pair", ["feeds: keep_prob:0 = 1.0"], "fc7:0", "float32", ["head: linear → 2 classes"], True, "a note"
)


def a_box(title: str, rate: float = 0.0, kind: str = LAYER) -> Box:
    own = Variable(f"{title}/w", f"{title}/w", 1, (2, 3), True, False)
    why = "learns" if rate else "frozen: no gradient passes the barrier"
    return Box(title, kind, ("MatMul", "Relu"), (f"{title}/MatMul",), (Fate(own, rate, why),), ((2, 3),), (None, 3))


def a_diagram(*boxes: Box) -> Diagram:
    return Diagram(boxes, {(i, i + 1): False for i in range(len(boxes) - 1)}, len(boxes) - 1)


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.encode())


def of_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if element.get("class") == name]


def words(root: ElementTree.Element) -> Iterator[str]:
    return (element.text or "" for element in root.iter(f"{SVG}text"))


def test_the_demo_is_drawn_from_its_input_to_a_new_head():
    root = parsed(picture(sliced(DEMO, "fc7")))
    text = "\n".join(words(root))
    for part in ("images:0", "float32  ?×28×28×1", "Conv2D 3×3 → BiasAdd → Relu → MaxPool", "→ ?×14×14×16 · 160 param"):
        assert part in text
    for part in ("keep_prob:0 = 1.0", "dropout", "cut fc7:0", "head: linear", "723 of 789 nodes are not needed"):
        assert part in text
    assert root.get("viewBox")
    assert root.find(f"{SVG}title") is not None
    assert "fc7" in (root.findtext(f"{SVG}desc") or "")


def test_what_learns_looks_otherwise_than_what_is_frozen_and_says_so():
    some = replace(a_box("part"), fates=(*a_box("a", 1.0).fates, *a_box("b").fates), sizes=((2, 3), (2, 3)))
    root = parsed(draw(a_diagram(a_box("below"), some, a_box("above", 0.1)), CAPTION))
    drawn = {g.get("class"): "".join(g.itertext()) for g in root.iter(f"{SVG}g") if g.find(f"{SVG}title") is not None}
    assert "frozen" in drawn["frozen"]
    assert "1 of 2 variables learn" in drawn["some"]
    assert "learns, rate × 0.1" in drawn["learns"]
    assert "below/w  2×3  frozen: no gradient passes the barrier" in drawn["frozen"]


def test_the_cut_is_a_line_and_each_barrier_a_bar():
    two = a_diagram(a_box("one"), a_box("two"))
    barred = Diagram(two.boxes, {(0, 1): True}, 1)
    open_cut = replace(CAPTION, barred=False)
    drawings = [(two, CAPTION), (two, open_cut), (barred, CAPTION), (barred, open_cut)]
    bars = [len(of_class(parsed(draw(*drawing)), "bar")) for drawing in drawings]
    assert bars == [2, 1, 3, 2]  # one of them in the legend
    assert len(of_class(parsed(draw(two, CAPTION)), "cut")) == 1


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        '"/><image href="http://example.org/x"/>',
        "]]>&lt;",
        "bad\x00\x1b[31m\n\ud800",
        "x" * 5000,
    ],
    ids=["script", "attribute", "section", "control", "long"],
)
def test_hostile_names_are_text_and_stay_within_bounds(name: str):
    caption = Caption(name, [name], name, name, [name, name], True, name)
    text = draw(a_diagram(replace(a_box(name), kind=INPUT), a_box(name), a_box(name, 1.0, JOIN)), caption)
    root = parsed(text)
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
        "svg",
        "title",
        "desc",
        "style",
        "rect",
        "path",
        "g",
        "text",
    }
    assert not any("href" in key or key.startswith("on") for e in root.iter() for key in e.keys())  # noqa: SIM118
    assert len(text) < 20_000
    assert max(len(line) for line in words(root)) < 120


@pytest.mark.parametrize("folder", PAIRS, ids=lambda p: p.name)
def test_every_golden_has_a_picture_with_all_its_variables(folder: Path):
    found = sliced(str(folder))
    root = parsed(picture(found))
    held = [fate.variable.name for box in found.diagram.boxes for fate in box.fates]
    told = "\n".join(title.text or "" for title in root.iter(f"{SVG}title"))
    assert held
    assert len(held) == len(set(held))
    assert all(f"variable {name}  " in told for name in held)


def test_boxes_and_lanes_of_a_row_do_not_overlap():
    sizes = [(200.0, 60.0 + 10 * (i % 3)) for i in range(12)]
    edges = [(a, b) for a in range(12) for b in range(a + 1, 12) if (a * 7 + b * 3) % 5 < 2]
    placed = layout(sizes, edges)
    spans = [(x - w / 2, x + w / 2, y - h / 2, y + h / 2) for (x, y), (w, h) in zip(placed.centres, sizes, strict=True)]
    for i, one in enumerate(spans):
        assert one[0] >= -1e-6
        assert one[1] <= placed.width + 1e-6
        for other in spans[i + 1 :]:
            beside = one[1] <= other[0] + 1e-6 or other[1] <= one[0] + 1e-6
            assert beside or one[3] < other[2] or other[3] < one[2]
    assert all(placed.routes[a, b][0][1] > placed.routes[a, b][-1][1] for a, b in edges)


def test_the_verb_writes_one_file(workdir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", DEMO, "--picture", "out/fc6.svg", "--cut", "fc6"]) == 0
    assert capsys.readouterr().out.endswith("picture: out/fc6.svg\n")
    assert [p.name for p in Path("out").iterdir()] == ["fc6.svg"]
    assert "cut fc6:0" in "".join(words(parsed(Path("out/fc6.svg").read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--picture", "out.png"], "does not end in .svg"),
        (["--cut", "fc7"], "add --picture"),
        (["--picture", "out.svg", "--cut", "fc_7"], "did you mean"),
    ],
    ids=["png", "no picture", "no such tensor"],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    asked: list[str], told: str, workdir: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["inspect", DEMO, *asked]) in (2, 3)
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == 1
    assert not list(workdir.iterdir())


def test_no_tensorflow_is_imported(workdir: Path):
    script = f"import sys; from finetune.__main__ import main; main(['inspect', {DEMO!r}, '--picture', 'x.svg'])\n"
    script += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0
