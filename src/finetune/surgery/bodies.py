"""Functions of a graph's library: who calls whom, and the inside of one as nodes that a graph could have.

A `FunctionDef` writes its inputs in another way than a graph, `node:output_arg:index` in the place of `node:port`.
A `Body` is a function whose nodes read each other as in a graph, so that what is done to graphs can be done to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune.errors import UserError
from finetune.graph import Graph, attr, changed, make_node
from finetune.names import input_ref, is_control, node_of, port_of
from finetune.protos import AttrValue, FunctionDef
from finetune.surgery.allowed_ops import ALLOWED
from finetune.surgery.output_args import OUTPUT_ARGS

# Ops that run one of several functions, or one several times -> the attributes that name the functions.
CONTROL_FLOW = {
    "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"),
    "Case": ("branches",),
    "StatelessCase": ("branches",),
    "While": ("cond", "body"),
    "StatelessWhile": ("cond", "body"),
}
LOOPS = ("While", "StatelessWhile")
ARGUMENT = "_Arg"  # TensorFlow's own op for the argument of a function, which stands in no file

# The output argument of the ops that the surgery writes into bodies.
_WRITTEN = {
    **dict.fromkeys(("Const", "Identity", "IdentityN", "Shape", "GatherV2", "GatherNd"), "output"),
    **dict.fromkeys(("StatelessRandomUniform", "StatelessRandomUniformInt", "StatelessRandomNormal"), "output"),
    **dict.fromkeys(("StatelessTruncatedNormal", "StatelessMultinomial"), "output"),
    **dict.fromkeys(("AddV2", "Sub", "BitwiseXor"), "z"),
}


@dataclass(frozen=True)
class Body:
    """The inside of a function.

    `nodes` begin with the arguments, nodes of op `_Arg`. `returns` maps the name of each result to an input as a graph
    writes it, `kinds` to its dtype as an `AttrValue`. `waited` are nodes that run though nothing may read them.
    `spelled` has inputs as the `FunctionDef` writes them.
    """

    nodes: Mapping[str, Any]
    returns: Mapping[str, str]
    kinds: Mapping[str, Any]
    waited: Mapping[str, str]
    spelled: Mapping[str, str]

    @property
    def arguments(self) -> list[str]:
        """The names of the arguments, in their order."""
        return [name for name, node in self.nodes.items() if node.op == ARGUMENT]


def called(node: Any, functions: Any) -> list[str]:
    """The functions that a node calls, by op or by attribute."""
    names = [node.op] if node.op in functions else []
    for value in node.attr.values():
        names += [f.name for f in (value.func, *value.list.func) if f.name in functions]
    return names


def branches(node: Any) -> list[Any]:
    """The functions that a node of functional control flow chooses from or repeats, as `NameAttrList`s."""
    values = [attr(node, key) for key in CONTROL_FLOW[node.op]]
    return [f for value in values for f in (value.list.func if value.list.func else (value.func,))]


def callees_first(functions: Mapping[str, Any]) -> tuple[list[str], dict[str, set[str]]]:
    """The functions in an order in which each follows those that it calls; the others, and what of them they call.

    A function that calls itself, through others or not, has no place in that order.
    """
    calls = {name: {c for node in f.node_def for c in called(node, functions)} for name, f in functions.items()}
    callers: dict[str, list[str]] = {}
    for name, callees in calls.items():
        for callee in callees:
            callers.setdefault(callee, []).append(name)
    ending = [name for name, callees in calls.items() if not callees]
    for name in ending:
        for caller in callers.get(name, ()):
            calls[caller].discard(name)
            if not calls[caller]:
                ending.append(caller)
    return ending, {name: callees for name, callees in calls.items() if callees}


def check_recursion(graph: Graph) -> None:
    """TensorFlow follows calls with its own stack, and a function that calls itself ends the process.

    Raises:
      UserError: with the circle.
    """
    _, endless = callees_first({f.signature.name: f for f in graph.functions})
    if not endless:
        return
    way = [next(iter(endless))]
    while (following := min(endless[way[-1]])) not in way:
        way.append(following)
    circle = [*way[way.index(following) :], following]
    shown = " → ".join(circle[:6]) + (" → …" if len(circle) > 6 else "")
    raise UserError("source", circle[0], f"the function calls itself: {shown}", "choose a cut below what calls it")


# ---- in and out


def opened(function: Any, graph: Graph) -> Body | None:
    """The inside of a function; None where nothing says which output an input means."""
    signature = function.signature
    if any(a.number_attr or a.type_list_attr for a in (*signature.input_arg, *signature.output_arg)):
        return None
    spelled = _Spelling(function, graph)
    nodes = {a.name: _argument(a, function.arg_attr.get(i)) for i, a in enumerate(signature.input_arg)}
    for node in function.node_def:
        inputs = [spelled.flat(ref) for ref in node.input]
        if node.name in nodes or None in inputs:
            return None
        nodes[node.name] = changed(node, input=inputs)
    returns = {a.name: spelled.flat(function.ret.get(a.name, "")) for a in signature.output_arg}
    if None in returns.values():
        return None
    kinds = {a.name: _kind(a) for a in signature.output_arg}
    return Body(nodes, {k: v for k, v in returns.items() if v}, kinds, dict(function.control_ret), spelled.back)


def _kind(argument: Any) -> Any:
    return AttrValue(placeholder=argument.type_attr) if argument.type_attr else AttrValue(type=argument.type)


def _argument(argument: Any, attrs: Any) -> Any:
    node = make_node(argument.name, ARGUMENT)
    for key, value in (attrs.attr if attrs is not None else {}).items():
        node.attr[key].CopyFrom(value)
    node.attr["T"].CopyFrom(_kind(argument))
    return node


class _Spelling:
    """The inputs of one function's nodes, in the two ways of writing them."""

    def __init__(self, function: Any, graph: Graph):
        self._arguments = {a.name for a in function.signature.input_arg}
        self._nodes = {n.name: n for n in function.node_def}
        self._functions = {f.signature.name: f for f in graph.functions}
        self._ops = {op.name: op for op in graph.stripped_ops.op} if graph.stripped_ops is not None else {}
        self.back: dict[str, str] = {}

    def flat(self, ref: str) -> str | None:
        """An input as a graph writes it; None if that is not known."""
        if is_control(ref):
            return ref
        name, *rest = ref.split(":")
        if name in self._arguments:
            return name if rest in ([], ["0"]) else None
        if name not in self._nodes or len(rest) != 2 or not rest[1].isdigit():
            return None
        first = self._first_port(self._nodes[name], rest[0])
        if first is None:
            return None
        flat = input_ref(f"{name}:{first + int(rest[1])}")
        self.back[flat] = ref
        return flat

    def _first_port(self, node: Any, argument: str) -> int | None:
        """The port at which an output argument of a node begins."""
        port = 0
        for name, listed in self._output_args(node.op) or ():
            if name == argument:
                return port
            value = attr(node, listed) if listed else None
            if value is not None and value.WhichOneof("value") == "placeholder":
                return None
            port += 1 if value is None else len(value.list.type) or max(0, value.i)
        # An op that is known by name alone has one output argument, called whatever the writer calls it.
        return 0 if self._output_args(node.op) is None and node.op in ALLOWED else None

    def _output_args(self, op: str) -> list[tuple[str, str]] | None:
        if op in self._functions:
            return [(a.name, a.number_attr or a.type_list_attr) for a in self._functions[op].signature.output_arg]
        if op in self._ops:
            return [(a.name, a.number_attr or a.type_list_attr) for a in self._ops[op].output_arg]
        if op in OUTPUT_ARGS:
            return [(name, listed) for name, _, listed in (a.partition("*") for a in OUTPUT_ARGS[op])]
        return None


