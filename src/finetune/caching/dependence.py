"""What each tensor below the cut depends on: on one example alone, on all of a batch, on what learns, on chance.

This is a proof by rules over the graph. An op that has none, or that joins the examples of a batch, ends it, and its
name is kept. A tensor passes if each of its rows along one axis is made of one example: then a row may be computed in
any batch, and kept. Only the last bits of it may differ, for kernels sum in an order that depends on the place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.graph import Graph, attr, data_inputs, read_constant
from finetune.names import node_of, tensor_name
from finetune.surgery.randomness import SEED

Shape = tuple[int | None, ...] | None
Shapes = Mapping[str, Shape]

_SAME, _UNIFORM, _ROWS, _SIZE, _SEED, _LIVE, _BAD = "same", "uniform", "rows", "size", "seed", "live", "bad"
_ENTRY = "/entry"  # behind the name of a node that gives the flow of a TensorArray: the shape of one of its entries
INTS = (3, 9)  # int32 and int64 in types.proto
_SCANNED = 2**12  # values of a constant that are compared with each other


@dataclass(frozen=True)
class Dependence:
    """What a tensor depends on.

    `what` is `rows`, if each row along `axis` is made of one example, and `live`, if a variable that may change has
    part in it. It is `same` if no example has part in it, `uniform` if all its values are equal as well, and `size` if
    only the number of examples has. `bad` says in `why` which node forbids to keep it. Each example may have several
    rows: `spread` ones behind each other, or `folds` ones so far apart as there are examples.
    """

    what: str
    axis: int = 0
    folds: int = 1
    spread: int = 1
    why: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether it can be computed once and read again, a row for each example."""
        return self.what == _ROWS and self.axis == 0 and self.folds == self.spread == 1

    @property
    def is_constant(self) -> bool:
        """Whether it is the same whatever the examples are, and cheap to have in both parts."""
        return self.what in (_SAME, _UNIFORM)


SAME, UNIFORM, SIZE = Dependence(_SAME), Dependence(_UNIFORM), Dependence(_SIZE)
LIVE, SEEDED = Dependence(_LIVE), Dependence(_SEED)


def _rows(axis: int) -> Dependence:
    return Dependence(_ROWS, axis)


def _moved(rows: Dependence, axis: int) -> Dependence:
    return replace(rows, axis=axis)


class _Forbidden(Exception):
    """An op that does not keep the examples apart; the text says what it does."""


@dataclass(frozen=True)
class _At:
    """A node, and what is known of its inputs; `ins` has no entry that is live, bad or not known yet."""

    graph: Graph
    shapes: Shapes
    sizes: dict[str, np.ndarray]  # the numbers that shapes are made of, by tensor, as far as they are followed
    batch: int
    node: Any
    refs: Sequence[str]
    ins: Sequence[Dependence]

    def shape(self, place: int | None = None) -> tuple[int, ...]:
        """The shape of an input, or of the first output."""
        tensor = f"{self.node.name}:0" if place is None else tensor_name(self.refs[place])
        found = self.shapes.get(tensor)
        if found is None or None in found:
            raise _Forbidden("has no known shape")
        return tuple(n for n in found if n is not None)

    def size(self, place: int) -> np.ndarray | None:
        """The numbers of an input, where they are constant or follow from shapes."""
        found = self.sizes.get(tensor_name(self.refs[place]))
        return read_constant(self.graph.nodes[node_of(self.refs[place])]) if found is None else found

    def constant(self, place: int) -> list[int]:
        """The numbers of an input that is a constant."""
        value = self.size(place)
        if value is None:
            raise _Forbidden("takes an axis that is computed")
        return [int(n) for n in value.reshape(-1)]

    @property
    def first(self) -> Dependence:
        return self.ins[0]

    def only_first(self) -> Dependence:
        """What the first input depends on, if no other depends on examples."""
        if any(not d.is_constant for d in self.ins[1:]):
            raise _Forbidden("takes more than one input that depends on the examples")
        return self.first


Rule = Callable[[_At], Dependence]


