"""Mode feeds: placeholders that tell a graph whether it is being trained."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from finetune.graph import FLOATS, Graph, attr, consumers, shape_of
from finetune.names import node_of
from finetune.protos import DataType

_TRAINING = re.compile(
    r"(is_?train(ing)?|phase_?train|train(ing)?(_?(phase|mode|flag))?|learning_phase|bn_?train)\d*$", re.I
)
_KEEP = re.compile(r"keep", re.I)
_DROPOUT = re.compile(r"keep_?(prob|rate|p\b)|drop_?(out)?(_?(rate|prob|p))?\d*$", re.I)


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
    if dtype == DataType.Value("DT_BOOL"):
        return Mode(train=True, eval=False) if _TRAINING.search(name) or _is_predicate(graph, node) else None
    if dtype not in FLOATS:
        return None
    kept = _share_kept(graph, node)
    if kept is None and _DROPOUT.search(name):
        kept = _KEEP.search(name) is not None
    if kept is None:
        return None
    return Mode(train=0.5, eval=1.0 if kept else 0.0)


def left_in_training(graph: Graph) -> dict[str, Mode]:
    """Placeholders whose own default would run the graph in training mode, by tensor."""
    found = {}
    for node in graph.nodes.values():
        if node.op == "PlaceholderWithDefault" and (mode := recognise(graph, node)) is not None:
            found[f"{node.name}:0"] = mode
    return found


def _is_predicate(graph: Graph, node: Any) -> bool:
    """Whether a nameless boolean does nothing but choose branches."""
    readers = [n for n in graph.nodes.values() if any(node_of(r) == node.name for r in n.input)]
    return bool(readers) and all(n.op in ("Switch", "RefSwitch", "Identity", "LogicalNot", "Enter") for n in readers)


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
            elif reader.op in ("Identity", "Enter", "Switch", "Cast"):
                stack.append((reader.name, kept))
    return None
