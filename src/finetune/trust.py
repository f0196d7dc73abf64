"""What of a source may reach TensorFlow: ops from a list, constants that are what they say, functions that end.

A `.meta` is a program, and TensorFlow runs parts of it while it imports it: shape inference evaluates constant
subgraphs with real kernels, `ReadFile` among them. So this looks at nodes as the file has them, before TensorFlow does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from finetune.allowed_ops import ALLOWED, REFUSED
from finetune.cut import called
from finetune.errors import UserError
from finetune.graph import Graph

MOST_VALUES = 2**31  # of one constant; TensorFlow counts with 32 bits in places
MOST_REPEATED = 2**28  # of all constants together, values that stand in the file once and in memory many times
MOST_TEXT = 2**24  # bytes of one constant
DEEPEST = 50  # functions that call each other

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
    check_recursion(graph)
    check_ops(graph, trusted)
    check_constants(graph)


def check_ops(graph: Graph, trusted: bool | Sequence[str] = False) -> None:
    """Refuses ops that are not allowed, in the bodies of functions as well.

    Raises:
      UserError: with the first few of them.
    """
    if found := refused_ops(graph, trusted):
        (op, way), *others = found.items()
        todo = f"cut or name an input below this node, or open it with source.trust=[{','.join(found)}]"
        more = [f"  {w}: {_told(o)}" for o, w in others[:3]]
        more += [f"  and {len(others) - 3} more ops that are not allowed"] if len(others) > 3 else []
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
        is_function = node.op in functions and node.op not in _NAMED
        if trusted is not True and not is_function and node.op not in ALLOWED and node.op not in opened:
            found.setdefault(node.op, way)
    return found


def reason(op: str) -> str | None:
    """What an op does for which it is refused; None if it is allowed, or unknown."""
    if op in ALLOWED:
        return None
    return next((why for why, ops in REFUSED.items() if any(fnmatchcase(op, p) for p in ops)), None)


def _told(op: str) -> str:
    why = reason(op)
    return f"{op} {why}" if why else f"{op} is not an op that finetune knows; a cut below this node avoids it"


def _nodes(graph: Graph) -> Iterator[tuple[str, Any]]:
    """Every node, in functions too, and the way to it: `node`, or `node → f → g → node of g`."""
    bodies: dict[str, list[Any]] = {}
    for function in graph.functions:  # should two have one name, both are looked at
        bodies.setdefault(function.signature.name, []).extend(function.node_def)
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


def _functions_named(node: Any) -> list[str]:
    return [f.name for value in node.attr.values() for f in (value.func, *value.list.func) if f.name]


def check_recursion(graph: Graph) -> None:
    """Refuses functions that call themselves: TensorFlow follows calls with its own stack, and the process ends."""
    functions = {f.signature.name: f for f in graph.functions}
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
    endless = [name for name, callees in calls.items() if callees]
    if not endless:
        return
    way = [endless[0]]
    while (following := min(calls[way[-1]])) not in way:
        way.append(following)
    circle = [*way[way.index(following) :], following]
    shown = " → ".join(circle[:6]) + (" → …" if len(circle) > 6 else "")
    raise UserError("source", circle[0], f"the function calls itself: {shown}", "choose a cut below what calls it")


def check_constants(graph: Graph) -> None:
    """Refuses constants that are not what they say."""
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