def dependences(
    graph: Graph, inputs: Iterable[str], live: Iterable[str], shapes: Shapes, batch: int
) -> dict[str, Dependence]:
    """What every tensor of a backbone's graph depends on, by full name; of a node's outputs the first stands for all.

    Args:
      inputs: the tensors that take the examples, one a row.
      live: the variables that may change.
      shapes: of every tensor, the inputs having `batch` rows; best a number that occurs nowhere else.
    """
    given, live = set(map(node_of, inputs)), set(live)
    found: dict[str, Dependence] = {}
    sizes: dict[str, np.ndarray] = {}
    order = in_order(graph)
    shapes = dict(shapes)
    for _ in range(len(graph.nodes) + 1):
        before = len(found), hash(tuple(found.values()))
        for name in order:
            node = graph.nodes[name]
            _complete(node, shapes, sizes)
            if name in given:
                found[name] = _rows(0)
            elif name == SEED:
                found[name] = SEEDED
            elif node.op == "Placeholder":
                found[name] = LIVE if name in live else SAME
            elif (dependence := _of(graph, node, found, shapes, sizes, batch)) is not None:
                found[name] = dependence
        if before == (len(found), hash(tuple(found.values()))):
            break
    return found


def in_order(graph: Graph) -> list[str]:
    """The nodes, each behind those that it reads; of a loop, those behind its `Merge` nodes come after these."""
    waiting = {name: 0 for name in graph.nodes}
    readers: dict[str, list[str]] = {}
    for name, node in graph.nodes.items():
        for source in dict.fromkeys(node_of(ref) for ref in node.input):
            if graph.nodes[source].op not in ("NextIteration", "RefNextIteration"):
                waiting[name] += 1
                readers.setdefault(source, []).append(name)
    # Depth first, so that a branch is gone through before the next one is begun.
    stack = [name for name in reversed(list(graph.nodes)) if not waiting[name]]
    order = []
    while stack:
        name = stack.pop()
        order.append(name)
        for reader in reversed(readers.get(name, ())):
            waiting[reader] -= 1
            if not waiting[reader]:
                stack.append(reader)
    return order


def _complete(node: Any, shapes: dict[str, Shape], sizes: Mapping[str, np.ndarray]) -> None:
    """Adds the shapes that TensorFlow gives up at the `Merge` of a value that turns in a V1 loop.

    Such a value is taken to keep the shape that it enters the loop with.
    """
    refs = data_inputs(node)
    if (entry := _entry(node, refs, shapes)) is not None:
        shapes[f"{node.name}{_ENTRY}"] = entry
    known = shapes.get(f"{node.name}:0")
    if known is not None and None not in known:
        return
    if node.op in ("Fill", "BroadcastTo") and refs:
        place = 0 if node.op == "Fill" else 1
        size = sizes.get(tensor_name(refs[place]))
        made: Shape = None if size is None else tuple(map(int, size.reshape(-1)))
    elif node.op in ("TensorArrayReadV3", "TensorArrayGatherV3"):
        made = shapes.get(f"{node_of(refs[2])}{_ENTRY}")
        if made is not None and node.op == "TensorArrayGatherV3":
            made = (*(shapes.get(tensor_name(refs[1])) or (None,)), *made)
    else:
        made = _inferred(node, [shapes.get(tensor_name(ref)) for ref in refs])
    if made is not None:
        shapes.update({f"{node.name}:{port}": made for port in range(max(2, attr(node, "num_split").i))})


def _entry(node: Any, refs: Sequence[str], shapes: Shapes) -> Shape:
    """The shape of an entry of the TensorArray whose flow a node gives."""
    if node.op == "TensorArrayScatterV3":
        rows = shapes.get(tensor_name(refs[2]))
        return None if rows is None else rows[1:]
    if node.op == "TensorArrayWriteV3":
        return shapes.get(tensor_name(refs[2]))
    if node.op in _HANDED_ON:
        return next((found for ref in refs if (found := shapes.get(f"{node_of(ref)}{_ENTRY}")) is not None), None)
    return None