def closed(body: Body, name: str, function: Any) -> Any:
    """A `FunctionDef` of a body under a name; what else is known of it comes from `function`, which it was."""
    new = FunctionDef(attr=function.attr, control_ret=body.waited)
    new.signature.name = name
    new.signature.is_stateful = function.signature.is_stateful
    new.signature.control_output.extend(function.signature.control_output)
    for index, argument in enumerate(body.arguments):
        node = body.nodes[argument]
        new.signature.input_arg.add(name=argument, type=attr(node, "T").type)
        for key, value in node.attr.items():
            if key != "T":
                new.arg_attr[index].attr[key].CopyFrom(value)
    for node in body.nodes.values():
        if node.op != ARGUMENT:
            new.node_def.append(changed(node, input=[_spelt(body, ref) for ref in node.input]))
    for result, ref in body.returns.items():
        new.signature.output_arg.add(name=result, type=body.kinds[result].type)
        new.ret[result] = _spelt(body, ref)
    return new


def _spelt(body: Body, ref: str) -> str:
    node = body.nodes[node_of(ref)]
    if is_control(ref) or node.op == ARGUMENT:
        return ref
    if node.op in _WRITTEN:
        return f"{node.name}:{_WRITTEN[node.op]}:{port_of(ref)}"
    return body.spelled[input_ref(f"{node_of(ref)}:{port_of(ref)}")]


def with_attrs(node: Any, attrs: Mapping[str, Any]) -> Any:
    """A node of a function as it is where the function's own attributes have these values."""
    copy = changed(node)
    for value in copy.attr.values():
        _fill(value, attrs)
    return copy


def filled(value: Any, attrs: Mapping[str, Any]) -> Any:
    """An attribute in which names of the function's own attributes are replaced by their values."""
    copy = AttrValue()
    copy.CopyFrom(value)
    _fill(copy, attrs)
    return copy


def _fill(value: Any, attrs: Mapping[str, Any]) -> None:
    kind = value.WhichOneof("value")
    if kind not in ("placeholder", "func", "list"):
        return
    if kind == "placeholder" and value.placeholder in attrs:
        value.CopyFrom(attrs[value.placeholder])
    for function in (value.func, *value.list.func):
        for inner in function.attr.values():
            _fill(inner, attrs)


def with_nodes(function: Any, nodes: Iterable[Any]) -> Any:
    """A `FunctionDef` with other nodes."""
    copy = FunctionDef()
    copy.CopyFrom(function)
    del copy.node_def[:]
    copy.node_def.extend(nodes)
    return copy


def renamed(definition: Any, ending: str) -> Any:
    """A `GraphDef` whose functions have another ending: TensorFlow keeps them by name, those of all graphs together."""
    copy = type(definition)()
    copy.CopyFrom(definition)
    new_of = {f.signature.name: f"{f.signature.name}{ending}" for f in definition.library.function}

    def rename(function: Any) -> None:
        function.name = new_of.get(function.name, function.name)
        for value in function.attr.values():
            each(value)

    def each(value: Any) -> None:
        for function in (value.func, *value.list.func):
            if function.name:
                rename(function)

    for function in copy.library.function:
        function.signature.name = new_of[function.signature.name]
    for gradient in copy.library.gradient:
        gradient.function_name = new_of.get(gradient.function_name, gradient.function_name)
        gradient.gradient_func = new_of.get(gradient.gradient_func, gradient.gradient_func)
    for node in (*copy.node, *(n for f in copy.library.function for n in f.node_def)):
        node.op = new_of.get(node.op, node.op)
        for value in node.attr.values():
            each(value)
    return copy
