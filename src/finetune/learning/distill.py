"""The old task, remembered: batches that carry what the source itself says of their examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

Batch = tuple[Mapping[str, Any], Mapping[str, Any], Any]


def with_old_logits(
    batches: Iterator[Batch],
    teacher: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    pretrained: Mapping[str, Any],
    name: str,
) -> Iterator[Batch]:
    """The batches with the target `name`: float32 [batch, old classes], from the pretrained values.

    They are computed anew for each batch, since an augmented example is another one each time.
    """
    variables = {f"variable/{variable}": tf.constant(value) for variable, value in pretrained.items()}
    for inputs, targets, indices in batches:
        given = {f"input/{field}": tensor for field, tensor in inputs.items()}
        (logits,) = teacher({**variables, **given, "seed": (0, 0)}).values()
        yield inputs, {**targets, name: tf.reshape(tf.cast(logits, tf.float32), [len(indices), -1])}, indices
