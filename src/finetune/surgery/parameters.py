"""Variables as arguments: in the engine a variable is a `Placeholder` of the same name, and no op sees its storage.

In functions the argument that was a resource is a value as well: the loop `While(x, v)` whose body reads `v` becomes
one that is given what `v` holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.errors import UserError
from finetune.graph import REF, RESOURCE, Graph, attr, changed, constant, data_inputs, make_node
from finetune.names import input_ref, is_control, unused
from finetune.protos import AttrValue, NameAttrList
from finetune.reading.variables import ASSIGNS, PASS_ON, REF_TO_VALUE, VARIABLE_OPS, placeholder
from finetune.surgery.bodies import ARGUMENT, CONTROL_FLOW, LOOPS, Body, branches, closed, filled, opened, with_attrs

MOST_FUNCTIONS = 5_000  # that may be made of those of a file


def as_parameters(graph: Graph) -> Graph:
    """The graph with its variables as `Placeholder` nodes, references and resources gone, in functions as well.

    An assignment on the way to a value becomes the value that it would assign.

    Raises:
      UserError: a variable is used in a way that has no meaning without its storage.
    """
    variables = {n.name: n for n in graph.nodes.values() if n.op in VARIABLE_OPS}
    held = _handed_on(graph.nodes, {n.name: n for n in variables.values() if n.op == "VarHandleOp"})
    library = _Library(graph)
    nodes: dict[str, Any] = {}
    for name, node in graph.nodes.items():
        if name in variables:
            nodes[name] = placeholder(name, attr(node, "dtype").type % REF, attr(node, "shape").shape)
        else:
            for new in _as_value(node, held, library):
                nodes[new.name] = new
    return replace(graph, nodes=nodes, functions=tuple(library.functions.values()))


def _handed_on(nodes: Mapping[str, Any], handles: Mapping[str, Any]) -> dict[str, Any]:
    """For each input that is a variable's resource, as a graph writes it, the node that made the resource."""
    held = dict(handles)
    while True:
        more = {
            new: held[input_ref(ref)]
            for node in nodes.values()
            for new, ref in _passes(node)
            if new not in held and input_ref(ref) in held
        }
        if not more:
            return held
        held.update(more)


def _passes(node: Any) -> list[tuple[str, str]]:
    """The resources that a node hands on: as its readers write it, as it reads it itself."""
    inputs = data_inputs(node)
    if attr(node, "T").type == RESOURCE:
        return [(new, inputs[0]) for new in (node.name, f"{node.name}:1") if inputs]
    if node.op not in (*LOOPS, "IdentityN"):
        return []
    kinds = attr(node, "T").list.type
    passed = zip(range(len(kinds)), kinds, inputs, strict=False)
    return [(input_ref(f"{node.name}:{port}"), ref) for port, kind, ref in passed if kind == RESOURCE]


