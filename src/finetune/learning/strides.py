"""Many steps in one call, so that Python is not what they cost; the same bits as one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from finetune.learning.averages import decay_at
from finetune.learning.state import State
from finetune.learning.train import NonFinite, Step, Stride, is_loss, make_attempt

# Of one call, so that a run answers soon, and its rows are in memory twice; 3e10 operations take a second or less.
MOST_STEPS, MOST_BYTES, MOST_OPERATIONS = 100, 64e6, 3e10


def longest(size: float, operations: float) -> int:
    """How many steps may be made in one call, each of so many bytes and operations.

    >>> longest(1e6, 0), longest(1e6, 1e9), longest(1e6, 1e11)
    (64, 30, 1)
    """
    most = MOST_STEPS, MOST_BYTES // max(1.0, size), MOST_OPERATIONS // max(1.0, operations)
    return max(1, int(min(most)))


def one_by_one(step: Step) -> Stride:
    """Strides of one step each."""
    return lambda before, last, inputs, targets: [step(last, inputs, targets)]


def make_stride(
    program: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    step: Step,
    state: State,
    seed: int,
    share: Callable[[int], float] | None = None,
    clip_norm: float | None = None,
    ema: float | None = None,
) -> Stride:
    """Steps inside one `tf.function`; the other arguments are those of `step`.

    A program that has layers of the source should be `apart`, for a step too (see `make_step`). What is not finite
    stops them, and is left to `step`: it finds out what is wrong.
    """
    attempt = make_attempt(program, state, seed, clip_norm)
    losses: list[str] = []

    def take(before: int, last: int, inputs: Mapping[str, Any], targets: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        size = len(next(iter(inputs.values()))) // (last - before)

        def alone(made: int) -> Mapping[str, Any]:
            rows = slice(made * size, (made + 1) * size)
            batch = ({name: values[rows] for name, values in given.items()} for given in (inputs, targets))
            return step(before + made + 1, *batch)

        found = [] if losses else [alone(0)]  # the first one tells the names of the losses
        losses[:] = losses or [name for name in found[0] if is_loss(name)]
        while (made := len(found)) < last - before:
            numbers = range(before + made + 1, last + 1)
            parts = None if share is None else tf.constant([share(n) for n in numbers], tf.float32)
            decays = None if ema is None else tf.constant([decay_at(ema, n) for n in numbers], tf.float32)
            rest = slice(made * size, None)
            left = [{name: values[rest] for name, values in given.items()} for given in (inputs, targets)]
            first, count = tf.constant(numbers[0]), tf.constant(len(numbers))
            count, columns = together(first, count, left[0], left[1], parts, decays)
            rows = zip(*(values.numpy()[: int(count)] for values in columns.values()), strict=True)
            found += [dict(zip(columns, row, strict=True)) for row in rows]
            if len(found) < last - before:
                try:
                    found.append(alone(len(found)))
                except NonFinite as bad:
                    raise NonFinite(bad.step, bad.what, found) from bad
        return found

    @tf.function(reduce_retracing=True, autograph=False)
    def together(
        first: Any, count: Any, inputs: Mapping[str, Any], targets: Mapping[str, Any], parts: Any, decays: Any
    ) -> tuple[Any, dict[str, Any]]:
        size = tf.shape(next(iter(inputs.values())))[0] // count

        def go_on(place: Any, made: Any, _: Any) -> Any:
            return (place < count) & (made == place)

        def one(place: Any, made: Any, arrays: Mapping[str, Any]) -> Any:
            rows = slice(place * size, (place + 1) * size)
            batch = [{name: values[rows] for name, values in given.items()} for given in (inputs, targets)]
            part, decay = (None if each is None else each[place] for each in (parts, decays))
            is_made, told = attempt(first + place, *batch, part, decay)
            arrays = {name: array.write(place, told[name]) for name, array in arrays.items()}
            return place + 1, made + tf.cast(is_made, tf.int32), arrays

        arrays = {name: tf.TensorArray(tf.float32, count) for name in [*losses, "gradient_norm"]}
        _, made, arrays = tf.while_loop(go_on, one, (0, 0, arrays))
        return made, {name: array.stack() for name, array in arrays.items()}

    return take
