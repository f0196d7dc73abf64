"""Mode feeds: placeholders that tell a graph whether it is being trained."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from finetune.graph import BOOL, FLOATS, Graph, attr, consumers, data_inputs, read_constant, shape_of
from finetune.names import node_of

_TRAINING = re.compile(
    r"(is_?train(ing)?|phase_?train|train(ing)?(_?(phase|mode|flag))?|learning_phase|bn_?train)_?\d*$", re.I
)
_KEEP = re.compile(r"keep", re.I)
_DROPOUT = re.compile(r"keep_?(prob|rate|p\b)|drop_?(out)?(_?(rate|prob|p))?_?\d*$", re.I)
_PASSES = ("Identity", "Enter", "Switch", "Cast")
_CHOOSE = ("Switch", "RefSwitch", "Identity", "LogicalNot", "Enter", "If", "StatelessIf")
_MEETS = ("Add", "AddV2", "GreaterEqual", "Greater", "LessEqual", "Less")


@dataclass(frozen=True)
class Mode:
    """The values of a mode feed in training and in evaluation."""

    train: Any
    eval: Any


def recognise(graph: Graph, node: Any) -> Mode | None:
    """What a placeholder is for, judged by dtype, rank, name and use; None if it is no mode feed."""
    shape = shape_of(attr(node, "shape").shape) if "shape" in node.attr else None
    if shape not in (None, ()):
        return None
    name = node.name.rpartition("/")[2]
    dtype = attr(node, "dtype").type
    if dtype == BOOL:
        return Mode(train=True, eval=False) if _TRAINING.search(name) or _is_predicate(graph, node) else None
    if dtype not in FLOATS:
        return None
    named = _DROPOUT.search(name) is not None
    kept = _share_kept(graph, node) if named or _meets_noise(graph, node) else None
    if kept is None and named:
        kept = _KEEP.search(name) is not None
    if kept is None:
        return None
    return Mode(train=0.5, eval=1.0 if kept else 0.0)


def left_in_training(graph: Graph) -> dict[str, Mode]:
    """Placeholders whose own default would run the graph in training mode, by tensor."""
    found = {}
    for node in graph.nodes.values():
        if node.op == "PlaceholderWithDefault" and (mode := recognise(graph, node)) is not None:
            default = _default(graph, node, mode.train)
            if default != mode.eval:
                found[f"{node.name}:0"] = Mode(train=default, eval=mode.eval)
    return found


def _default(graph: Graph, node: Any, unknown: Any) -> Any:
    """What a placeholder is where nothing feeds it; `unknown` if that is computed."""
    source = graph.nodes.get(node_of(node.input[0])) if node.input else None
    value = read_constant(source) if source is not None else None
    if value is None or value.size != 1:
        return unknown
    only = value.reshape(())[()]
    # A float32 of 0.8 is to be read as that, not as 0.800000011920929.
    return bool(only) if value.dtype == bool else float(str(only))


def _is_predicate(graph: Graph, node: Any) -> bool:
    """Whether a nameless boolean does nothing but choose branches."""
    readers = [n for n in graph.nodes.values() if any(node_of(r) == node.name for r in n.input)]
    return bool(readers) and all(n.op in _CHOOSE for n in readers)


def _share_kept(graph: Graph, node: Any) -> bool | None:
    """Whether a scalar is the share that dropout keeps (True) or drops (False); None if it is in no dropout.

    The name does not say: `dropout_prob` is either. What dropout divides by is the share kept, and each
    subtraction from one on the way there turns one into the other.
    """
    readers = consumers(graph.nodes)
    stack, seen = [(node.name, True)], set()
    while stack:
        name, kept = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        for reader in (graph.nodes[r] for r in readers.get(name, ())):
            inputs = [node_of(r) for r in reader.input]
            if reader.op in ("Div", "RealDiv") and inputs[1] == name:
                return kept
            if reader.op in ("Reciprocal", "Inv"):
                return kept
            if reader.op == "Sub" and inputs[1] == name:
                stack.append((reader.name, not kept))
            elif reader.op in _PASSES:
                stack.append((reader.name, kept))
    return None


def _meets_noise(graph: Graph, node: Any) -> bool:
    """Whether a scalar is added to random numbers or compared with them, as the share of dropout is."""
    readers = consumers(graph.nodes)
    stack, seen = [node.name], set()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        for reader in (graph.nodes[r] for r in readers.get(name, ())):
            if reader.op in _MEETS and any(_is_random(graph, r) for r in reader.input if node_of(r) != name):
                return True
            if reader.op in (*_PASSES, "Sub"):
                stack.append(reader.name)
    return False


def _is_random(graph: Graph, ref: str, depth: int = 4) -> bool:
    """Whether a value is drawn, or drawn and then scaled and shifted."""
    node = graph.nodes.get(node_of(ref))
    if node is None:
        return False
    if node.op.startswith("Random"):
        return True
    return (
        depth > 0
        and node.op in ("Mul", "Add", "AddV2", "Cast", "Identity")
        and any(_is_random(graph, r, depth - 1) for r in data_inputs(node))
    )
