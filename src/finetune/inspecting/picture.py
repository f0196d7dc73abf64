"""A diagram as an SVG picture: one file that needs nothing else, whatever the names in it are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from finetune.errors import printable
from finetune.inspecting.layers import INPUT, JOIN, LOOP, Box, Diagram
from finetune.inspecting.layout import Layout, layout
from finetune.surgery.freeze import Fate

_LINE = 17.0
_PAD = 8.0
_MARGIN = 28.0
_WIDE, _NARROW = 290.0, 190.0
_LETTER, _BOLD, _TITLE = (
    7.0,
    8.2,
    10.8,
)  # the widths of a letter of 12 px, a bold one of 13 px and one of 17 px, at most
_LEAST = 720.0  # the width of a picture, for the lines of text
_LISTED = 40  # names in a tooltip
_CUT = 66.0  # between the head and the cut's box

_STYLE = """
text{font:12px system-ui,Helvetica,Arial,sans-serif;fill:#1b1f24}
.name{font-weight:600;font-size:13px}.title{font-weight:600;font-size:17px}.grey{fill:#667079}
.paper{fill:#fff}.box{stroke:#5b6670;stroke-width:1.2;fill:#fff}
.frozen .box{fill:#dcebf7;stroke:#33688f}.learns .box{fill:#9a4a00;stroke:#5c2c00;stroke-width:2}.learns text{fill:#fff}
.some .box{fill:#f3c48f;stroke:#9a4a00;stroke-width:2}
.input .box{stroke-dasharray:5 3}.behind{fill:none;stroke:#5b6670}
.edge{fill:none;stroke:#77828c;stroke-width:1.6}.tip{fill:#77828c}
.bar{stroke:#b3123f;stroke-width:5}.barred{fill:#b3123f}.cut{stroke:#b3123f;stroke-width:1.6;stroke-dasharray:9 5}
.again{fill:none;stroke:#77828c;stroke-dasharray:2 3;stroke-width:1.4}
@media(prefers-color-scheme:dark){text{fill:#e8ecf0}.grey{fill:#98a3ad}.paper{fill:#14181d}
.box{fill:#1d242b;stroke:#98a3ad}.frozen .box{fill:#1f3f5a;stroke:#7db4dc}
.learns .box{fill:#ffb066;stroke:#ffd9b3}.learns text{fill:#1b1f24}.some .box{fill:#7a4a1a;stroke:#ffb066}
.bar,.cut{stroke:#ff6d94}.barred{fill:#ff6d94}}
"""


@dataclass(frozen=True)
class Caption:
    """The words around a diagram: its title and lines below that, the cut and what it gives, the lines of the head,
    and one grey note."""

    title: str
    lines: Sequence[str]
    cut: str
    given: str
    head: Sequence[str]
    barred: bool  # whether a barrier lies on the cut
    note: str


def draw(diagram: Diagram, caption: Caption) -> str:
    """The picture, inputs at the bottom and the head on top, as text of an SVG file.

    Nothing in it is fetched or run: names are text, and there are no links and no scripts.
    """
    faces = [_face(box) for box in diagram.boxes]
    placed = layout([(face.width, face.height) for face in faces], diagram.edges)
    width = max(placed.width + 2 * _MARGIN + 60, _LEAST)
    words = _paragraph([*caption.lines], width)
    legend = 46 + _LINE * len(words) + 14
    head = legend + 24
    top = head + _height(len(caption.head)) + _CUT
    note = _paragraph([caption.note], width)
    height = top + placed.height + 40 + _LINE * len(note)
    left = (width - placed.width) / 2
    middle, above = placed.centres[diagram.cut]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img">',
        f"<title>{_text(caption.title, 200)}</title><desc>{_text(_told(diagram, caption), 4000)}</desc>",
        f'<style>{_STYLE}</style><rect class="paper" width="100%" height="100%"/>',
        _words(_MARGIN, 30, _cropped(caption.title, int((width - 2 * _MARGIN) / _TITLE)), "title"),
        *(_words(_MARGIN, 50 + _LINE * i, line) for i, line in enumerate(words)),
        _legend(legend),
        f'<g transform="translate({left:.1f} {top:.1f})">',
        *_frames(diagram, placed, faces),
        *(_edge(placed.routes[edge], barred) for edge, barred in diagram.edges.items()),
        *(_box(box, face, at) for box, face, at in zip(diagram.boxes, faces, placed.centres, strict=True)),
        "</g>",
        *_head(caption, left + middle, head, top + above - faces[diagram.cut].height / 2, width),
        *(_words(_MARGIN, height - 12 - _LINE * i, line, "grey") for i, line in enumerate(reversed(note))),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _paragraph(sentences: Sequence[str], width: float) -> list[str]:
    """Sentences in lines that fit, each beginning one."""
    letters = int((width - 2 * _MARGIN) / _LETTER)
    return [line for text in sentences for line in textwrap.wrap(printable(text), letters, max_lines=4)]


def note(unneeded: Mapping[str, int], nodes: int) -> str:
    """What is not drawn: the part of the file that the cut does not need.

    >>> note({"optimizer": 1785, "saver": 159}, 2896)
    '1,944 of 2,896 nodes are not needed: optimizer 1,785, saver 159'
    """
    listed = ", ".join(f"{purpose} {count:,}" for purpose, count in unneeded.items())
    return f"{sum(unneeded.values()):,} of {nodes:,} nodes are not needed" + (f": {listed}" if listed else "")


def sizes_of(shape: Sequence[int | None] | None) -> str:
    """A shape in a picture.

    >>> sizes_of((None, 28, 28, 1)), sizes_of(()), sizes_of(None)
    ('?×28×28×1', 'scalar', 'shape not recorded')
    """
    if shape is None:
        return "shape not recorded"
    return "×".join("?" if n is None else str(n) for n in shape) or "scalar"


def counted(parameters: int) -> str:
    """A number of values, in words.

    >>> counted(2570), counted(1)
    ('2,570 parameters', '1 parameter')
    """
    return f"{parameters:,} parameter{'' if parameters == 1 else 's'}"


def _told(diagram: Diagram, caption: Caption) -> str:
    """The picture in words, for those who do not see it."""
    steps = "; ".join(f"{box.title}: {', '.join([*box.ops, _status(box)])}" for box in diagram.boxes)
    return f"{steps}. Cut {caption.cut}. {', '.join(caption.head)}. {caption.note}"


def _status(box: Box) -> str:
    """What becomes of the variables of a box."""
    learning = [fate for fate in box.fates if fate.rate]
    if not box.fates:
        return ""
    if not learning:
        return "frozen"
    rates = {fate.rate for fate in learning}
    rate = "" if rates == {1.0} else f", rate × {min(rates):g}" + (f" to {max(rates):g}" if len(rates) > 1 else "")
    some = "learns" if len(learning) == len(box.fates) else f"{len(learning)} of {len(box.fates)} variables learn"
    return f"{some}{rate}"


def _class(fates: Sequence[Fate], kind: str) -> str:
    if kind == INPUT or not fates:
        return kind
    learning = sum(fate.rate > 0 for fate in fates)
    return "frozen" if not learning else "learns" if learning == len(fates) else "some"


@dataclass(frozen=True)
class _Face:
    """What is written in a box: its name and what becomes of it side by side, and lines below."""

    width: float
    name: str
    status: str
    lines: Sequence[str]

    @property
    def height(self) -> float:
        return _height(1 + len(self.lines))


def _face(box: Box) -> _Face:
    width = _NARROW if box.kind == JOIN else _WIDE
    times = f"×{box.times:,}" if box.times > 1 and not box.repeat else ""
    status = " ".join(word for word in (times, _status(box)) if word)
    letters = int((width - 2 * _PAD) / _LETTER)
    name = _cropped(box.title, int((width - 2 * _PAD - _LETTER * (len(status) + 1)) / _BOLD))
    until = [f"to {_cropped(box.last, letters - 3)}"] if box.last not in ("", box.title) else []
    given = "various shapes" if box.shape is None and box.times > 1 else sizes_of(box.shape)
    if box.kind == INPUT:
        return _Face(width, name, status, [*until, f"{', '.join(box.ops)}  {given}"])
    given += f" · {counted(box.parameters)}" if box.fates else ""
    marks = [", ".join(box.marks)] if box.marks else []
    lines = [*until, *_wrapped(box.ops, letters), *marks, f"→ {given}"]
    return _Face(width, name, status, [_cropped(line, letters) for line in lines])


def _wrapped(ops: Sequence[str], letters: int) -> list[str]:
    """Ops in at most three lines, the last with room for how many more there are.

    >>> _wrapped(["Conv2D 3×3", "BiasAdd", "Relu"], 24)
    ['Conv2D 3×3 → BiasAdd →', 'Relu']
    """
    lines: list[str] = []
    for number, op in enumerate(ops):
        room = letters - (10 if len(lines) == 3 else 2)
        if lines and len(lines[-1]) + 3 + len(op) <= room:
            lines[-1] += f" → {op}"
        elif len(lines) == 3:
            return [*lines[:2], f"{lines[2]} … {len(ops) - number} more"]
        else:
            lines[-1:] = [f"{lines[-1]} →", op] if lines else [op]
    return lines


def _box(box: Box, face: _Face, centre: tuple[float, float]) -> str:
    x, y = centre[0] - face.width / 2, centre[1] - face.height / 2
    rounded = 14 if box.kind in (INPUT, JOIN) else 4
    status = f'<text x="{x + face.width - _PAD:.1f}" y="{y + 21:.1f}" text-anchor="end">{_text(face.status, 60)}</text>'
    return "".join(
        [
            f'<g class="{_class(box.fates, box.kind)}"><title>{_text(_tooltip(box), 200)}</title>',
            _rectangle("behind", x - 4, y - 4, face.width + 8, face.height + 8, 8) if box.kind == LOOP else "",
            _rectangle("box", x, y, face.width, face.height, rounded),
            _words(x + _PAD, y + 21, face.name, "name"),
            status if face.status else "",
            *(_words(x + _PAD, y + 21 + _LINE * i, line) for i, line in enumerate(face.lines, 1)),
            "</g>",
        ]
    )


def _rectangle(kind: str, x: float, y: float, width: float, height: float, round: float) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place} rx="{round:.0f}"/>'


def _tooltip(box: Box) -> str:
    rows = [
        f"{fate.variable.name}  {sizes_of(size)}  {fate.why}" for fate, size in zip(box.fates, box.sizes, strict=True)
    ]
    names = [*box.nodes[:_LISTED], *([f"… ({len(box.nodes):,} in all)"] if len(box.nodes) > _LISTED else [])]
    more = [f"… ({len(rows):,} in all)"] if len(rows) > _LISTED else []
    listed = [*(f"variable {row}" for row in rows[:_LISTED]), *more, "nodes:", *names]
    return "\n".join([box.title, *listed])


def _edge(points: Sequence[tuple[float, float]], barred: bool) -> str:
    """A line from box to box, straight through the rows that it passes and curved between them, and its barrier."""
    (x, y), rest = points[0], points[1:]
    path = f"M{x:.1f} {y:.1f}"
    before = points[0]
    for number, (x, y) in enumerate(rest):
        if number % 2:
            path += f"L{x:.1f} {y:.1f}"
        else:
            half = (before[1] + y) / 2
            path += f"C{before[0]:.1f} {half:.1f} {x:.1f} {half:.1f} {x:.1f} {y:.1f}"
        before = (x, y)
    tip = f'<path class="tip" d="M{x - 4:.1f} {y + 8:.1f}L{x:.1f} {y:.1f}L{x + 4:.1f} {y + 8:.1f}z"/>'
    return f'<path class="edge" d="{path}"/>{tip}{_bar(*points[0]) if barred else ""}'


def _bar(x: float, y: float) -> str:
    line = f'<path class="bar" d="M{x - 24:.1f} {y - 10:.1f}H{x + 24:.1f}"/>'
    return f"<g><title>gradient barrier: no gradient passes here</title>{line}</g>"


def _frames(diagram: Diagram, placed: Layout, faces: Sequence[_Face]) -> Iterable[str]:
    """A dotted frame around what stands for several pieces that follow each other."""
    for repeat in sorted({box.repeat for box in diagram.boxes} - {0}):
        inside = [i for i, box in enumerate(diagram.boxes) if box.repeat == repeat]
        spans = [(*placed.centres[i], faces[i].width / 2, faces[i].height / 2) for i in inside]
        left, right = min(x - w for x, _, w, _ in spans), max(x + w for x, _, w, _ in spans)
        top, bottom = min(y - h for _, y, _, h in spans), max(y + h for _, y, _, h in spans)
        yield _rectangle("again", left - 9, top - 9, right - left + 18, bottom - top + 18, 9)
        yield _words(right + 14, (top + bottom) / 2 + 4, f"×{diagram.boxes[inside[0]].times:,}", "name")


def _legend(y: float) -> str:
    """What the looks mean; they differ in lightness too."""
    entries = [("frozen", "frozen"), ("learns", "learns"), ("some", "learns in part"), (JOIN, "no variables")]
    x, parts = _MARGIN, []
    for kind, words in entries:
        parts.append(
            f'<g class="{kind}"><rect class="box" x="{x:.0f}" y="{y - 11:.0f}" width="22" height="13" rx="3"/></g>'
            f'<text x="{x + 28:.0f}" y="{y:.0f}">{words}</text>'
        )
        x += 28 + _LETTER * len(words) + 24
    parts.append(
        f'<path class="bar" d="M{x:.0f} {y - 4:.0f}h24"/><text x="{x + 30:.0f}" y="{y:.0f}">gradient barrier</text>'
    )
    return "".join(parts)


def _head(caption: Caption, x: float, head: float, foot: float, width: float) -> list[str]:
    """The head, the edge that leads to it from the cut, and the line across that."""
    height = _height(len(caption.head))
    left, line = x - _WIDE / 2, head + height + 28
    room = [int((space - _MARGIN - 12) / _LETTER) for space in (x, width - x)]
    return [
        _edge([(x, foot), (x, head + height)], caption.barred),
        f'<path class="cut" d="M{_MARGIN:.0f} {line:.1f}H{width - _MARGIN:.0f}"/>',
        _words(_MARGIN, line - 6, "cut " + _cropped(caption.cut, room[0] - 4), "barred"),
        _words(x + 12, line - 6, _cropped(caption.given, room[1]), "barred"),
        f'<g class="learns">{_rectangle("box", left, head, _WIDE, height, 4)}',
        *(
            _words(
                left + _PAD,
                head + 21 + _LINE * i,
                _cropped(line, int((_WIDE - 2 * _PAD) / (_LETTER if i else _BOLD))),
                "" if i else "name",
            )
            for i, line in enumerate(caption.head)
        ),
        "</g>",
    ]


def _height(lines: int) -> float:
    return 2 * _PAD + _LINE * lines


def _words(x: float, y: float, text: str, kind: str = "") -> str:
    """A line of text; it is cut to length before."""
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}">{_text(text, 400)}</text>'


def _cropped(text: str, letters: int) -> str:
    """Text of a limited length; of a longer one the end is kept, for that is what names differ in.

    >>> _cropped("MobilenetV1/Conv2d_13_pointwise", 20)
    '…Conv2d_13_pointwise'
    """
    text = printable(text)
    return text if len(text) <= letters else f"…{text[len(text) - max(letters - 1, 0) :]}"


def _text(text: str, letters: int) -> str:
    """Text as XML takes it, whatever is in it; lines stay lines."""
    return escape("\n".join(_cropped(line, letters) for line in text.split("\n")))
