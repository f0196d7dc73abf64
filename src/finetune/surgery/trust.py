"""What of a source may reach TensorFlow: ops from a list, constants that are what they say, functions that end.

A `.meta` is a program, and TensorFlow runs parts of it while it imports it: shape inference evaluates constant
subgraphs with real kernels, `ReadFile` among them. So this looks at nodes as the file has them, before TensorFlow does.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from finetune.errors import UserError
from finetune.graph import Graph
from finetune.surgery.allowed_ops import ALLOWED, REFUSED
from finetune.surgery.bodies import called, check_recursion
from finetune.surgery.costs import too_large
from finetune.surgery.functions import DEEPEST

MOST_VALUES = 2**31  # of one constant; TensorFlow counts with 32 bits in places
MOST_REPEATED = 2**28  # of all constants together, values that stand in the file once and in memory many times
MOST_TEXT = 2**24  # bytes of one constant

_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")  # as TensorFlow has it
_NAMED = frozenset(op for ops in REFUSED.values() for op in ops)
# DataType of types.proto -> bytes of one value.
_SIZES = {1: 4, 2: 8, 3: 4, 4: 1, 5: 2, 6: 1, 8: 8, 9: 8, 10: 1, 11: 1, 12: 1, 13: 4}
_SIZES |= {14: 2, 15: 2, 16: 2, 17: 2, 18: 16, 19: 2, 22: 4, 23: 8}
_COMPLEX = (8, 18)
_VALUES = ("half", "float", "double", "int", "string", "scomplex", "int64", "bool", "dcomplex", "uint32", "uint64")


def check_graph(graph: Graph, trusted: bool | Sequence[str] = False) -> None:
    """Refuses what must not reach TensorFlow.

    Args:
      graph: what would be imported, and nothing else: what the cut does not need does no harm.
      trusted: ops that the user opens; True opens every op. Constants and recursion are checked regardless.

    Raises:
      UserError: naming the node, with the way to it where it stands in a function, and what its op does.
    """
    _check_names(graph)
    check_recursion(graph)
    check_ops(graph, trusted)
    check_constants(graph)
    _check_costs(graph)


def check_ops(graph: Graph, trusted: bool | Sequence[str] = False) -> None:
    """Refuses ops that are not allowed, in the bodies of functions as well.

    Raises:
      UserError: with the first few of them.
    """
    if found := refused_ops(graph, trusted):
        (op, way), *others = found.items()
        todo = f"cut or name an input below this node, or open it with source.trust=[{','.join(found)}]"
        more = [f"  {w}: {_told(o)}" for o, w in others[:3]]
        more += [f"  and {', '.join(o for o, _ in others[3:])}"] if len(others) > 3 else []
        raise UserError("source", way, _told(op), todo if len(found) < 5 else "choose another cut or input", *more)


def refused_ops(graph: Graph, trusted: bool | Sequence[str] = False) -> dict[str, str]:
    """The ops that are not allowed, in the bodies of functions as well, each with the way to its first node.

    Raises:
      UserError: a function is called that the file has not.
    """
    functions = {f.signature.name for f in graph.functions}
    opened = frozenset(() if isinstance(trusted, bool) else trusted)
    found: dict[str, str] = {}
    for way, node in _nodes(graph):
        for name in _functions_named(node):
            if name not in functions:
                # TensorFlow would take some names for something of its own.
                raise UserError("source", way, f"calls the function '{name}', which the file has not")
        if trusted is not True and node.op not in opened and not _is_allowed(node.op, functions):
            found.setdefault(node.op, way)
    return found


def refused(graph: Graph) -> set[str]:
    """The nodes that may not reach TensorFlow, for their own op, a function that they call, or what they unfold to."""
    bodies = _bodies(graph)
    bad: set[str] = set()

    def is_bad(node: Any) -> bool:
        calls = {node.op, *_functions_named(node)}
        return not _is_allowed(node.op, bodies) or bool(calls & bad or calls - {node.op} - bodies.keys())

    while more := {name for name, body in bodies.items() if name not in bad and any(map(is_bad, body))}:
        bad |= more
    large = {name for name, _ in too_large(graph.nodes.values())}
    return large | {name for name, node in graph.nodes.items() if is_bad(node)}


def _is_allowed(op: str, functions: Container[str]) -> bool:
    return op in ALLOWED or (op in functions and op not in _NAMED)


def reason(op: str) -> str | None:
    """What an op does for which it is refused; None if it is allowed, or unknown."""
    if op in ALLOWED:
        return None
    return next((why for why, ops in REFUSED.items() if any(fnmatchcase(op, p) for p in ops)), None)


def _told(op: str) -> str:
    why = reason(op)
    if why:
        return f"{op} {why}"
    return f"{op} is not an op that finetune knows: it needs tf.contrib or a library of its author's"


def _nodes(graph: Graph) -> Iterator[tuple[str, Any]]:
    """Every node, in functions too, and the way to it: `node`, or `node → f → g → node of g`."""
    bodies = _bodies(graph)
    queue: deque[tuple[tuple[str, ...], Iterable[Any]]] = deque([((), graph.nodes.values())])
    seen: set[str] = set()
    while queue:
        path, nodes = queue.popleft()
        if len(path) > DEEPEST:
            raise UserError("source", path[0], f"functions are nested more than {DEEPEST} deep")
        for node in nodes:
            yield " → ".join((*path, node.name)), node
            for name in called(node, bodies):
                if name not in seen:
                    seen.add(name)
                    queue.append(((*(path or (node.name,)), name), bodies[name]))


def _bodies(graph: Graph) -> dict[str, list[Any]]:
    bodies: dict[str, list[Any]] = {}
    for function in graph.functions:  # should two have one name, both are looked at
        bodies.setdefault(function.signature.name, []).extend(function.node_def)
    return bodies


def _functions_named(node: Any) -> list[str]:
    return [f.name for value in node.attr.values() for f in (value.func, *value.list.func) if f.name]


def _check_names(graph: Graph) -> None:
    for name in graph.nodes:
        if not _NAME.fullmatch(name):
            raise UserError("source", name, "this is no name of a node", "this file is damaged or made up")


def check_constants(graph: Graph) -> None:
    """Refuses constants whose values are not those of their shape, or unfold to more than memory should hold.

    Raises:
      UserError: naming the node.
    """
    repeated = 0
    for way, node in _nodes(graph):
        for key, value in node.attr.items():
            for tensor in [*([value.tensor] if value.HasField("tensor") else []), *value.list.tensor]:
                problem, unfolded = _weighed(tensor)
                repeated += unfolded
                if not problem and repeated > MOST_REPEATED:
                    problem = f"with it, constants unfold to {repeated:,} values that the file does not hold"
                if problem:
                    raise UserError("source", way, f"attribute '{key}': {problem}", "this file is damaged or made up")


def _check_costs(graph: Graph) -> None:
    bodies = {f"{function.signature.name} → ": function.node_def for function in graph.functions}
    for way, nodes in {"": graph.nodes.values(), **bodies}.items():
        for name, what in too_large(nodes):
            raise UserError("source", f"{way}{name}", what, "cut or name an input below this node")


def _weighed(tensor: Any) -> tuple[str, int]:
    """What is wrong with a constant, and how many values it has beyond those that are in the file."""
    sizes = [d.size for d in tensor.tensor_shape.dim]
    shape = "×".join(map(str, sizes[:8])) or "scalar"
    if tensor.tensor_shape.unknown_rank or min(sizes, default=0) < 0:
        return f"a constant without a definite shape ({shape})", 0
    if len(sizes) > 254 or (count := math.prod(sizes)) >= MOST_VALUES:
        return f"a constant of the shape {shape}", 0
    if tensor.resource_handle_val or tensor.variant_val or tensor.dtype in (20, 21):
        return "a constant that holds a handle or an object", 0
    if (text := sum(map(len, tensor.string_val))) > MOST_TEXT:
        return f"{text:,} bytes of text in one constant", 0
    if tensor.tensor_content:
        wanted = count * _SIZES.get(tensor.dtype, 0)
        if wanted != len(tensor.tensor_content) and tensor.dtype in _SIZES:
            return f"{len(tensor.tensor_content)} bytes for the shape {shape}, which takes {wanted}", 0
        return "", 0
    held = sum(len(getattr(tensor, f"{kind}_val")) for kind in _VALUES)
    held = held // 2 if tensor.dtype in _COMPLEX else held
    if held > count:
        return f"{held} values for the shape {shape}", 0
    return "", count - held
