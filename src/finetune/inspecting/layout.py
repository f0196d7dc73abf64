"""Where the boxes of a diagram stand: rows from the bottom up, few crossings, edges with room of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_SWEEPS = 12
_GAP = 28.0  # between two boxes of a row
_LANE = 12.0  # of an edge that passes by
_BETWEEN = 36.0  # two rows


@dataclass(frozen=True)
class Layout:
    """Centres of the boxes, and for each edge the points that it passes: (x, y), y growing downwards."""

    centres: Sequence[tuple[float, float]]
    routes: Mapping[tuple[int, int], Sequence[tuple[float, float]]]
    width: float
    height: float


def layout(sizes: Sequence[tuple[float, float]], edges: Iterable[tuple[int, int]]) -> Layout:
    """Places boxes of the given widths and heights, each below those that read it.

    An edge over several rows gets a lane in each of them; lanes are boxes without a height.
    """
    edges = list(edges)
    rows = _rows(len(sizes), edges)
    widths = [width for width, _ in sizes]
    routes: dict[tuple[int, int], list[int]] = {}
    row_of = list(rows)
    for a, b in edges:
        lanes = range(len(row_of), len(row_of) + rows[b] - rows[a] - 1)
        row_of.extend(range(rows[a] + 1, rows[b]))
        widths.extend([_LANE] * len(lanes))
        routes[a, b] = [a, *lanes, b]
    near: list[list[int]] = [[] for _ in row_of]
    for route in routes.values():
        for one, other in pairwise(route):
            near[one].append(other)
            near[other].append(one)
    order: list[list[int]] = [[] for _ in range(max(row_of, default=0) + 1)]
    for item, row in enumerate(row_of):
        order[row].append(item)
    xs = _columns(_ordered(order, near, row_of), near, row_of, widths)
    return _measured(sizes, routes, order, row_of, xs, widths)


def _rows(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The row of each box: above all that it reads, and what reads nothing right below its first reader."""
    rows = [0] * count
    for a, b in sorted(edges, key=lambda edge: edge[1]):  # boxes come after those that they read
        rows[b] = max(rows[b], rows[a] + 1)
    above: dict[int, int] = {}
    for a, b in edges:
        above[a] = min(above.get(a, rows[b]), rows[b])
    read = {b for _, b in edges}
    return [row if i in read or i not in above else above[i] - 1 for i, row in enumerate(rows)]


def _ordered(order: list[list[int]], near: Sequence[Sequence[int]], row_of: Sequence[int]) -> list[list[int]]:
    """The rows with their items where their neighbours' mean is, looking up and down in turn."""
    for sweep in range(_SWEEPS):
        step = -1 if sweep % 2 else 1
        for row in order[::-step]:
            place = {item: i / len(other) for other in order for i, item in enumerate(other)}
            row.sort(
                key=lambda item: _mean([place[n] for n in near[item] if row_of[n] == row_of[item] + step], place[item])
            )
    return order


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _columns(
    order: Sequence[Sequence[int]], near: Sequence[Sequence[int]], row_of: Sequence[int], widths: Sequence[float]
) -> list[float]:
    """The x of the centre of each item: near its neighbours, and no two of a row overlap."""
    xs = [0.0] * len(row_of)
    for row in order:
        for item, x in zip(row, _apart([0.0] * len(row), [widths[i] for i in row]), strict=True):
            xs[item] = x
    for sweep in range(_SWEEPS):
        for row in order if sweep % 2 else order[::-1]:
            wanted = [_mean([xs[n] for n in near[item]], xs[item]) for item in row]
            for item, x in zip(row, _apart(wanted, [widths[i] for i in row]), strict=True):
                xs[item] = x
    return xs


def _apart(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The places nearest to those wanted, by least squares, at which items of these widths do not touch.

    >>> _apart([0.0, 0.0], [10.0, 10.0])
    [-19.0, 19.0]
    """
    offsets, end = [], 0.0
    for width in widths:
        offsets.append(end + width / 2)
        end += width + _GAP
    blocks: list[list[float]] = []  # sum and number of what has to move together
    for x, offset in zip(wanted, offsets, strict=True):
        blocks.append([x - offset, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, number = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + number]
    starts = [total / number for total, number in blocks for _ in range(int(number))]
    return [start + offset for start, offset in zip(starts, offsets, strict=True)]


def _measured(
    sizes: Sequence[tuple[float, float]],
    routes: Mapping[tuple[int, int], Sequence[int]],
    order: Sequence[Sequence[int]],
    row_of: Sequence[int],
    xs: Sequence[float],
    widths: Sequence[float],
) -> Layout:
    left = min((x - w / 2 for x, w in zip(xs, widths, strict=True)), default=0.0)
    right = max((x + w / 2 for x, w in zip(xs, widths, strict=True)), default=0.0)
    heights = [max((sizes[i][1] for i in row if i < len(sizes)), default=0.0) for row in order]
    middle, y = [0.0] * len(order), 0.0
    for row in reversed(range(len(order))):
        middle[row] = y + heights[row] / 2
        y += heights[row] + _BETWEEN
    points = {}
    for (a, b), route in routes.items():
        path = [(xs[a] - left, middle[row_of[a]] - sizes[a][1] / 2)]
        for lane in route[1:-1]:
            half = heights[row_of[lane]] / 2
            path += [(xs[lane] - left, middle[row_of[lane]] + half), (xs[lane] - left, middle[row_of[lane]] - half)]
        points[a, b] = [*path, (xs[b] - left, middle[row_of[b]] + sizes[b][1] / 2)]
    centres = [(xs[i] - left, middle[row_of[i]]) for i in range(len(sizes))]
    return Layout(centres, points, right - left, y - _BETWEEN)