class _Library:
    """The functions of a graph, and those made of them for values in the place of resources."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._made: dict[Any, str] = {}
        self.functions = {f.signature.name: f for f in graph.functions}

    def with_values(self, node: Any, function: Any, given: Sequence[Any]) -> str:
        """The name of the function whose arguments are values where `given` has the node of a variable."""
        if function.name not in self.functions:
            return function.name
        kinds = [None if h is None else (attr(h, "dtype").type, attr(h, "shape").SerializeToString()) for h in given]
        key = (function.name, function.SerializeToString(deterministic=True), *kinds)
        if key not in self._made:
            self._made[key] = function.name
            if len(self._made) > MOST_FUNCTIONS:
                what = f"its functions take variables in more than {MOST_FUNCTIONS:,} different ways"
                raise UserError("source", node.name, what, "this file is damaged or made up")
            self._made[key] = self._make(node, function, given)
        return self._made[key]

    def _make(self, node: Any, function: Any, given: Sequence[Any]) -> str:
        way = f"{node.name} → {function.name}"
        original = self.functions[function.name]
        body = opened(original, self._graph)
        if body is None or len(body.arguments) != len(given):
            what = f"nothing says what the function '{function.name}' does with the variables that it is given"
            if any(h is not None for h in given):
                raise UserError("source", node.name, what, "choose a cut below this node")
            return function.name
        handles = {a: h for a, h in zip(body.arguments, given, strict=True) if h is not None}
        held = _handed_on(body.nodes, handles)
        nodes: dict[str, Any] = {}
        for inner in body.nodes.values():
            if inner.name in handles:
                kind = attr(handles[inner.name], "dtype").type
                nodes[inner.name] = make_node(inner.name, ARGUMENT, T={"type": kind})
                continue
            inner = with_attrs(inner, function.attr)
            if inner.op in VARIABLE_OPS or inner.op in ASSIGNS:
                variable = held.get(input_ref(inner.input[0])) if inner.input else None
                what = "keeps a variable" if variable is None else f"assigns to variable '{variable.name}'"
                todo = f"choose a cut below '{node.name}', or feed what decides it"
                raise UserError("source", f"{way} → {inner.name}", f"{inner.op} {what} inside a function", todo)
            for new in _as_value(inner, held, self):
                nodes[new.name] = new
        if not handles and nodes == body.nodes:
            return function.name
        kinds = {result: filled(kind, function.attr) for result, kind in body.kinds.items()}
        for result, ref in body.returns.items():
            if input_ref(ref) in held:
                if node.op not in LOOPS:
                    what = f"{node.op} chooses between variables"
                    raise UserError("source", way, what, "choose a cut below this node")
                kinds[result] = AttrValue(type=attr(held[input_ref(ref)], "dtype").type)
        name = unused(f"{function.name}_of_values", self.functions)
        self.functions[name] = closed(Body(nodes, body.returns, kinds, body.waited, body.spelled), name, original)
        return name


def _with_values(node: Any, held: Mapping[str, Any], library: _Library) -> Any:
    """A branch or a loop whose functions take the values of variables."""
    is_loop = node.op in LOOPS
    inputs = data_inputs(node)[0 if is_loop else 1 :]
    given = [held.get(input_ref(ref)) for ref in inputs]
    copy = changed(node)
    for function in branches(copy):
        name = library.with_values(node, function, given)
        if name != function.name:
            function.CopyFrom(NameAttrList(name=name))
    kinds, shapes = attr(copy, "T" if is_loop else "Tin").list.type, attr(copy, "output_shapes").list.shape
    for index, handle in enumerate(given):
        if handle is not None:
            kinds[index] = attr(handle, "dtype").type
            if is_loop and index < len(shapes):
                shapes[index].CopyFrom(attr(handle, "shape").shape)
    return copy


def _as_value(node: Any, held: Mapping[str, Any], library: _Library) -> list[Any]:
    """What a node becomes when the variable it reads is a plain value."""
    inputs, controls = data_inputs(node), [r for r in node.input if is_control(r)]
    if node.op in REF_TO_VALUE:
        return [changed(node, op=REF_TO_VALUE[node.op])]
    if node.op in ("IsVariableInitialized", "VarIsInitializedOp"):
        return [constant(node.name, True, inputs=controls)]
    if node.op in ASSIGNS:
        kind = {"T": attr(node, "T") if "T" in node.attr else attr(node, "dtype")}
        op = ASSIGNS[node.op]
        refs = [inputs[1], *controls] if op == "Identity" else node.input
        return [changed(node, op=op, input=refs, attrs=kind)]
    if node.op in CONTROL_FLOW:
        return [_with_values(node, held, library)]
    handles = [held.get(input_ref(ref)) for ref in inputs]
    first = next((h for h in handles if h is not None), None)
    if first is None:
        return [node]
    dtype = attr(first, "dtype").type
    if node.op == "ReadVariableOp":
        return [make_node(node.name, "Identity", node.input, T={"type": dtype})]
    if node.op == "VariableShape":
        out = attr(node, "out_type").type or 3
        return [make_node(node.name, "Shape", node.input, T={"type": dtype}, out_type={"type": out})]
    if node.op == "ResourceGather":
        axis = constant(f"{node.name}/axis", 0, dtype=3, inputs=controls)
        kinds = {"Tparams": {"type": dtype}, "Tindices": {"type": attr(node, "Tindices").type}, "Taxis": {"type": 3}}
        batch_dims = {"i": attr(node, "batch_dims").i}
        return [axis, make_node(node.name, "GatherV2", [*inputs, axis.name, *controls], batch_dims=batch_dims, **kinds)]
    if node.op == "ResourceGatherNd":
        kinds = {"Tparams": {"type": dtype}, "Tindices": {"type": attr(node, "Tindices").type}}
        return [make_node(node.name, "GatherNd", node.input, **kinds)]
    if node.op in PASS_ON and attr(node, "T").type == RESOURCE:
        copy = changed(node)
        copy.attr["T"].type = dtype
        return [copy]
    if node.op == "IdentityN":
        copy = changed(node)
        for index, handle in enumerate(handles):
            if handle is not None:
                copy.attr["T"].list.type[index] = attr(handle, "dtype").type
        return [copy]
    what = f"{node.op} uses the storage of variable '{first.name}', not only its value"
    raise UserError("source", node.name, what, "choose a cut below this node")
