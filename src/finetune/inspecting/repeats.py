"""A diagram with what stands in it many times drawn once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

from finetune.inspecting.layers import INPUT, Box, Diagram, in_order

_FEW = 12  # boxes that are drawn as they are
_MANY = 60  # beyond this, boxes of one scope become one
_ALIKE = 3  # repetitions that are worth a number
_SIBLINGS = 4  # parallel boxes that are
_ROW = 7  # parallel boxes that would make a row too wide, though they differ in their sizes
_LONGEST = 8  # steps of a repeated piece, each of one box or of what lies between two that all passes through


def short(diagram: Diagram) -> Diagram:
    """The diagram with parallel boxes that are alike, and pieces of it that follow each other, drawn once."""
    if len(diagram.boxes) <= _FEW:
        return diagram
    diagram = _siblings_once(_siblings_once(diagram, _SIBLINGS, sized=True), _ROW, sized=False)
    diagram = _repeats_once(diagram)
    depth = max(box.title.count("/") for box in diagram.boxes)
    while len(diagram.boxes) > _MANY and depth > 0:
        diagram = _repeats_once(_by_scope(diagram, depth))
        depth -= 1
    return diagram


def _look(diagram: Diagram, place: int, sized: bool = True) -> Hashable:
    """What makes two boxes alike."""
    box = diagram.boxes[place]
    fates = tuple((fate.rate, fate.why) for fate in box.fates)
    sizes = (box.sizes, box.shape) if sized else ()
    return box.kind, box.ops, sizes, box.marks, fates, box.repeat, place == diagram.cut


def _joined(boxes: Sequence[Box], **changes: object) -> Box:
    """One box that stands for several."""
    first, last = boxes[0], boxes[-1]
    return replace(
        first,
        last=last.last or last.title,
        nodes=tuple(node for box in boxes for node in box.nodes),
        fates=tuple(fate for box in boxes for fate in box.fates),
        sizes=tuple(size for box in boxes for size in box.sizes),
        shape=last.shape if len({box.shape for box in boxes}) == 1 else None,
        **changes,
    )


def _contracted(diagram: Diagram, into: Mapping[int, int], boxes: Mapping[int, Box]) -> Diagram:
    """The diagram with the box `into[i]` in the place of box i.

    An edge that would lead back is one between two repetitions, and is left out.
    """
    kept = sorted(boxes)
    place = {number: i for i, number in enumerate(kept)}
    edges: dict[tuple[int, int], bool] = {}
    for (a, b), barred in diagram.edges.items():
        edge = (place[into[a]], place[into[b]])
        if edge[0] < edge[1]:
            edges[edge] = barred and edges.get(edge, True)
    return Diagram(tuple(boxes[number] for number in kept), edges, place[into[diagram.cut]])


def _siblings_once(diagram: Diagram, least: int, sized: bool) -> Diagram:
    """Boxes that are alike and are read by the same boxes as one: from the last to the first, so that whole branches
    that are alike become one."""
    readers: dict[int, set[int]] = {i: set() for i in range(len(diagram.boxes))}
    for a, b in diagram.edges:
        readers[a].add(b)
    into = {i: i for i in readers}
    alike: dict[Hashable, list[int]] = {}
    for place in reversed(readers):
        # A few that are alike could be told apart after all; whether they will be many is known only at the end.
        key = (_look(diagram, place, sized), frozenset(into[r] for r in readers[place]))
        alike.setdefault(key, []).append(place)
        into[place] = alike[key][0]
    groups = {names[0]: sorted(names) for names in alike.values() if len(names) >= least}
    into = {i: i if into[i] not in groups else groups[into[i]][-1] for i in readers}
    boxes = {i: diagram.boxes[i] for i in set(into.values())}
    for members in groups.values():
        joined = [diagram.boxes[i] for i in members]
        boxes[members[-1]] = _joined(joined, times=sum(box.times for box in joined))
    return _sorted(diagram, into, boxes)


def _by_scope(diagram: Diagram, depth: int) -> Diagram:
    """The boxes of one scope, and those that lie on a way from one of them to another, as one."""
    names: dict[Hashable, int] = {}
    scope = {}
    for i, box in enumerate(diagram.boxes):
        own = i == diagram.cut or box.kind == INPUT
        scope[i] = names.setdefault(i if own else "/".join(box.title.split("/")[:depth]), i)
    before: dict[int, list[int]] = {number: [] for number in scope.values()}
    for a, b in diagram.edges:
        before[scope[b]].append(scope[a])
    one = {number: component[0] for component in in_order(before) for number in component}
    members: dict[int, list[int]] = {}
    for i in range(len(diagram.boxes)):
        members.setdefault(one[scope[i]], []).append(i)
    into = {i: places[-1] for places in members.values() for i in places}
    boxes = {places[-1]: _summary([diagram.boxes[i] for i in places], depth) for places in members.values()}
    return _sorted(diagram, into, boxes)


def _summary(boxes: Sequence[Box], depth: int) -> Box:
    if len(boxes) == 1:
        return boxes[0]
    marks = dict.fromkeys(mark for box in boxes for mark in box.marks)
    ops = dict.fromkeys(op for box in boxes for op in box.ops)
    title = "/".join(boxes[-1].title.split("/")[:depth])
    return replace(
        _joined(boxes), title=title, last="", ops=tuple(ops), marks=(f"{len(boxes)} layers", *marks), times=1
    )


def _sorted(diagram: Diagram, into: Mapping[int, int], boxes: Mapping[int, Box]) -> Diagram:
    """The contracted diagram, with boxes in an order of the computation."""
    before: dict[int, list[int]] = {number: [] for number in sorted(boxes)}
    for a, b in diagram.edges:
        if into[a] != into[b]:
            before[into[b]].append(into[a])
    order = {number: i for i, number in enumerate(n for component in in_order(before) for n in component)}
    return _contracted(
        diagram,
        {i: order[number] for i, number in into.items()},
        {order[number]: box for number, box in boxes.items()},
    )


def _repeats_once(diagram: Diagram) -> Diagram:
    """Pieces that are alike and follow each other as one, with their number."""
    pieces = _pieces(diagram)
    looks = _looks(diagram, pieces)
    into = {i: i for i in range(len(diagram.boxes))}
    boxes = dict(enumerate(diagram.boxes))
    number, repeat = 0, max((box.repeat for box in diagram.boxes), default=0)
    while number < len(pieces):
        length, times = _run(looks, number)
        if times >= _ALIKE:
            repeat += 1
            first = [i for piece in pieces[number : number + length] for i in piece]
            copies = [[*range(first[0] + k * len(first), first[0] + (k + 1) * len(first))] for k in range(times)]
            for step, kept in enumerate(first):
                same = [copy[step] for copy in copies]
                boxes[kept] = _joined([diagram.boxes[i] for i in same], times=times * boxes[kept].times, repeat=repeat)
                into.update(dict.fromkeys(same, kept))
        number += length * times if times >= _ALIKE else 1
    return _contracted(diagram, into, {i: boxes[i] for i in set(into.values())})


def _pieces(diagram: Diagram) -> list[range]:
    """The diagram in pieces: each ends with a box that all goes through which comes later."""
    furthest = list(range(len(diagram.boxes)))
    for a, b in diagram.edges:
        furthest[a] = max(furthest[a], b)
    found, start, reach = [], 0, 0
    for i in range(len(diagram.boxes)):
        if reach <= i:  # nothing before this box is read behind it
            found.append(range(start, i + 1))
            start = i + 1
        reach = max(reach, furthest[i])
    if start < len(diagram.boxes):
        found.append(range(start, len(diagram.boxes)))
    return found


def _looks(diagram: Diagram, pieces: Iterable[range]) -> list[int]:
    """A number for what each piece looks like, with its edges."""
    before: dict[int, list[tuple[int, bool]]] = {i: [] for i in range(len(diagram.boxes))}
    for (a, b), barred in diagram.edges.items():
        before[b].append((b - a, barred))
    known: dict[Hashable, int] = {}
    return [
        known.setdefault(tuple((_look(diagram, i), tuple(sorted(before[i]))) for i in piece), len(known))
        for piece in pieces
    ]


def _run(looks: Sequence[int], start: int) -> tuple[int, int]:
    """The piece that begins here and covers most by following itself: how many steps it has, and how many times."""
    best = (1, 1)
    for length in range(1, _LONGEST + 1):
        first, times = looks[start : start + length], 1
        while looks[start + times * length : start + (times + 1) * length] == first:
            times += 1
        if times >= _ALIKE and times * length > best[0] * best[1]:
            best = (length, times)
    return best
