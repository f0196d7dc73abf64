"""How far from the cut each variable is, in layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetune.graph import Graph, changed
from finetune.inspecting.layers import Box, Shape, diagram
from finetune.surgery.freeze import Fate, carrying


def distances(
    below: Graph, at: str, inputs: Sequence[str], fates: Sequence[Fate], shapes: Mapping[str, Shape]
) -> dict[str, int]:
    """The number of layers from each variable to the cut, its own counted: 1 is the last layer of the source.

    A layer is a box of the picture that holds a kernel (more than one dimension) which the source trains. Whether it
    learns in this run plays no part, so that freezing one layer changes no other's rate. Bias and batch norm stand at
    the distance of their kernel, a batch norm in front of it too. A loop is one layer however often it turns, unrolled
    or not, and towers that share their weights have each layer once.

    The longest way counts. A shortcut would put all blocks of a residual net next to the cut; along the longest way
    every layer is farther than those that it feeds, as users of timm's `layer_decay` know it: the head has distance 0,
    the last layer 1. There a layer is a block of several kernels, so a decay that is usual there is strong here:
    over 50 kernels 0.75 leaves nothing (6e-7), 0.95 leaves 0.08.

    Args:
      below: what the cut needs.
      inputs: the tensors that take the data.
      fates: of every variable below the cut; shapes: of these variables.
    """
    # Predicates of branches are no way for a gradient, and no part of a layer.
    nodes = {name: changed(node, input=carrying(node)) for name, node in below.nodes.items()}
    drawn = diagram(below.with_nodes(nodes), at, inputs, fates, shapes, ())
    beyond = [0] * len(drawn.boxes)  # layers on the longest way from behind a box to the cut
    for source, reader in sorted(drawn.edges, key=lambda edge: -edge[1]):  # a box stands after those that it reads
        beyond[source] = max(beyond[source], beyond[reader] + _is_layer(drawn.boxes[reader]))
    return {f.variable.name: beyond[place] + 1 for place, box in enumerate(drawn.boxes) for f in box.fates}


def _is_layer(box: Box) -> bool:
    sizes = zip(box.fates, box.sizes, strict=True)
    return any(fate.variable.trainable and sum(n != 1 for n in size) > 1 for fate, size in sizes)
