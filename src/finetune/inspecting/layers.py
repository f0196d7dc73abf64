"""A sliced graph as layers: nodes grouped into boxes by what they compute, and the edges between these."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, TypeVar

from finetune.graph import Graph, all_contexts, attr, data_inputs, dtype_name, recorded_shape, shape_of
from finetune.names import node_of, port_of, tensor_name
from finetune.surgery.cut import places
from finetune.surgery.freeze import Fate
from finetune.surgery.specialize import dtype_and_shape

T = TypeVar("T")
Shape = tuple[int | None, ...]

INPUT, LAYER, LOOP, JOIN = "input", "layer", "loop", "join"

_SIZES = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")  # their value is not that of their input
# What is not worth a word in a box: it passes a value on, or makes one of sizes.
_SILENT = re.compile(
    r"(Ref)?(Identity|Switch|Merge|Enter|Exit|NextIteration)|LoopCond|StopGradient|Const|Pack|ExpandDims|Cast|Fill|Range"
    r"|Shape|ShapeN|Size|Rank|ZerosLike|OnesLike|TensorArray.*|Less|LogicalAnd|ReadVariableOp|Placeholder.*"
)
_NORMALISES = re.compile(r"FusedBatchNorm.*|BatchNormWithGlobalNormalization")
_ANY_KERNEL = re.compile(r"(\w*_)?(weights?|kernel|filters?|matrix|w|variable)(_?\d+)?", re.IGNORECASE)
_FILLS = re.compile(r"TensorArray(Scatter|Write)(V\d)?")
_PIECE = re.compile(r"/part_\d+$")
_SHARE_KEPT = ("Floor", "GreaterEqual")  # how dropout turns noise into zeros and ones

# What the part of a file that no cut needs was for.
_PURPOSES = {
    "optimizer": re.compile(
        r"((^|/)gradients(_\d+)?/)|(Adam|Momentum|RMSProp|Adagrad|Ftrl|beta[12]_power)(_\d+)?(/|$)"
    ),
    "saver": re.compile(r"(^|/)save(_\d+)?/"),
    "initialisers": re.compile(r"/(Initializer|Assign)(/|$)|(^|/)init(_\d+)?$"),
}
_PURPOSES_OF_OPS = {
    "optimizer": re.compile(r"(Resource)?(Sparse)?Apply.*"),
    "saver": re.compile(r"(Save|Restore).*"),
    "summaries": re.compile(r".*Summary.*"),
    "queues": re.compile(r".*(Queue|Reader|Iterator|Dataset).*"),
}


@dataclass(frozen=True)
class Box:
    """Nodes that are one step of the computation.

    `kind` is one of INPUT, LAYER (applies weights), LOOP (a loop, or what an unrolled one consists of) and JOIN.
    `shape` is what the file records of what the box gives. `times` says how many alike it stands for; those of one
    repeated piece have the same `repeat`, which is 0 for the others. `last` is then the title of the last one.
    """

    title: str
    kind: str
    ops: tuple[str, ...]
    nodes: tuple[str, ...]
    fates: tuple[Fate, ...] = ()
    sizes: tuple[Shape, ...] = ()  # of the variables, as `fates`
    shape: Shape | None = None
    marks: tuple[str, ...] = ()
    times: int = 1
    repeat: int = 0
    last: str = ""

    @property
    def parameters(self) -> int:
        """The number of values in the variables."""
        return sum(math.prod(n or 1 for n in size) for size in self.sizes)


@dataclass(frozen=True)
class Diagram:
    """Boxes, each after those that it reads, and edges between their places: True where a barrier lies across.

    `cut` is the place of the box that gives the cut.
    """

    boxes: tuple[Box, ...]
    edges: Mapping[tuple[int, int], bool]
    cut: int


@dataclass(frozen=True)
class _Parts:
    """What a graph consists of: `driven` nodes depend on the inputs, `weights` says which variables meet the data at
    a node, and `loops` in which loop a node stands."""

    graph: Graph
    refs: Mapping[str, Sequence[str]]  # what each node reads
    order: Sequence[str]  # the driven nodes, each after what it reads, but for loops
    driven: frozenset[str]
    weights: Mapping[str, tuple[str, ...]]
    loops: Mapping[str, str]
    inputs: frozenset[str]
    ends: Collection[str]  # the nodes of the cut and of the barriers, which a box ends with
    barriers: frozenset[str]
    wide: Collection[str]  # the variables that are more than a bias or a scale


def diagram(
    below: Graph,
    at: str,
    inputs: Sequence[str],
    fates: Sequence[Fate],
    shapes: Mapping[str, Shape],
    barriers: Sequence[str],
) -> Diagram:
    """The layers of the graph below a cut.

    Args:
      below: what the cut needs, with the shapes that the file records.
      inputs: the tensors that take the data.
      fates: of every variable below the cut.
      shapes: of these variables.
    """
    wide = {name for name, shape in shapes.items() if sum(n != 1 for n in shape) > 1}
    parts = _parts(below, [node_of(t) for t in inputs], at, barriers, wide, {f.variable.name for f in fates})
    group = _folded(parts, _acyclic(parts, _grouped(parts)))
    tensors = _edges(parts, group)
    order = [number for component in in_order(_before(group, tensors)) for number in component]
    place = {number: i for i, number in enumerate(order)}
    by_name = {fate.variable.name: fate for fate in fates}
    boxes = []
    for inside in _insides(parts, group, order, at):
        own = [by_name[name] for name in (*inside.members, *inside.owned) if name in by_name]
        boxes.append(_box(parts, inside, own, shapes, at))
    edges = {(place[a], place[b]): refs <= set(barriers) for (a, b), refs in tensors.items()}
    return Diagram(tuple(boxes), edges, place[group[node_of(at)]])


def in_order(before: Mapping[T, Iterable[T]]) -> list[list[T]]:
    """The strongly connected components of a graph, each after those that it depends on.

    >>> in_order({"c": ["b"], "b": ["a", "c"], "a": []})
    [['a'], ['c', 'b']]
    """
    number: dict[T, int] = {}
    lowest: dict[T, int] = {}
    open_, path, found = {}, [], []

    def enter(node: T) -> None:
        number[node] = lowest[node] = len(number)
        open_[node] = None
        path.append((node, iter(before[node])))

    for root in before:
        if root not in number:
            enter(root)
        while path:
            node, rest = path[-1]
            following = next((n for n in rest if n not in number or n in open_), None)
            if following is not None and following not in number:
                enter(following)
            elif following is not None:
                lowest[node] = min(lowest[node], number[following])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
                if lowest[node] == number[node]:
                    component = [node]
                    while (last := open_.popitem()[0]) != node:
                        component.append(last)
                    found.append([node, *component[:0:-1]])
    return found


def _parts(
    below: Graph, inputs: Iterable[str], at: str, barriers: Sequence[str], wide: set[str], known: Collection[str]
) -> _Parts:
    ends = {node_of(tensor) for tensor in (at, *barriers) if node_of(tensor) in below.nodes}
    refs = {name: data_inputs(node) for name, node in below.nodes.items()}
    whiles = {context.context_name for context in all_contexts(below)[1]}
    loops = {node: place for node, place in places(below).items() if place in whiles}
    inputs = frozenset(name for name in inputs if name in below.nodes)
    driven = _driven(below, refs, inputs, _SIZES)
    if not driven.issuperset(ends):  # only the size of the input counts
        driven = _driven(below, refs, inputs, ())
    touched = {loops[name] for name in driven if name in loops}
    driven |= {name for name, loop in loops.items() if loop in touched} | ends
    flowing = [name for name in below.nodes if name in driven]
    weights = {}
    for name in flowing:
        met = dict.fromkeys(v for ref in refs[name] for v in _made_of(refs, ref, driven, known))
        if met:
            weights[name] = tuple(met)
    before = {name: [n for r in refs[name] if (n := node_of(r)) in driven] for name in flowing}
    order = [name for component in in_order(before) for name in component]
    return _Parts(below, refs, order, frozenset(driven), weights, loops, inputs, ends, frozenset(barriers), wide)


def _driven(below: Graph, refs: Mapping[str, Sequence[str]], inputs: Iterable[str], sizes: Collection[str]) -> set[str]:
    readers: dict[str, list[str]] = {}
    for name, read in refs.items():
        for source in {node_of(ref) for ref in read}:
            readers.setdefault(source, []).append(name)
    found, stack = set(inputs), list(inputs)
    while stack:
        for name in readers.get(stack.pop(), ()):
            if name not in found and below.nodes[name].op not in sizes:
                found.add(name)
                stack.append(name)
    return found


def _made_of(refs: Mapping[str, Sequence[str]], ref: str, driven: Collection[str], known: Collection[str]) -> list[str]:
    """The variables that a value is made of which does not depend on the data."""
    stack, seen, found = [node_of(ref)], set(), []
    while stack:
        name = stack.pop()
        if name in seen or name in driven:
            continue
        seen.add(name)
        if name in known:
            found.append(name)
        stack.extend(node_of(r) for r in refs[name])
    return found


def _grouped(parts: _Parts) -> dict[str, int]:
    """A number for the box of each driven node.

    A box begins where weights meet the data, where a loop does, and where the values of several boxes meet; what
    reads one box only is part of it. The same weights applied once more are the same box.
    """
    nodes = parts.graph.nodes
    units: dict[str, list[str]] = {}
    for name in parts.order:
        units.setdefault(_unit(parts, name), []).append(name)
    before = {unit: [_unit(parts, r) for name in names for r in _read(parts, name)] for unit, names in units.items()}
    group: dict[str, int] = {}
    known: dict[Any, int] = {}
    for component in in_order(before):
        names = [name for unit in component for name in units[unit]]
        key: Any = names[0]
        if len(names) == 1 and not parts.inputs.intersection(names):
            read = _read(parts, names[0])
            sources = {group[r] for r in read}
            if _is_anchor(parts, names[0]):
                key = (nodes[names[0]].op, frozenset(parts.weights[names[0]]))
            elif len(sources) == 1 and not parts.ends.intersection(read) and not parts.inputs.intersection(read):
                group[names[0]] = sources.pop()
                continue
        number = known.setdefault(key, len(known))
        group.update(dict.fromkeys(names, number))
    return group


def _unit(parts: _Parts, name: str) -> str:
    # A colon is in no node's name.
    return f":{parts.loops[name]}" if name in parts.loops else name


def _read(parts: _Parts, name: str) -> list[str]:
    return [n for ref in parts.refs[name] if (n := node_of(ref)) in parts.driven]


def _is_anchor(parts: _Parts, name: str) -> bool:
    return any(variable in parts.wide for variable in parts.weights.get(name, ()))


def _edges(parts: _Parts, group: Mapping[str, int]) -> dict[tuple[int, int], set[str]]:
    """The tensors that go from one box to another."""
    found: dict[tuple[int, int], set[str]] = {}
    for name, number in group.items():
        for ref in parts.refs[name]:
            source = group.get(node_of(ref), number)
            if source != number:
                found.setdefault((source, number), set()).add(tensor_name(ref))
    return found


def _before(group: Mapping[str, int], edges: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    before: dict[int, list[int]] = {number: [] for number in group.values()}
    for source, number in edges:
        before[number].append(source)
    return before


def _acyclic(parts: _Parts, group: Mapping[str, int]) -> dict[str, int]:
    """Boxes that read each other as one: the steps of an unrolled loop, a layer applied to what it gave."""
    first = {n: component[0] for component in in_order(_before(group, _edges(parts, group))) for n in component}
    return {name: first[number] for name, number in group.items()}


def _folded(parts: _Parts, group: Mapping[str, int]) -> dict[str, int]:
    """What applies no weights joins the one box that it reads; what stands between input and layer joins the layer."""
    fixed = {g for name, g in group.items() if name in parts.inputs or name in parts.loops or _is_anchor(parts, name)}
    sources = {group[name] for name in parts.inputs}
    ending = {group[name] for name in parts.ends}
    edges = _edges(parts, group)
    before = _before(group, edges)
    into = {number: number for number in before}
    for component in in_order(before):
        number = component[0]
        reads = {into[b] for b in before[number]}
        if number not in fixed and len(reads) == 1 and not reads & (sources | ending):
            into[number] = reads.pop()
    group = {name: into[number] for name, number in group.items()}
    edges = _edges(parts, group)
    before = _before(group, edges)
    readers: dict[int, list[int]] = {}
    for source, number in edges:
        readers.setdefault(source, []).append(number)
    for number in before:
        following = readers.get(number, [])
        alone = len(following) == 1 == len(before[number]) and number not in fixed | ending
        if alone and before[number][0] in sources and following[0] in fixed:
            into[number] = following[0]
    return {name: into[number] for name, number in group.items()}


@dataclass
class _Inside:
    """The nodes of one box: those that depend on the data, the others that only these need, and the tensors given."""

    members: list[str] = field(default_factory=list)
    owned: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)


def _insides(parts: _Parts, group: Mapping[str, int], order: Sequence[int], at: str) -> list[_Inside]:
    """The contents of each box; what does not depend on data is in the first box that needs it."""
    found = {number: _Inside() for number in order}
    for name in parts.order:
        found[group[name]].members.append(name)
    for (number, _), tensors in _edges(parts, group).items():
        found[number].given |= tensors
    found[group[node_of(at)]].given.add(at)
    seen = set(group)
    for inside in found.values():
        stack = [node_of(r) for name in inside.members for r in parts.refs[name]]
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                inside.owned.append(name)
                stack.extend(node_of(r) for r in parts.refs[name])
    found[order[-1]].owned += [name for name in parts.graph.nodes if name not in seen]  # idle exits of loops
    return list(found.values())


def _box(parts: _Parts, inside: _Inside, own: Sequence[Fate], shapes: Mapping[str, Shape], at: str) -> Box:
    members, owned = inside.members, inside.owned
    place = {name: i for i, name in enumerate(members)}
    given = max(inside.given, key=lambda t: (t == at, place[node_of(t)]), default=f"{members[-1]}:0")
    sizes = tuple(tuple(shapes[fate.variable.name]) for fate in own)
    everything = (*members, *owned)
    if parts.inputs.intersection(members):
        dtype, message = dtype_and_shape(parts.graph, given)
        shape = None if message is None else shape_of(message)
        title = given if len(inside.given) < 2 else f"{members[0]}, {len(inside.given)} outputs"
        return Box(title, INPUT, (dtype_name(dtype),), everything, tuple(own), sizes, shape)
    anchors = [name for name in members if _is_anchor(parts, name)]
    loops = [parts.loops[name] for name in members if name in parts.loops]
    is_loop = bool(loops) or _is_cycle(parts, members)
    kind = LOOP if is_loop else LAYER if own else JOIN
    wide = [fate.variable.name for fate in own if fate.variable.name in parts.wide]
    title = _title(wide or [fate.variable.name for fate in own], loops, anchors or members)
    ops = _ops(parts, members, shapes)
    return Box(
        title,
        kind,
        ops,
        everything,
        tuple(own),
        sizes,
        _shape(parts, given),
        _marks(parts, inside, own, anchors, is_loop),
    )


def _shape(parts: _Parts, tensor: str) -> Shape | None:
    """What the file records of a tensor, or of what is put into a `TensorArray`, whose own value means nothing."""
    node = parts.graph.nodes[node_of(tensor)]
    while _FILLS.fullmatch(node.op) and len(data_inputs(node)) > 2:
        tensor = data_inputs(node)[2]
        node = parts.graph.nodes[node_of(tensor)]
    return recorded_shape(node, port_of(tensor))


def _is_cycle(parts: _Parts, members: Sequence[str]) -> bool:
    """Whether weights are applied to what they gave before, as an unrolled loop does."""
    met: dict[str, set[tuple[str, ...]]] = {}
    for name in members:
        before = {w for r in _read(parts, name) for w in met.get(r, ())}
        own = {parts.weights[name]} if _is_anchor(parts, name) else set()
        if own & before:
            return True
        met[name] = before | own
    return False


def _title(variables: Sequence[str], loops: Sequence[str], names: Sequence[str]) -> str:
    """What people call the layer: the scope of its variables, or the name of its only one."""
    variables = [_PIECE.sub("", name) for name in variables]
    if len(variables) == 1 and not _ANY_KERNEL.fullmatch(variables[0].rpartition("/")[2]) and not loops:
        return variables[0]
    scopes = zip(*(name.split("/")[:-1] for name in variables), strict=False)
    shared = "/".join(words[0] for words in takewhile(lambda words: len(set(words)) == 1, scopes))
    return shared or (loops[0].rpartition("/")[0] or loops[0] if loops else names[0])


def _ops(parts: _Parts, members: Sequence[str], shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """What the nodes do in their order, each op once; those that only pass a value on are left out."""
    found: dict[str, None] = {}
    for name in members:
        node = parts.graph.nodes[name]
        if _SILENT.fullmatch(node.op):
            continue
        kernel = next((shapes[v] for v in parts.weights.get(name, ()) if "Conv" in node.op and len(shapes[v]) > 3), ())
        strides = max(attr(node, "strides").list.i, default=1) if "Conv" in node.op else 1
        size = f" {'×'.join(map(str, kernel[:-2]))}" if kernel else ""
        found[f"{node.op}{size}{f' /{strides}' if strides > 1 else ''}"] = None
    return tuple(found)


def _marks(
    parts: _Parts, inside: _Inside, own: Sequence[Fate], anchors: Sequence[str], is_loop: bool
) -> tuple[str, ...]:
    nodes = parts.graph.nodes
    ops = {nodes[name].op for name in (*inside.members, *inside.owned)}
    marks = []
    by_statistics = "Rsqrt" in ops and any(not fate.variable.trainable for fate in own)
    if by_statistics or any(_NORMALISES.fullmatch(op) for op in ops):
        marks.append("batch norm")
    if any(nodes[name].op.startswith("Random") for name in inside.owned) or "Dropout" in ops:
        marks.append("dropout" if ops.intersection(_SHARE_KEPT) else "random")
    applied = max(Counter(parts.weights[name] for name in anchors).values(), default=1)
    if is_loop and applied == 1:
        marks.append("loop")
    elif applied > 1:
        marks.append(f"unrolled loop, {applied:,} steps" if is_loop else f"applied {applied:,} times")
    hidden = parts.barriers - inside.given
    marks += [f"barrier inside, at {t}" for t in sorted(hidden) if node_of(t) in inside.members]
    return tuple(marks)


def unneeded(whole: Graph, below: Graph) -> dict[str, int]:
    """What the nodes that a cut does not need are for, and how many they are, most first."""
    counts: Counter[str] = Counter()
    for name, node in whole.nodes.items():
        if name not in below.nodes:
            named = (purpose for purpose, pattern in _PURPOSES.items() if pattern.search(name))
            done = (purpose for purpose, pattern in _PURPOSES_OF_OPS.items() if pattern.fullmatch(node.op))
            counts[next(named, None) or next(done, "old outputs and others")] += 1
    return dict(counts.most_common())
