"""Low-rank matrices beside frozen ones: programs that take and train the small ones instead.

A program takes its variables as arguments and gives its gradients by name, so nothing of it has to change: it is
called with W + s·A B where it expects W, and its gradient by W becomes those by A and B, by the chain rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.reading.initial import fresh
from finetune.surgery.adapters import Adapter

Function = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def initial_values(adapters: Sequence[Adapter], seed: int) -> dict[str, np.ndarray]:
    """Where the small matrices start: A Glorot uniform, B zero, so that their product is zero."""
    found = {}
    for adapter in adapters:
        rows_by_rank, rank_by_columns = adapter.shapes.values()
        found[adapter.a] = fresh(adapter.a, rows_by_rank, adapter.dtype, seed)
        found[adapter.b] = np.zeros(rank_by_columns, found[adapter.a].dtype)
    return found


def merged(adapters: Sequence[Adapter], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables as the source names them: W + s·A B in W's place, and no small matrices.

    >>> ones = {"w": np.ones((2, 2), np.float32), "lora/w/a": np.ones((2, 1)), "lora/w/b": np.ones((1, 2))}
    >>> merged([Adapter("w", (2, 2), 1, rank=1, scale=0.5)], {n: tf.constant(v, tf.float32) for n, v in ones.items()})
    {'w': <tf.Tensor: shape=(2, 2), dtype=float32, numpy=
    array([[1.5, 1.5],
           [1.5, 1.5]], dtype=float32)>}
    """
    found = dict(variables)
    for adapter in adapters:
        w, a, b = (found.pop(name) for name in (adapter.variable, adapter.a, adapter.b))
        found[adapter.variable] = w + tf.reshape(tf.matmul(a, adapter.scale * b), adapter.shape)
    return found


def merged_arguments(adapters: Sequence[Adapter], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the source's own program."""
    variables = {n.partition("/")[2]: value for n, value in arguments.items() if n.startswith("variable/")}
    others = {name: value for name, value in arguments.items() if not name.startswith("variable/")}
    return others | {f"variable/{name}": value for name, value in merged(adapters, variables).items()}


def with_adapters(program: Function, adapters: Sequence[Adapter]) -> Function:
    """The program with arguments `variable/lora/…` beside each matrix, and gradients by these instead of by it."""
    if not adapters:
        return program

    def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
        outputs = dict(program(merged_arguments(adapters, arguments)))
        for adapter in adapters:
            if (gradient := outputs.pop(f"gradient/{adapter.variable}", None)) is not None:
                a, b = (arguments[f"variable/{name}"] for name in (adapter.a, adapter.b))
                gradient = tf.reshape(gradient, (a.shape[0], b.shape[1])) * adapter.scale
                outputs[f"gradient/{adapter.a}"] = tf.matmul(gradient, b, transpose_b=True)
                outputs[f"gradient/{adapter.b}"] = tf.matmul(a, gradient, transpose_a=True)
        return outputs

    return run