def _inferred(node: Any, ins: Sequence[Shape]) -> Shape:
    first = next((shape for shape in ins if shape is not None), None)
    if node.op in (*_HANDED_ON, "BiasAdd") and first is not None:
        return first
    if None in ins or any(None in shape for shape in ins if shape is not None):
        return None
    whole = [tuple(n for n in shape if n is not None) for shape in ins if shape is not None]
    if node.op in _ALIKE:
        return np.broadcast_shapes(*whole)
    if node.op == "MatMul":
        (a, b), (c, d) = whole
        return (b if attr(node, "transpose_a").b else a, c if attr(node, "transpose_b").b else d)
    if node.op == "ConcatV2" and len({len(shape) for shape in whole[:-1]}) == 1:
        # Along which axis it grows: the only one in which they may differ, or the last.
        rank = len(whole[0])
        different = [axis for axis in range(rank) if len({shape[axis] for shape in whole[:-1]}) > 1]
        axis = different[0] if different else rank - 1
        return tuple(sum(s[i] for s in whole[:-1]) if i == axis else n for i, n in enumerate(whole[0]))
    if node.op == "Split":
        return (*whole[1][:-1], whole[1][-1] // max(1, attr(node, "num_split").i))
    return None


def _of(
    graph: Graph,
    node: Any,
    found: Mapping[str, Dependence],
    shapes: Shapes,
    sizes: dict[str, np.ndarray],
    batch: int,
) -> Dependence | None:
    """What a node depends on; None as long as that cannot be said."""
    refs = data_inputs(node)
    known = [_kind(ref, found, sizes, batch) for ref in refs]
    if node.op in ("Merge", "RefMerge"):
        ins = [d for d in known if d is not None]
    elif None in known:
        return None
    else:
        ins = [d for d in known if d is not None]
    if LIVE in ins:
        return LIVE
    if (bad := next((d for d in ins if d.what == _BAD), None)) is not None:
        return bad
    if SEEDED in ins:
        draws = node.op.startswith("Stateless") and node.op != "StatelessRandomGetKeyCounter"
        return Dependence(_BAD, why=f"'{node.name}' ({node.op}) draws at random") if draws else SEEDED
    if not refs:
        return _constant(node)
    try:
        if node.op in ("Merge", "RefMerge"):
            return _joined(ins) if ins else None
        return _ruled(_At(graph, shapes, sizes, batch, node, refs, ins))
    except _Forbidden as what:
        return Dependence(_BAD, why=f"'{node.name}' ({node.op}) {what}")


def _kind(ref: str, found: Mapping[str, Dependence], sizes: Mapping[str, np.ndarray], batch: int) -> Dependence | None:
    """What an input depends on: of the sizes of a batch only some are the number of examples."""
    size = sizes.get(tensor_name(ref))
    return found.get(node_of(ref)) if size is None or is_counted(size, batch) else SAME


def is_counted(size: np.ndarray, batch: int) -> bool:
    """Whether one of some sizes is the number of examples, a multiple of it, or a few more or less."""
    rest = np.abs(size) % batch
    return bool(((np.abs(size) >= batch // 2) & (np.minimum(rest, batch - rest) < 16)).any())


def _constant(node: Any) -> Dependence:
    if node.op == "Const" and math.prod(d.size for d in attr(node, "value").tensor.tensor_shape.dim) <= _SCANNED:
        value = read_constant(node)
        if value is not None and value.size and (value == value.reshape(-1)[0]).all():
            return UNIFORM
    return SAME


def _ruled(at: _At) -> Dependence:
    op, ins = at.node.op, at.ins
    if op in _BY_KIND:
        return _BY_KIND[op](at)
    if all(d.is_constant for d in ins):
        if op in _OF_SIZES and (attr(at.node, "T").type in INTS or attr(at.node, "Tidx").type in INTS):
            _follow(at)
        return UNIFORM if all(d == UNIFORM for d in ins) and op in (*_PASSED, *_ALIKE, "Fill", "Enter") else SAME
    if op in _PASSED:
        return at.only_first()
    if not any(d.what == _ROWS for d in ins):
        return _sized(at)
    if op not in _RULES:
        raise _Forbidden("is not known to treat each example by itself")
    if any(d.folds > 1 for d in ins) and op not in _FOLDED:
        raise _Forbidden("takes parts of examples for whole ones")
    return _RULES[op](at)


def _sized(at: _At) -> Dependence:
    """Of inputs that depend on the number of examples, but on none of them."""
    op = at.node.op
    if op in ("Fill", "BroadcastTo", "Tile"):
        content = at.ins[1] if op == "Fill" else at.ins[0]
        axes = [axis for axis, size in enumerate(at.shape()) if size == at.batch]
        if len(axes) == 1 and (content == UNIFORM or (op == "Fill" and content.is_constant)):
            return _rows(axes[0])
        if not axes and content.is_constant:
            return SAME
        raise _Forbidden("makes as many values as there are examples in a batch")
    _follow(at)
    if op in _OF_SIZES or op in _ALIKE:
        return SIZE
    raise _Forbidden("depends on the number of examples in a batch")


def _follow(at: _At) -> None:
    for port, size in enumerate(_measured(at)):
        at.sizes[f"{at.node.name}:{port}"] = size


def _measured(at: _At) -> list[np.ndarray]:
    """The sizes that a node makes of others, for each of its outputs; none where they are not followed."""
    op, node, sizes = at.node.op, at.node, [at.size(place) for place in range(len(at.refs))]
    if any(size is None for size in sizes):
        return []
    first, *others = [size for size in sizes if size is not None]
    if op in ("Identity", "Enter", "Cast"):
        return [first]
    if op == "Range":
        return [np.arange(first.item(), others[0].item(), others[1].item())]
    if op in ("Mul", "Add", "AddV2", "Sub"):
        return [{"Mul": np.multiply, "Sub": np.subtract}.get(op, np.add)(first, others[0])]
    if op in ("Pack", "Unpack") and not attr(node, "axis").i:
        return [np.stack([first, *others])] if op == "Pack" else list(first)
    if op == "ConcatV2":
        return [np.concatenate([first, *others[:-1]])]
    if op == "Prod":
        return [np.prod(first, axis=tuple(others[0].reshape(-1)), keepdims=attr(node, "keep_dims").b)]
    if op in ("ExpandDims", "Squeeze", "Reshape"):
        shape = others[0].reshape(-1) if op == "Reshape" else (-1,) if op == "ExpandDims" else ()
        return [first.reshape(tuple(shape))] if first.ndim < 2 and first.size else []
    if op in ("Gather", "GatherV2"):
        return [first[others[0]]]
    if op == "Slice":
        begin, count = int(others[0][0]), int(others[1][0])
        return [first[begin : None if count < 0 else begin + count]]
    if op == "StridedSlice" and others[0].size == 1 and first.ndim == 1:
        begin, end, step = (int(other.reshape(-1)[0]) for other in others)
        if attr(node, "shrink_axis_mask").i:
            return [first[begin]]
        return [first[None if attr(node, "begin_mask").i else begin : None if attr(node, "end_mask").i else end : step]]
    return []


def _joined(ins: Sequence[Dependence]) -> Dependence:
    """Of a value that comes from one of several places."""
    different = set(ins)
    if len(different) > 1 and UNIFORM in different:
        different.discard(UNIFORM)
    if len(different) == 1:
        return different.pop()
    raise _Forbidden("joins what depends on the examples in different ways")


# ---- Rules for inputs of which at least one has rows


def _aligned(at: _At) -> Dependence:
    """Element by element: sizes are matched from the last one on."""
    rank = len(at.shape())
    found = set()
    for number, dependence in enumerate(at.ins):
        if dependence.what == _ROWS:
            found.add(_moved(dependence, rank - len(at.shape(number)) + dependence.axis))
        elif dependence == SIZE:
            raise _Forbidden("depends on the number of examples in a batch")
    if len(found) > 1:
        raise _Forbidden("joins examples with each other")
    rows = found.pop()
    for number, dependence in enumerate(at.ins):
        if dependence == SAME:
            shape = at.shape(number)
            own = rows.axis - (rank - len(shape))
            if own >= 0 and shape[own] != 1:
                raise _Forbidden("treats the rows of a batch in different ways")
    return rows


def _per_image(at: _At) -> Dependence:
    """Maps and what is done to each by itself: [examples, …]."""
    found = at.only_first()
    if found.axis:
        raise _Forbidden("takes examples for positions")
    return found


def _normalised(at: _At) -> Dependence:
    # The attribute is left out where it has its default, which is true.
    if "is_training" not in at.node.attr or attr(at.node, "is_training").b:
        raise _Forbidden("normalises by the mean of the batch")
    return _per_image(at)


def _product(at: _At) -> Dependence:
    found = at.only_first()
    transposed = attr(at.node, "transpose_a").b
    if found.axis != (1 if transposed else 0):
        raise _Forbidden("sums over the examples of a batch")
    return _moved(found, 0)


def _batched_product(at: _At) -> Dependence:
    rank = len(at.shape())
    first = at.first
    if first.what == _ROWS and first.axis == len(at.shape(0)) - (1 if attr(at.node, "adj_x").b else 2):
        if not at.ins[1].is_constant:
            raise _Forbidden("joins examples with each other")
        return _moved(first, rank - 2)
    found = set()
    for number, dependence in enumerate(at.ins):
        own = len(at.shape(number))
        if dependence.what == _ROWS:
            if dependence.axis >= own - 2:
                raise _Forbidden("sums over the examples of a batch")
            found.add(_moved(dependence, rank - own + dependence.axis))
    if len(found) != 1:
        raise _Forbidden("joins examples with each other")
    rows = found.pop()
    for number, dependence in enumerate(at.ins):
        own = rows.axis - (rank - len(at.shape(number)))
        if dependence.what != _ROWS and own >= 0 and at.shape(number)[own] != 1:
            raise _Forbidden("treats the rows of a batch in different ways")
    return rows


def _reduced(at: _At) -> Dependence:
    found, rank = at.only_first(), len(at.shape(0))
    axes = {axis % rank for axis in at.constant(1)} if rank else set()
    if found.axis in axes:
        raise _Forbidden("ranges over the examples of a batch")
    kept = attr(at.node, "keep_dims").b or attr(at.node, "keepdims").b
    return _moved(found, found.axis - (0 if kept else sum(axis < found.axis for axis in axes)))


def _biased(at: _At) -> Dependence:
    found = at.only_first()
    if found.axis:
        return _along_last(at)
    return found


def _along_last(at: _At) -> Dependence:
    found = at.only_first()
    if found.axis == len(at.shape(0)) - 1:
        raise _Forbidden("ranges over the examples of a batch")
    return found


def _along_axis(at: _At) -> Dependence:
    found, rank = at.only_first(), len(at.shape(0))
    if found.axis in {axis % rank for axis in at.constant(1)}:
        raise _Forbidden("goes from one example of a batch to the next")
    return found


def _reshaped(at: _At) -> Dependence:
    if at.ins[1].what == _ROWS:
        raise _Forbidden("takes a shape from the examples")
    before, after = at.shape(0), at.shape()
    ahead = math.prod(before[: at.first.axis]) * at.first.folds
    for axis, size in enumerate(after):
        each = size // at.batch if size and size % at.batch == 0 else 0
        if each and math.prod(after[:axis]) == ahead:
            return replace(at.first, axis=axis, folds=1, spread=each)
        if each and math.prod(after[:axis]) * each == ahead and at.first.spread == 1:
            return replace(at.first, axis=axis, folds=each)
    raise _Forbidden("puts examples together")


def _transposed(at: _At) -> Dependence:
    return _moved(at.first, at.constant(1).index(at.only_first().axis))


def _expanded(at: _At) -> Dependence:
    found, rank = at.only_first(), len(at.shape(0))
    (axis,) = at.constant(1)
    return _moved(found, found.axis + ((axis % (rank + 1)) <= found.axis))


def _squeezed(at: _At) -> Dependence:
    found, shape = at.first, at.shape(0)
    axes = {axis % len(shape) for axis in attr(at.node, "squeeze_dims").list.i}
    axes = axes or {axis for axis, size in enumerate(shape) if size == 1}
    if found.axis in axes:
        raise _Forbidden("takes the only example of a batch out of it")
    return _moved(found, found.axis - sum(axis < found.axis for axis in axes))


def _alike(ins: Sequence[Dependence]) -> Dependence:
    rows = {d for d in ins if d != UNIFORM}
    if len(rows) != 1:
        raise _Forbidden("joins what depends on the examples in different ways")
    return rows.pop()


def _concatenated(at: _At) -> Dependence:
    place = 0 if at.node.op == "Concat" else len(at.ins) - 1
    found = _alike([d for number, d in enumerate(at.ins) if number != place])
    (axis,) = at.constant(place)
    if (axis if axis >= 0 else axis % len(at.shape())) == found.axis:
        raise _Forbidden("puts examples behind each other")
    return found


def _packed(at: _At) -> Dependence:
    found = _alike(at.ins)
    return _moved(found, found.axis + (attr(at.node, "axis").i % len(at.shape()) <= found.axis))


def _unpacked(at: _At) -> Dependence:
    axis = attr(at.node, "axis").i % len(at.shape(0))
    if axis == at.first.axis:
        raise _Forbidden("takes the examples of a batch apart")
    return _moved(at.first, at.first.axis - (axis < at.first.axis))


def _split(at: _At) -> Dependence:
    data, axis = (1, 0) if at.node.op == "Split" else (0, 2)
    (along,) = at.constant(axis)
    if (along if along >= 0 else along % len(at.shape(data))) == at.ins[data].axis:
        if at.node.op == "Split" and attr(at.node, "num_split").i == at.ins[data].folds:
            return replace(at.ins[data], folds=1)
        raise _Forbidden("takes the examples of a batch apart")
    return at.ins[data]


def _whole_rows(at: _At) -> Dependence:
    """Of an op that keeps the rank, and every row if it keeps as many."""
    found = at.first
    _check_positions(at)
    if at.shape()[found.axis] != at.shape(0)[found.axis]:
        raise _Forbidden("takes some examples of a batch")
    return found


def _check_positions(at: _At) -> None:
    """Refuses positions that the examples say, or their number, but where it is the number of rows."""
    for place in range(1, len(at.ins)):
        if at.ins[place].what == _ROWS:
            raise _Forbidden("takes positions from the examples")
        if at.ins[place] == SIZE:
            sizes = at.size(place)
            others = None if sizes is None else np.delete(sizes.reshape(-1), at.first.axis)
            if others is None or is_counted(others, at.batch):
                raise _Forbidden("depends on the number of examples in a batch")


def _strided(at: _At) -> Dependence:
    _check_positions(at)
    masks = {key: attr(at.node, f"{key}_mask").i for key in ("ellipsis", "new_axis", "shrink_axis")}
    steps = at.constant(3)
    taken = len(steps) - bin(masks["new_axis"]).count("1") - bool(masks["ellipsis"])
    axis = made = 0  # of the input, of the output
    for number, step in enumerate(steps):
        bit = 1 << number
        if masks["ellipsis"] & bit:
            skipped = len(at.shape(0)) - taken
            if axis <= at.first.axis < axis + skipped:
                return _moved(at.first, made + at.first.axis - axis)
            axis, made = axis + skipped, made + skipped
        elif masks["new_axis"] & bit:
            made += 1
        elif axis == at.first.axis:
            is_whole = attr(at.node, "begin_mask").i & attr(at.node, "end_mask").i & bit and step == 1
            if masks["shrink_axis"] & bit or not (is_whole or (step == 1 and at.shape()[made] == at.shape(0)[axis])):
                raise _Forbidden("takes some examples of a batch")
            return _moved(at.first, made)
        else:
            axis, made = axis + 1, made + (not masks["shrink_axis"] & bit)
    return _moved(at.first, made + at.first.axis - axis)


def _gathered(at: _At) -> Dependence:
    axis = at.constant(2)[0] if len(at.ins) > 2 else 0
    params, indices = at.ins[:2]
    if attr(at.node, "batch_dims").i:
        raise _Forbidden("is not followed where it has batch_dims")
    axis %= max(1, len(at.shape(0)))
    if params.is_constant and indices.what == _ROWS:
        return _moved(indices, axis + indices.axis)
    if indices.is_constant and params.what == _ROWS and params.axis != axis:
        return _moved(params, params.axis + (len(at.shape(1)) - 1 if axis < params.axis else 0))
    raise _Forbidden("takes some examples of a batch")


def _one_hot(at: _At) -> Dependence:
    if attr(at.node, "axis").i not in (-1, len(at.shape(0))) and "axis" in at.node.attr:
        raise _Forbidden("is not followed on this axis")
    return at.only_first()


def _folded(at: _At) -> Dependence:
    if at.first.axis:
        raise _Forbidden("takes examples for positions")
    return replace(at.first, folds=at.first.folds * math.prod(at.constant(1)))


def _unfolded(at: _At) -> Dependence:
    if at.first.axis or at.first.folds != math.prod(at.constant(1)):
        raise _Forbidden("puts examples together")
    return replace(at.first, folds=1)


def _reversed_up_to(at: _At) -> Dependence:
    if attr(at.node, "batch_dim").i != at.first.axis:
        raise _Forbidden("goes from one example of a batch to the next")
    return at.first


# ---- Ops that matter whatever their inputs depend on


def _shape_taken(at: _At) -> Dependence:
    if at.first.is_constant:
        return SAME
    shape = at.shapes.get(tensor_name(at.refs[0]))
    if shape is not None and None not in shape:
        size = np.array(shape, np.int64)
        at.sizes[f"{at.node.name}:0"] = size if at.node.op == "Shape" else np.asarray(np.prod(size))
    return SIZE


def _rank_taken(at: _At) -> Dependence:
    shape = at.shapes.get(tensor_name(at.refs[0]))
    if shape is not None:
        at.sizes[f"{at.node.name}:0"] = np.array(len(shape), np.int64)
    return SAME


def _switched(at: _At) -> Dependence:
    data, chosen = at.ins
    if not chosen.is_constant:
        raise _Forbidden("takes a way that depends on the examples")
    return data


def _turned(at: _At) -> Dependence:
    if not at.first.is_constant:
        raise _Forbidden("makes it depend on the examples how often a loop turns")
    return SAME


def _array(at: _At) -> Dependence:
    """An empty TensorArray: what is written to it decides; its flow stands for that."""
    return UNIFORM


def _scattered(at: _At) -> Dependence:
    _, indices, value, flow = at.ins
    if not indices.is_constant:
        raise _Forbidden("takes positions from the examples")
    if value.what == _ROWS and not value.axis:
        raise _Forbidden("takes the examples of a batch apart")
    return _joined([_moved(value, value.axis - 1) if value.what == _ROWS else value, flow])


def _written(at: _At) -> Dependence:
    _, place, value, flow = at.ins
    if not place.is_constant:
        raise _Forbidden("takes positions from the examples")
    return _joined([value, flow])


def _read(at: _At) -> Dependence:
    _, place, flow = at.ins
    if not place.is_constant:
        raise _Forbidden("takes positions from the examples")
    return flow


def _stacked(at: _At) -> Dependence:
    _, indices, flow = at.ins
    if not indices.is_constant:
        raise _Forbidden("takes positions from the examples")
    return _moved(flow, flow.axis + 1) if flow.what == _ROWS else flow


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


_PASSED = _ops(
    "Identity Snapshot StopGradient PreventGradient CheckNumerics Enter RefEnter Exit RefExit NextIteration"
    " RefNextIteration Cast EnsureShape PlaceholderWithDefault"
)
_ALIKE = _ops(
    "Abs Acos Acosh Add AddV2 Asin Asinh Atan Atan2 Atanh Ceil ClipByValue Cos Cosh Digamma Div DivNoNan Elu"
    " Equal Erf Erfc Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Inv Invert IsFinite IsInf IsNan"
    " LeakyRelu Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan"
    " Neg NotEqual OnesLike Pow RealDiv Reciprocal Relu Relu6 Rint Round Rsqrt SelectV2 Selu Sigmoid Sign Sin Sinh"
    " Softplus Softsign Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlogy ZerosLike"
    " AddN"
)
_HANDED_ON = _PASSED | {"Merge", "RefMerge", "Switch", "RefSwitch"}
_MAPS = _ops(
    "Conv2D DepthwiseConv2dNative Conv3D MaxPool MaxPoolV2 AvgPool MaxPool3D AvgPool3D LRN Dilation2D"
    " SpaceToDepth DepthToSpace ExtractImagePatches ResizeBilinear ResizeNearestNeighbor ResizeBicubic ResizeArea"
)
_OF_SIZES = _ops(
    "Range Pack ConcatV2 Concat StridedSlice Slice GatherV2 Gather Cast ExpandDims Squeeze Reshape Prod Sum Max Min"
    " Unpack Split SplitV Identity BroadcastArgs"
)
_FOLDED = (
    _ALIKE | _MAPS | _ops("SpaceToBatchND BatchToSpaceND BiasAdd FusedBatchNorm FusedBatchNormV3 MatMul Split Reshape")
)


def _selected(at: _At) -> Dependence:
    """The first input of a `Select` may be a vector with a value for each row."""
    condition, *others = at.ins
    chosen = _alike([d for d in others])
    if condition.is_constant and len(at.shape(0)) != 1:
        return chosen
    if condition.what == _ROWS and not condition.axis and not chosen.axis:
        return chosen
    raise _Forbidden("treats the rows of a batch in different ways")


def _transposed_convolution(at: _At) -> Dependence:
    sizes, filters, maps = at.ins
    if sizes.what == _ROWS or not filters.is_constant or maps.what != _ROWS or maps.axis:
        raise _Forbidden("takes examples for positions")
    return maps


_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ALIKE, _aligned),
    **dict.fromkeys(_MAPS, _per_image),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), _normalised),
    **dict.fromkeys(("Sum", "Mean", "Max", "Min", "Prod", "Any", "All", "ArgMax", "ArgMin"), _reduced),
    **dict.fromkeys(("Softmax", "LogSoftmax", "TopKV2"), _along_last),
    "BiasAdd": _biased,
    **dict.fromkeys(("Cumsum", "Cumprod", "ReverseV2"), _along_axis),
    **dict.fromkeys(("Slice", "Pad", "PadV2", "MirrorPad", "Tile"), _whole_rows),
    **dict.fromkeys(("ConcatV2", "Concat"), _concatenated),
    **dict.fromkeys(("Split", "SplitV"), _split),
    **dict.fromkeys(("Gather", "GatherV2"), _gathered),
    **dict.fromkeys(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _batched_product),
    **dict.fromkeys(("LookupTableFind", "LookupTableFindV2"), lambda at: at.ins[1]),
    "MatMul": _product,
    "Reshape": _reshaped,
    "Transpose": _transposed,
    "ExpandDims": _expanded,
    "Squeeze": _squeezed,
    "Pack": _packed,
    "Unpack": _unpacked,
    "StridedSlice": _strided,
    "OneHot": _one_hot,
    "Select": _selected,
    "SpaceToBatchND": _folded,
    "BatchToSpaceND": _unfolded,
    "ReverseSequence": _reversed_up_to,
    "Conv2DBackpropInput": _transposed_convolution,
}
_BY_KIND: dict[str, Rule] = {
    **dict.fromkeys(("Shape", "Size"), _shape_taken),
    **dict.fromkeys(("Switch", "RefSwitch"), _switched),
    "Rank": _rank_taken,
    "LoopCond": _turned,
    "TensorArrayV3": _array,
    "TensorArrayScatterV3": _scattered,
    "TensorArrayWriteV3": _written,
    "TensorArrayReadV3": _read,
    "TensorArrayGatherV3": _stacked,
    "TensorArraySizeV3": lambda at: SAME,
}
