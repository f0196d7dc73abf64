"""The part of a graph that one tensor needs, or why there is none."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Container, Iterable
from typing import Any

from finetune.errors import UserError
from finetune.graph import Graph, all_contexts, attr, changed, consumers, data_inputs, output_types, recorded_shape
from finetune.names import did_you_mean, is_control, node_of, port_of, tensor_name
from finetune.protos import ControlFlowContextDef
from finetune.surgery.bodies import called
from finetune.surgery.functions import tensor_of

_FRAME_OPS = {"Switch", "RefSwitch", "Merge", "RefMerge", "Enter", "RefEnter", "LoopCond", "NextIteration"}
_BORDERS = ("Merge", "RefMerge", "Enter", "RefEnter", "Exit", "RefExit")  # beyond: another frame or another branch
_DAMAGED = "is the .meta complete?"
_TENSOR = re.compile(r"[^^:]+(:[0-9]+)?")


def find_tensor(graph: Graph, tensor: str, key: str) -> str:
    """The full name of a tensor of the graph, `fc7` being short for `fc7:0`.

    Raises:
      UserError: there is no such tensor; the message has the nearest names.
    """
    if not _TENSOR.fullmatch(tensor):
        raise UserError("source", key, f"'{tensor}' is no tensor name", "write it as scope/op:0")
    name, node = tensor_name(tensor), node_of(tensor)
    if node not in graph.nodes:
        # Nodes of the training half are never what was meant.
        known = [n for n in graph.nodes if not n.startswith(("gradients/", "save/"))]
        guess = did_you_mean(name, [f"{n}:0" for n in known])
        raise UserError("source", key, f"the graph has no tensor '{name}'", guess)
    outputs = output_types(graph, graph.nodes[node])
    if outputs is None:
        outputs = attr(graph.nodes[node], "_output_shapes").list.shape or None
    if outputs is not None and port_of(name) >= len(outputs):
        if not outputs:
            what = f"'{node}' is a {graph.nodes[node].op}, which gives no tensor"
            raise UserError("source", key, what, "name a tensor that is computed")
        count = f"{len(outputs)} outputs" if len(outputs) > 1 else "one output"
        raise UserError("source", key, f"'{node}' has {count}, no '{name}'", f"did you mean {node}:0?")
    return tensor_of(graph, name)


def cut(graph: Graph, outputs: Iterable[str], inputs: Iterable[str] = ()) -> Graph:
    """The ancestors of `outputs`, going no further up than `inputs`; original order, original nodes.

    Control inputs are dropped, for what they order is never part of a value: asserts, summaries, batch-norm
    statistics assigned on the side. Those that tie a node to its place in a V1 `cond` or `while_loop` stay.
    Of each loop that is touched, every enter, exit and pivot stays, used or not: without them
    `tf.gradients` returns None for every variable and says nothing.
    """
    stops = {tensor_name(ref) for ref in inputs}
    stopping = {node_of(ref) for ref in stops}
    kept: dict[str, Any] = {}
    bare: set[str] = set()  # of those kept, the ones whose own inputs are not needed
    behind = _behind_pivots(graph)

    def add(refs: Iterable[str]) -> None:
        stack = [(ref, "the cut") for ref in refs]
        while stack:
            ref, reader = stack.pop()
            if not _TENSOR.fullmatch(ref.removeprefix("^")):
                raise UserError("source", reader, f"reads '{ref}', which is no tensor name", _DAMAGED)
            name = node_of(ref)
            # Another output of the same node may be needed and not be an input.
            stops_here = name in stopping and (is_control(ref) or tensor_name(ref) in stops)
            if name in kept and (stops_here or name not in bare):
                continue
            node = graph.nodes.get(name)
            if node is None:
                raise UserError("source", name, f"'{reader}' reads this, but it is not in the file", _DAMAGED)
            if stops_here:
                kept[name] = _without_inputs(node)
                bare.add(name)
                continue
            kept[name] = _without_order(graph, node, behind)
            bare.discard(name)
            stack.extend((r, name) for r in kept[name].input)

    add(outputs)
    conds, whiles = all_contexts(graph)
    pending = [*((c, _cond_anchors(c)) for c in conds), *((w, _while_anchors(w)) for w in whiles)]
    while True:
        touched = [item for item in pending if _is_touched(item[0], kept)]
        if not touched:
            break
        pending = [item for item in pending if item not in touched]
        for _, anchors in touched:
            add(a for a in anchors if node_of(a) in graph.nodes)
    nodes = {name: kept[name] for name in graph.nodes if name in kept}
    return pruned(Graph(nodes, graph.conds, graph.whiles, graph.functions, graph.versions, graph.stripped_ops))


def _without_inputs(node: Any) -> Any:
    return changed(node, input=[]) if node.input else node


def _without_order(graph: Graph, node: Any, behind: Container[str]) -> Any:
    if not any(map(is_control, node.input)):
        return node
    refs = [r for r in node.input if not is_control(r) or _is_pivot(graph, node_of(r))]
    if not refs and node.input and (pivot := _pivot_behind(graph, node.input, behind)):
        refs = [f"^{pivot}"]
    return node if refs == list(node.input) else changed(node, input=refs)


def _pivot_behind(graph: Graph, refs: Iterable[str], behind: Container[str]) -> str | None:
    """The pivot of the branch or loop body in which the nodes stand that these control inputs name.

    A constant in a loop body may be tied to it only through an assert of that body.
    """
    queue, seen = deque(node_of(r) for r in refs), set()
    while queue:
        name = queue.popleft()
        if name not in behind or name in seen:
            continue
        seen.add(name)
        if _is_pivot(graph, name):
            return name
        queue.extend(node_of(r) for r in graph.nodes[name].input)
    return None


def _behind_pivots(graph: Graph) -> set[str]:
    """The nodes that have a pivot above them, in the same frame and branch; without one a search for it is in vain."""
    if not any(node.op in _FRAME_OPS for node in graph.nodes.values()):
        return set()
    stack = [name for name, node in graph.nodes.items() if node.op not in _BORDERS and _is_pivot(graph, name)]
    found, readers = set(stack), consumers(graph.nodes)
    while stack:
        for name in readers.get(stack.pop(), ()):
            if name not in found and graph.nodes[name].op not in _BORDERS:
                found.add(name)
                stack.append(name)
    return found


def _is_pivot(graph: Graph, name: str) -> bool:
    """Whether waiting for this node means being in a branch or a loop body."""
    node = graph.nodes.get(name)
    if node is None:
        return False
    if node.op in ("Identity", "RefIdentity"):
        read = data_inputs(node)
        node = graph.nodes.get(node_of(read[0])) if read else None
        return node is not None and node.op in ("Switch", "RefSwitch")
    return node.op in _FRAME_OPS


def _cond_anchors(context: Any) -> list[str]:
    return [context.pred_name, context.pivot_name]


def _while_anchors(context: Any) -> list[str]:
    named = [context.pivot_name, context.pivot_for_pred_name, context.pivot_for_body_name]
    named += [*context.loop_exit_names, *context.loop_enter_names, context.maximum_iterations_name]
    return [name for name in named if name]


def _is_touched(context: Any, kept: dict[str, Any]) -> bool:
    own = set(context.values_def.values) - set(context.values_def.external_values)
    return any(node_of(value) in kept for value in own)


def pruned(graph: Graph) -> Graph:
    """The graph with contexts and functions that mention only nodes which are there."""
    conds, whiles, lifted = [], [], []
    for context in (*graph.conds, *graph.whiles):
        lifted.extend(_pruned_context(context, graph.nodes))
    for kind, context in lifted:
        (conds if kind == "cond_ctxt" else whiles).append(context)
    return Graph(graph.nodes, tuple(conds), tuple(whiles), _reached(graph), graph.versions, graph.stripped_ops)


def _pruned_context(context: Any, nodes: Any) -> list[tuple[str, Any]]:
    """The context without what is gone; if it is gone itself, the contexts inside it take its place."""
    inner: list[tuple[str, Any]] = []
    for nested in context.nested_contexts:
        kind = nested.WhichOneof("ctxt")
        if kind:
            inner.extend(_pruned_context(getattr(nested, kind), nodes))
    kind = "while_ctxt" if hasattr(context, "loop_exit_names") else "cond_ctxt"
    anchors = _while_anchors(context) if kind == "while_ctxt" else _cond_anchors(context)
    if not _is_touched(context, nodes) or any(node_of(a) not in nodes for a in anchors):
        return inner
    copy = type(context)()
    copy.CopyFrom(context)
    del copy.values_def.values[:]
    copy.values_def.values.extend(v for v in context.values_def.values if node_of(v) in nodes)
    for outer, value in context.values_def.external_values.items():
        if node_of(value) not in nodes:
            del copy.values_def.external_values[outer]
    del copy.nested_contexts[:]
    for inner_kind, message in inner:
        copy.nested_contexts.append(ControlFlowContextDef(**{inner_kind: message}))
    return [(kind, copy)]


def _reached(graph: Graph) -> tuple[Any, ...]:
    """The functions that the nodes call, and those that these call."""
    if not graph.functions:
        return ()
    by_name = {f.signature.name: f for f in graph.functions}
    found: dict[str, Any] = {}
    stack = [n for node in graph.nodes.values() for n in called(node, by_name)]
    while stack:
        name = stack.pop()
        if name in found:
            continue
        found[name] = by_name[name]
        stack.extend(n for node in by_name[name].node_def for n in called(node, by_name))
    return tuple(f for f in graph.functions if f.signature.name in found)


def place_of(graph: Graph, tensor: str) -> str | None:
    """The V1 loop or branch inside which a tensor stands; None if it has one value whenever the graph is run."""
    return places(graph).get(node_of(tensor))


def places(graph: Graph) -> dict[str, str]:
    """Every node that stands inside a V1 loop or branch, with the name of that."""
    conds, whiles = all_contexts(graph)
    open_conds = [c for c in conds if _is_pivot(graph, node_of(c.pivot_name))]  # the others are decided by feeds
    found: dict[str, str] = {}
    for context in (*whiles, *open_conds):
        for node in {node_of(v) for v in context.values_def.values if v not in context.values_def.external_values}:
            if node in graph.nodes and not _leaves(graph.nodes[node], context):
                found.setdefault(node, context.context_name)
    return found


def _leaves(node: Any, context: Any) -> bool:
    """Whether a node is an exit of the loop; files of TensorFlow 1.1 do not list the exits of theirs."""
    if not hasattr(context, "loop_exit_names") or node.op not in ("Exit", "RefExit"):
        return False
    return not context.loop_exit_names or node.name in map(node_of, context.loop_exit_names)


def width_at(graph: Graph, tensor: str) -> tuple[int | None, ...] | None:
    """The shape that the file records for a tensor."""
    return recorded_shape(graph.nodes[node_of(tensor)], port_of(tensor))
