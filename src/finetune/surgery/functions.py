"""Calls of functions replaced by the nodes of what they call.

TensorFlow 2 writes a model as functions that call each other. Behind `inline` there are no calls: the inside of
`CALL` is nodes named `CALL/NODE`, at which a graph can be cut, whose variables and random ops are found as any others.
Branches and loops (`If`, `While`, `Case`) stay, and in their functions there are no calls either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Any

from finetune.errors import UserError
from finetune.graph import Graph, all_contexts, attr, changed, control_inputs, data_inputs, make_node, rewired
from finetune.names import is_control, node_of, port_of, unused
from finetune.protos import AttrValue
from finetune.surgery.bodies import CONTROL_FLOW, Body, called, callees_first, closed, filled, opened, with_attrs

MOST_NODES = 200_000  # that functions may unfold to; a file of a few lines can ask for any number
DEEPEST = 50  # functions that call each other

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_CALL = "_inlined"  # marks what stands for a call of several outputs


def inline(graph: Graph) -> Graph:
    """The graph without calls of functions, as far as the file says which outputs they mean.

    A call of one output becomes an `Identity` of its name. The outputs of one with several are nodes of their own,
    so that a cut at one needs no other; `tensor_of` finds them. What cannot be unfolded, a function that calls itself
    among it, stays a call.

    Raises:
      UserError: the functions would unfold to too many nodes.
    """
    if not graph.functions:
        return graph
    bodies = _without_calls(graph)
    calls = {name: call for name, node in graph.nodes.items() if (call := _call(node, bodies)) is not None}
    functions = {f.signature.name: f for f in graph.functions}
    unfolded = {name for name, body in bodies.items() if _has_calls(functions[name], bodies)}
    kept = tuple(
        closed(bodies[f.signature.name], f.signature.name, f) if f.signature.name in unfolded else f
        for f in graph.functions
    )
    return replace(_expanded(graph, calls, apart=True), functions=kept)


def decided(graph: Graph, chosen: Mapping[str, Any]) -> Graph:
    """The graph with a branch in the place of some `If` and `Case` nodes: name -> the branch as a `NameAttrList`."""
    functions = {f.signature.name: f for f in graph.functions}
    calls = {}
    for name, function in chosen.items():
        body = opened(functions[function.name], graph) if function.name in functions else None
        node = graph.nodes[name]
        given = data_inputs(node)[1:]
        if body is not None and len(given) == len(body.arguments):
            calls[name] = (changed(node, input=[*given, *control_inputs(node)]), function.attr, body)
    return _expanded(graph, calls, apart=False)


def tensor_of(graph: Graph, tensor: str) -> str:
    """The tensor that an output of a call has become."""
    node = graph.nodes.get(node_of(tensor))
    if node is None or _CALL not in node.attr or port_of(tensor) >= len(data_inputs(node)):
        return tensor
    return f"{node_of(data_inputs(node)[port_of(tensor)])}:0"


def with_names(graph: Graph, whole: Graph) -> Graph:
    """A part of a graph with the names of the calls whose first outputs are in it: `CALL:1` is there as well."""
    nodes = dict(graph.nodes)
    for name, node in whole.nodes.items():
        if _CALL in node.attr and name not in nodes:
            refs = list(takewhile(lambda ref: node_of(ref) in graph.nodes, data_inputs(node)))
            if refs:
                kinds = AttrValue(list=AttrValue.ListValue(type=attr(node, "T").list.type[: len(refs)]))
                nodes[name] = changed(node, input=refs, attrs={"T": kinds, _CALL: AttrValue(b=True)})
    return graph.with_nodes(nodes)


Call = tuple[Any, Mapping[str, Any], Body]  # the node, the values of the function's attributes, the function


def _without_calls(graph: Graph) -> dict[str, Body]:
    """The bodies of all functions that the graph runs, unfolded, as far as they can be."""
    functions = {f.signature.name: f for f in graph.functions}
    ran = _ran(graph, functions)
    order = [name for name in callees_first(functions)[0] if name in ran]
    _check_sizes(graph, {name: functions[name] for name in order})
    bodies: dict[str, Body] = {}
    for name in order:
        if (body := opened(functions[name], graph)) is not None:
            calls = {n: call for n, node in body.nodes.items() if (call := _call(node, bodies)) is not None}
            bodies[name] = _unfolded(body, calls)
    return bodies


def _check_sizes(graph: Graph, functions: Mapping[str, Any]) -> None:
    """Counts what functions, callees first, would unfold to, before anything does."""
    sizes: dict[str, int] = {}
    depths: dict[str, int] = {}

    def size(nodes: Iterable[Any]) -> int:
        return sum(1 + sizes.get(_called(node), 0) for node in nodes)

    for name, function in functions.items():
        sizes[name] = size(function.node_def)
        depths[name] = 1 + max((depths.get(_called(node), 0) for node in function.node_def), default=0)
        if depths[name] > DEEPEST:
            raise UserError("source", name, f"functions are nested more than {DEEPEST} deep")
    count = size(graph.nodes.values()) + sum(sizes.values())
    if count > MOST_NODES:
        what = f"the functions that it calls unfold to more than {MOST_NODES:,} nodes"
        raise UserError("source", "graph", what, "this file is damaged or made up")


def _called(node: Any) -> str:
    return attr(node, "f").func.name if node.op in _CALLS else node.op


def _ran(graph: Graph, functions: Mapping[str, Any]) -> set[str]:
    """The functions that are called, or that branches and loops run; not those of input pipelines and the like."""
    found: set[str] = set()
    stack = list(graph.nodes.values())
    while stack:
        node = stack.pop()
        if node.op in (*_CALLS, *CONTROL_FLOW) or node.op in functions:
            for name in called(node, functions):
                if name not in found:
                    found.add(name)
                    stack.extend(functions[name].node_def)
    return found


def _has_calls(function: Any, bodies: Mapping[str, Body]) -> bool:
    return not function.signature.attr and any(_call(node, bodies) is not None for node in function.node_def)


def _call(node: Any, bodies: Mapping[str, Body]) -> Call | None:
    """What a node calls; None if it is no call, or one that stays."""
    attrs = attr(node, "f").func.attr if node.op in _CALLS else node.attr
    body = bodies.get(_called(node))
    if body is None or len(data_inputs(node)) != len(body.arguments):
        return None
    open_kinds = [k for k in body.kinds.values() if filled(k, attrs).WhichOneof("value") == "placeholder"]
    if open_kinds and len(body.kinds) > 1:
        return None
    return node, attrs, body


def _unfolded(body: Body, calls: Mapping[str, Call]) -> Body:
    """A body with its own calls expanded."""
    if not calls:
        return body
    nodes: dict[str, Any] = {}
    moved: dict[str, str] = {}
    spelled = dict(body.spelled)
    for name, node in body.nodes.items():
        if name not in calls:
            nodes[name] = node
            continue
        prefix = _prefix(name, calls[name][2], body.nodes)
        for new in _inside(calls[name], prefix, tie=None, apart=True):
            nodes[new.name] = new
        moved |= _moved(nodes[name], apart=True)
        spelled |= {f"{prefix}/{flat}": f"{prefix}/{ref}" for flat, ref in calls[name][2].spelled.items()}
    returns = {result: moved.get(ref, ref) for result, ref in body.returns.items()}
    return Body(rewired(nodes, moved), returns, body.kinds, body.waited, spelled)


def _expanded(graph: Graph, calls: Mapping[str, Call], apart: bool) -> Graph:
    """The graph with calls expanded; nodes in V1 branches and loops stand where the call stood."""
    if not calls:
        return graph
    if len(graph.nodes) + sum(len(body.nodes) for *_, body in calls.values()) > MOST_NODES:
        what = f"the branches that are taken unfold to more than {MOST_NODES:,} nodes"
        raise UserError("source", next(iter(calls)), what, "this file is damaged or made up")
    conds, whiles = all_contexts(graph)
    inside = {node_of(v) for c in (*conds, *whiles) for v in c.values_def.values} & calls.keys()
    nodes: dict[str, Any] = {}
    moved: dict[str, str] = {}
    added: dict[str, list[str]] = {}
    for name, node in graph.nodes.items():
        if name not in calls:
            nodes[name] = node
            continue
        prefix = _prefix(name, calls[name][2], graph.nodes)
        first = next(iter(data_inputs(calls[name][0])), None)
        tie = f"^{node_of(first)}" if first and name in inside else None
        new = list(_inside(calls[name], prefix, tie, apart))
        nodes |= {n.name: n for n in new}
        moved |= _moved(nodes[name], apart)
        added[name] = [n.name for n in new if n.name != name]
    return replace(
        graph,
        nodes=rewired(nodes, moved),
        conds=tuple(_joined(c, added) for c in graph.conds),
        whiles=tuple(_joined(c, added) for c in graph.whiles),
    )


def _prefix(name: str, body: Body, taken: Mapping[str, Any]) -> str:
    prefix = name
    while any(f"{prefix}/{inner}" in taken for inner in body.nodes):
        prefix += "_"
    return prefix


def _inside(call: Call, prefix: str, tie: str | None, apart: bool) -> Iterator[Any]:
    """The nodes of one call.

    Args:
      tie: what a node without inputs waits for, to stand in the loop or branch in which the call stands.
      apart: give each of several outputs a node.
    """
    node, attrs, body = call
    given = dict(zip(body.arguments, data_inputs(node), strict=True))
    before = control_inputs(node) or ([tie] if tie else [])

    def moved(ref: str) -> str:
        name = node_of(ref)
        if is_control(ref):
            return f"^{node_of(given[name])}" if name in given else f"^{prefix}/{name}"
        return given.get(name, f"{prefix}/{ref}")

    for inner in body.nodes.values():
        if inner.name not in given:
            copy = with_attrs(inner, attrs)
            copy.name = f"{prefix}/{inner.name}"
            del copy.input[:]
            copy.input.extend([moved(ref) for ref in inner.input] or before)
            copy.attr.pop("_class", None)
            if "frame_name" in copy.attr:
                copy.attr["frame_name"].s = f"{prefix}/".encode() + copy.attr["frame_name"].s
            yield copy
    waited = dict.fromkeys(body.waited.values())
    # What only reads is waited for by whoever reads it.
    after = [f"^{prefix}/{n}" for n in waited if n in body.nodes and body.nodes[n].op not in ("ReadVariableOp", "NoOp")]
    results = [(moved(ref), filled(body.kinds[result], attrs)) for result, ref in body.returns.items()]
    yield from _outputs(node, results, [*control_inputs(node), *after], prefix, body.nodes, apart)


def _outputs(
    node: Any, results: list[tuple[str, Any]], controls: list[str], prefix: str, inner: Iterable[str], apart: bool
) -> Iterator[Any]:
    """What stands for the outputs of a call."""
    kept = {"_output_shapes": attr(node, "_output_shapes")} if "_output_shapes" in node.attr else {}
    if len(results) == 1:
        yield changed(node, op="Identity", input=[results[0][0], *controls], attrs={"T": results[0][1], **kept})
        return
    if not results:
        yield changed(node, op="NoOp", input=controls, attrs={})
        return
    refs = [ref for ref, _ in results]
    kinds = AttrValue(list=AttrValue.ListValue(type=[kind.type for _, kind in results]))
    if not apart:
        yield changed(node, op="IdentityN", input=[*refs, *controls], attrs={"T": kinds, **kept})
        return
    taken = {f"{prefix}/{name}" for name in inner}
    names = [unused(f"{prefix}/output_{port}", taken) for port in range(len(results))]
    shapes = kept["_output_shapes"].list.shape if kept else ()
    for port, (name, (ref, kind)) in enumerate(zip(names, results, strict=True)):
        output = make_node(name, "Identity", [ref, *controls])
        output.attr["T"].CopyFrom(kind)
        if port < len(shapes):
            output.attr["_output_shapes"].list.shape.append(shapes[port])
        yield output
    attrs = {"T": kinds, _CALL: AttrValue(b=True), **kept}
    yield changed(node, op="IdentityN", input=[*names, *controls], attrs=attrs)


def _moved(node: Any, apart: bool) -> dict[str, str]:
    """The outputs of a call as its readers write them, and what they read now."""
    if not apart or node.op != "IdentityN":
        return {}
    moved = {f"{node.name}:{port}": name for port, name in enumerate(data_inputs(node))}
    return {node.name: moved[f"{node.name}:0"], **moved}


def _joined(context: Any, added: Mapping[str, list[str]]) -> Any:
    """A V1 context with new nodes beside the calls that they come from."""
    copy = type(context)()
    copy.CopyFrom(context)
    values = copy.values_def
    own = {node_of(v) for v in values.values if v not in values.external_values}
    values.values.extend(f"{new}:0" for call in added if call in own for new in added[call])
    for nested in copy.nested_contexts:
        if kind := nested.WhichOneof("ctxt"):
            getattr(nested, kind).CopyFrom(_joined(getattr(nested, kind), added))
    return copy
