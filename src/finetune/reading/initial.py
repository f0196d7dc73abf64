"""What a variable starts from where no checkpoint holds it: a constant of the source's own, or fresh numbers."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.graph import DTYPES, FLOATS, Graph, attr, data_inputs, read_constant, shape_of
from finetune.names import node_of
from finetune.reading import metagraph
from finetune.reading.variables import VARIABLE_OPS, Variable

_LONGEST = 20  # identities behind each other


def first_values(meta: Any, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """Variable -> the node that gives what its own initialiser assigns; none of them is ever run."""
    assigned_by = {
        node_of(d.variable_name): node_of(d.initializer_name)
        for collection in ("variables", "trainable_variables")
        for d in metagraph.variable_defs(meta, collection)
    }
    found = {}
    for node in nodes.values():
        assign = nodes.get(assigned_by.get(node.name) or f"{node.name}/Assign") if node.op in VARIABLE_OPS else None
        if assign is None or assign.op not in ("Assign", "AssignVariableOp") or len(data_inputs(assign)) < 2:
            continue
        target, value = data_inputs(assign)[:2]
        given = _behind(nodes, value)
        if node_of(target) == node.name and given is not None:
            found[node.name] = given
    return found


def _behind(nodes: Mapping[str, Any], ref: str) -> Any:
    """The node that a value comes from, through those that only pass it on."""
    for _ in range(_LONGEST):
        node = nodes.get(node_of(ref))
        inputs = [] if node is None else data_inputs(node)
        if node is None or node.op != "Identity" or not inputs:
            return node
        ref = inputs[0]
    return None


def constants(meta: Any, whole: Graph, variables: Iterable[Variable]) -> dict[str, np.ndarray]:
    """The values that the source's own initialisers would assign, of those that assign a constant; computed here."""
    given = first_values(meta, whole.nodes)
    found = {}
    for variable in variables:
        value = _computed(whole, given[variable.name], variable.shape) if variable.name in given else None
        if value is not None and value.dtype == DTYPES.get(variable.dtype):
            found[variable.name] = value
    return found


def _computed(whole: Graph, node: Any, shape: Sequence[int | None] | None) -> np.ndarray | None:
    """A value of that shape that is a constant or filled with one; None for any other."""
    if node.op == "Const":
        # Compared before it is read: a constant may stand in the file once and in memory many times.
        return read_constant(node) if shape_of(attr(node, "value").tensor.tensor_shape) == shape else None
    inputs = data_inputs(node)
    if node.op != "Fill" or len(inputs) != 2:
        return None
    sizes, one = (_small(whole, r) for r in inputs)
    if sizes is None or one is None or one.size != 1 or tuple(sizes.ravel().tolist()) != shape:
        return None
    return np.full(sizes.ravel(), one.ravel()[0], one.dtype)


def _small(whole: Graph, ref: str) -> np.ndarray | None:
    node = whole.nodes.get(node_of(ref))
    if node is None or node.op != "Const":
        return None
    sizes = shape_of(attr(node, "value").tensor.tensor_shape) or ()
    return read_constant(node) if None not in sizes and math.prod(n or 0 for n in sizes) <= 256 else None


def fresh(name: str, shape: Sequence[int], dtype: int, seed: int) -> np.ndarray:
    """Glorot uniform matrices and kernels, zeros for all else.

    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks": the bound
    keeps the variance of unit-variance features. A kernel's other dimensions each add a term to every sum.
    """
    kind = DTYPES[dtype]
    if not is_drawn(shape, dtype):
        return np.zeros(shape, kind)
    bound = np.sqrt(6.0 / max(1, math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return draw.uniform(-bound, bound, shape).astype(kind)


def is_drawn(shape: Sequence[int], dtype: int) -> bool:
    """Whether fresh values of this kind are random."""
    return len(shape) >= 2 and dtype in FLOATS
