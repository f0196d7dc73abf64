"""New layers behind the cut.

A head is a pair of functions: which variables it has, and what it computes from features and their values. It is
built from plain ops, once with placeholders for the engine and once with variables for the written pair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.reading.initial import fresh

Shapes = dict[str, tuple[int, ...]]  # of variables, by name
Drop = Callable[[Any], Any]  # dropout in training

FLOAT = 1  # DataType of types.proto
POOLS: dict[str, Callable[..., Any]] = {"avg": tf.reduce_mean, "max": tf.reduce_max}


@dataclass(frozen=True)
class Flattening:
    """How features become one vector of `width` numbers per example, and how to say so."""

    how: str
    width: int
    said: str


def flattening(shape: tuple[int | None, ...] | None, pool: str, maps: bool = False) -> Flattening:
    """The way from a feature's shape to [batch, width], or to [batch, height, width, channels] for a head of `maps`.

    A 4-D `fc7` of a 1×1 map is only squeezed: multiplied as it is by a matrix it would broadcast, and accuracy
    would be noise.

    >>> flattening((None, 1, 1, 4096), "avg").said
    'the 1×1 map is squeezed to 4096 features'
    >>> flattening((None, 7, 7, 512), "avg").said
    'avg over 7×7 leaves 512 features'
    """
    if shape is not None and len(shape) == 1:
        return Flattening("expand", 1, "one value per example is taken as 1 feature")
    last = shape[-1] if shape else None
    if shape is None or last is None:
        raise UserError(
            "source",
            "cut",
            f"the graph does not say how wide the cut is (shape {_shown(shape)})",
            "cut at a tensor whose last dimension is known",
        )
    inner = shape[1:-1]
    if pool == "none":
        size = "×".join("?" if n is None else str(n) for n in shape[1:])
        return Flattening("map", last, f"{size}, which the head takes as it is")
    if maps:
        if len(inner) != 2:
            what = f"'conv' needs maps [height, width, channels], the cut is {_shown(shape)}"
            raise UserError("recipe", "head.kind", what, "use linear or mlp")
        return Flattening("map", last, f"maps of {last} channels")
    if not inner:
        return Flattening("as_is", last, f"{shape[-1]} features")
    size = "×".join("?" if n is None else str(n) for n in inner)
    if all(n == 1 for n in inner):
        return Flattening("squeeze", last, f"the {size} map is squeezed to {shape[-1]} features")
    if pool == "flatten":
        if None in inner:
            raise UserError(
                "recipe", "head.pool", f"'flatten' needs a known size, the cut is {_shown(shape)}", "use avg or max"
            )
        width = int(np.prod(shape[1:]))  # type: ignore[arg-type]
        return Flattening("flatten", width, f"{size}×{shape[-1]} are flattened to {width} features")
    return Flattening(pool, last, f"{pool} over {size} leaves {shape[-1]} features")


def _shown(shape: tuple[int | None, ...] | None) -> str:
    return "unknown" if shape is None else str(["?" if n is None else n for n in shape])


def flatten(features: Any, how: str) -> Any:
    """Features of any rank as [batch, width] float32."""
    features = tf.cast(features, tf.float32)
    rank = features.shape.rank
    if how in ("as_is", "map"):
        return features
    if how == "expand":
        return features[:, tf.newaxis]
    if how in ("squeeze", "flatten"):
        return tf.reshape(features, [-1, int(np.prod(features.shape[1:]))])
    return POOLS[how](features, axis=list(range(1, rank - 1)))


def linear_variables(width: int, outputs: int, hidden: Sequence[int] = ()) -> Shapes:
    """The variables of a linear head: name -> shape."""
    return {"kernel": (width, outputs), "bias": (outputs,)}


def linear(features: Any, variables: Mapping[str, Any], drop: Drop = lambda x: x) -> Any:
    """Logits [batch, outputs] from features [batch, width]."""
    # `BiasAdd`, not `+`: every TensorFlow since 1.0 can read the pair that is written back.
    return tf.nn.bias_add(tf.matmul(drop(features), variables["kernel"]), variables["bias"], name="logits")


def mlp_variables(width: int, outputs: int, hidden: Sequence[int]) -> Shapes:
    """The variables of hidden layers and of the linear one behind them."""
    shapes: Shapes = {}
    for number, size in enumerate(hidden, 1):
        shapes |= {f"hidden_{number}/kernel": (width, size), f"hidden_{number}/bias": (size,)}
        width = size
    return {**shapes, **linear_variables(width, outputs)}


def mlp(features: Any, variables: Mapping[str, Any], drop: Drop = lambda x: x) -> Any:
    """Logits from features [batch, width] through hidden layers with ReLU."""
    for number in range(1, _layers(variables) + 1):
        kernel, bias = variables[f"hidden_{number}/kernel"], variables[f"hidden_{number}/bias"]
        features = tf.nn.relu(tf.nn.bias_add(tf.matmul(drop(features), kernel), bias))
    return linear(features, variables, drop)


def conv_variables(width: int, outputs: int, hidden: Sequence[int]) -> Shapes:
    """The variables of 1×1 convolutions and of the linear layer behind them."""
    dense = mlp_variables(width, outputs, hidden)
    return {
        name: (1, 1, *shape) if re.fullmatch(r"hidden_\d+/kernel", name) else shape for name, shape in dense.items()
    }


def conv(features: Any, variables: Mapping[str, Any], drop: Drop = lambda x: x) -> Any:
    """Logits from maps [batch, height, width, channels]: 1×1 convolutions with ReLU, the mean over the map, linear."""
    for number in range(1, _layers(variables) + 1):
        kernel, bias = variables[f"hidden_{number}/kernel"], variables[f"hidden_{number}/bias"]
        features = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(features, kernel, strides=1, padding="SAME"), bias))
    return linear(tf.reduce_mean(features, axis=[1, 2]), variables, drop)


def _layers(variables: Mapping[str, Any]) -> int:
    return len(variables) // 2 - 1


HEADS = {"linear": (linear_variables, linear), "mlp": (mlp_variables, mlp), "conv": (conv_variables, conv)}


def initial_values(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Where a head starts: Glorot uniform matrices, zero biases."""
    return {name: fresh(name, shape, FLOAT, seed) for name, shape in shapes.items()}
