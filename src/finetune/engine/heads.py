"""New layers behind the cut.

A head is a pair of functions: which variables it has, and what it computes from features and their values. It is
built from plain ops, once with placeholders for the engine and once with variables for the written pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import UserError
from finetune.reading.initial import fresh

FLOAT = 1  # DataType of types.proto
POOLS: dict[str, Callable[..., Any]] = {"avg": tf.reduce_mean, "max": tf.reduce_max}


@dataclass(frozen=True)
class Flattening:
    """How features become one vector of `width` numbers per example, and how to say so."""

    how: str
    width: int
    said: str


def flattening(shape: tuple[int | None, ...] | None, pool: str) -> Flattening:
    """The way from a feature's shape to [batch, width].

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
    if how == "as_is":
        return features
    if how == "expand":
        return features[:, tf.newaxis]
    if how in ("squeeze", "flatten"):
        return tf.reshape(features, [-1, int(np.prod(features.shape[1:]))])
    return POOLS[how](features, axis=list(range(1, rank - 1)))


def linear_variables(width: int, classes: int) -> dict[str, tuple[int, ...]]:
    """The variables of a linear head: name -> shape."""
    return {"kernel": (width, classes), "bias": (classes,)}


def linear(features: Any, variables: Mapping[str, Any]) -> Any:
    """Logits [batch, classes] from features [batch, width]."""
    # `BiasAdd`, not `+`: every TensorFlow since 1.0 can read the pair that is written back.
    return tf.nn.bias_add(tf.matmul(features, variables["kernel"]), variables["bias"], name="logits")


HEADS = {"linear": (linear_variables, linear)}


def initial_values(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Where a head starts: Glorot uniform matrices, zero biases."""
    return {name: fresh(name, shape, FLOAT, seed) for name, shape in shapes.items()}
