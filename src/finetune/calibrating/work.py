"""How much a job computes: batches forward and steps, and how many operations an example takes at least."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finetune.augmenting.augment_keys import settle
from finetune.graph import Graph, attr, data_inputs, read_constant
from finetune.names import node_of
from finetune.plan import Plan
from finetune.recipe import Recipe

Shape = tuple["int | None", ...]

# What no machine of today surpasses: operations of a core and of a GPU, and nodes of a graph, each in a second.
_CORE, _GPU, _NODES = 1e11, 1e15, 1e6
BACKWARD = 3  # a step takes the forward pass, and as much again for the gradients of inputs and of weights

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative", "Conv3D")
_POOLS = ("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D")
_PRODUCTS = (*_CONVOLUTIONS, "Conv2DBackpropInput", "MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")


@dataclass(frozen=True)
class Work:
    """How many batches a job computes in the forward pass alone, and how many in steps that change the source."""

    forwards: float
    steps: float

    def seconds(self, forward: float, step: float) -> float:
        """What it takes where a batch takes so many seconds."""
        return self.forwards * forward + self.steps * step


def work_of(
    phases: Sequence[tuple[int, bool]],
    batch_size: int,
    training: int,
    held_out: int,
    evaluations: int,
    is_kept: bool,
) -> Work:
    """The work of a job.

    The step of a head alone is next to nothing beside the backbone's forward pass. Where features are kept, that is run
    once for each example; else for each step, and for each evaluation.

    >>> work_of([(100, False)], 10, 80, 20, evaluations=5, is_kept=True)
    Work(forwards=10.0, steps=0)
    >>> work_of([(100, False), (50, True)], 10, 80, 20, evaluations=5, is_kept=False)
    Work(forwards=110.0, steps=50)

    Args:
      phases: of each, its steps and whether anything of the source learns in it.
      training: the number of examples to train on, `held_out` that of the others.
    """
    steps = sum(count for count, moves in phases if moves)
    still = sum(count for count, moves in phases if not moves)
    once = (training + held_out) / batch_size
    return Work(once if is_kept else still + evaluations * held_out / batch_size, steps)


def job(recipe: Recipe, plan: Plan) -> Work:
    """What a run of this recipe has to compute."""
    ends = [plan.steps if phase.last is None else min(plan.steps, phase.last) for phase in plan.phases]
    counts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    moves = [bool(phase.variants.moving() or phase.variants.adapters) for phase in plan.phases]
    size = recipe.train.batch_size
    evaluations = 1 + plan.steps // (recipe.eval.every_steps or plan.steps_per_epoch(size))
    views = recipe.cache.views or 1
    varied = settle(recipe.data.augment, recipe.data.kind) is not None and recipe.cache.views is None
    can_be_kept = recipe.cache.mode != "off" and not (varied or recipe.train.mixup or recipe.train.cutmix)
    # As finetune.running.frozen_part decides it, as far as that can be told here.
    is_kept = can_be_kept and plan.steps * size > len(plan.training) * views
    given = list(zip(counts, moves, strict=True)), size, len(plan.training) * views, len(plan.held_out)
    return work_of(*given, evaluations, is_kept)


def least_seconds(work: Work, operations: float, nodes: int, batch_size: int, cores: int, gpus: int) -> float:
    """What a job takes on any machine of so many cores or GPUs.

    Args:
      operations: those of an example, forward.
      nodes: those of the graph.
    """
    rate = gpus * _GPU or cores * _CORE
    batch = max(operations * batch_size / rate, nodes / _NODES)
    return work.seconds(batch, BACKWARD * batch)


def operations_of(plan: Plan) -> int:
    """Those of the forward pass of one example, at least, with all that is below the cut."""
    kinds = plan.source.input_kinds()
    inputs = {tensor: kinds[name][1] for name, tensor in plan.source.inputs.items()}
    return least_operations(plan.phases[0].variants.evaluation.graph, inputs, plan.source.shapes)


def least_operations(graph: Graph, inputs: Mapping[str, Shape | None], variables: Mapping[str, Shape]) -> int:
    """The multiplications and additions of the forward pass of one example, as far as they can be told; of loops, once.

    Each weight of a product is used once, and of a convolution once for each place of the map.

    Args:
      graph: a backbone, in which variables are placeholders.
      inputs: tensor -> shape, with the batch.
      variables: name -> shape.
    """
    shapes: dict[str, Shape | None] = {node_of(tensor): shape for tensor, shape in inputs.items()}
    count, behind = 0, dict[str, Shape | None](variables)
    for name in _in_order(graph):
        node, refs = graph.nodes[name], [node_of(ref) for ref in data_inputs(graph.nodes[name])]
        # Of a variable behind a chain of ops that read nothing else.
        weights = [found for ref in refs if (found := behind.get(ref)) is not None]
        if name not in behind and len(refs) == 1 and node.op != "NextIteration":
            behind[name] = behind.get(refs[0])
        if name not in shapes:
            shapes[name] = _shape(graph, node, refs, shapes, weights)
        if node.op in _PRODUCTS and weights:
            at = shapes[refs[-1]] if node.op == "Conv2DBackpropInput" else shapes[name]
            places = math.prod(n or 1 for n in _spatial(node, at)) if node.op.startswith(("Conv", "Depth")) else 1
            count += 2 * math.prod(n or 1 for n in weights[0]) * places
    return count


def _in_order(graph: Graph) -> Iterator[str]:
    """Every node after those that it reads; a loop is cut open where it begins anew."""
    done: set[str] = set()
    for start in graph.nodes:
        stack = [(start, False)]
        while stack:
            name, is_read = stack.pop()
            if is_read:
                yield name
            elif name not in done and name in graph.nodes:
                done.add(name)
                node = graph.nodes[name]
                stack.append((name, True))
                stack += [] if node.op == "NextIteration" else [(node_of(ref), False) for ref in data_inputs(node)]


def _channels_first(node: object) -> bool:
    return attr(node, "data_format").s.startswith(b"NC")


def _spatial(node: object, shape: Shape | None) -> Shape:
    if shape is None:
        return ()
    return shape[2:] if _channels_first(node) else shape[1:-1]


def _shape(
    graph: Graph, node: object, refs: Sequence[str], shapes: Mapping[str, Shape | None], weights: Sequence[Shape]
) -> Shape | None:
    """The shape of what a node gives, where that is of use further on; channels are not followed."""
    known = [shape for ref in refs if (shape := shapes.get(ref)) is not None]
    op, first = getattr(node, "op", ""), shapes.get(refs[0]) if refs else None
    if op in (*_CONVOLUTIONS, *_POOLS):
        window = weights[0][:-2] if op in _CONVOLUTIONS and weights else tuple(attr(node, "ksize").list.i)
        return None if first is None else _moved_over(node, first, window)
    if op in ("Reshape", "ExpandDims", "Squeeze"):
        return _reshaped(graph, node, refs, first)
    return max(known, key=len) if known and op not in _PRODUCTS else None


def _moved_over(node: object, shape: Shape, window: Shape) -> Shape:
    """What a window that moves over a map leaves of it."""
    axes = range(2, len(shape)) if _channels_first(node) else range(1, len(shape) - 1)
    strides, made = list(attr(node, "strides").list.i), list(shape)
    sizes = window if len(window) == len(axes) else [window[axis] if axis < len(window) else 1 for axis in axes]
    for axis, size in zip(axes, sizes, strict=True):
        side, stride = shape[axis], strides[axis] if axis < len(strides) else 1
        if side is not None:
            inside = side if attr(node, "padding").s == b"SAME" else side - (size or 1) + 1
            made[axis] = max(1, -(-inside // max(1, stride)))
    return tuple(made)


def _reshaped(graph: Graph, node: object, refs: Sequence[str], shape: Shape | None) -> Shape | None:
    if getattr(node, "op", "") == "Squeeze":
        axes = attr(node, "squeeze_dims").list.i
        return None if shape is None or not axes else tuple(n for i, n in enumerate(shape) if i not in axes)
    told = read_constant(graph.nodes[refs[1]]) if len(refs) > 1 and refs[1] in graph.nodes else None
    if told is None:
        return None
    if getattr(node, "op", "") == "Reshape":
        return tuple(None if n < 0 else int(n) for n in told.reshape(-1))
    if shape is None or told.size != 1:
        return None
    axis = int(told.reshape(-1)[0]) % (len(shape) + 1)
    return (*shape[:axis], 1, *shape[axis:])
