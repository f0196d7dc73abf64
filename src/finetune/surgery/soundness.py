"""Whether what a cut needs is a graph at all: every node once, every input an output of something, no circle."""

from __future__ import annotations

from collections import Counter
from typing import Any

from finetune.errors import UserError, shortlist
from finetune.graph import Graph, circle_in, data_inputs, output_types
from finetune.names import node_of, port_of

_TURNS = ("NextIteration", "RefNextIteration")  # through which a V1 loop reads itself
_DAMAGED = "this file is damaged or made up"


def check_sound(meta: Any, kept: Graph) -> None:
    """Refuses a graph that TensorFlow could not build; what is wrong outside `kept` does no harm.

    Raises:
      UserError: naming the nodes.
    """
    counts = Counter(node.name for node in meta.graph_def.node)
    twice = [name for name in kept.nodes if counts[name] > 1]
    if twice:
        raise UserError("source", twice[0], f"the file has more than one node {shortlist(twice)}", _DAMAGED)
    for node in kept.nodes.values():
        for ref in data_inputs(node):
            outputs = output_types(kept, kept.nodes[node_of(ref)])
            if outputs is not None and port_of(ref) >= len(outputs):
                read = kept.nodes[node_of(ref)]
                what = f"reads '{ref}', but '{read.name}' ({read.op}) has {len(outputs)} outputs"
                raise UserError("source", node.name, what, _DAMAGED)
    turning = {name for name, node in kept.nodes.items() if node.op in _TURNS}
    reads = {name: {node_of(r) for r in node.input} - turning for name, node in kept.nodes.items()}
    if circle := circle_in(reads):
        shown = " → ".join(circle[:6]) + (" → …" if len(circle) > 6 else "")
        raise UserError("source", circle[0], f"the graph runs in a circle outside any loop: {shown}", _DAMAGED)
