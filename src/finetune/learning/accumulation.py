"""A batch computed in portions, one after the other: the memory of one portion, the step of the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

Program = Callable[[Mapping[str, Any]], Mapping[str, Any]]

ROWS = ("input/", "target/")  # arguments that have a row for each example


def in_portions(program: Program, count: int) -> Program:
    """A program that computes `count` equal portions of the rows, and gives the means of losses and gradients.

    Each portion has a seed of its own, and finds the source's updates of the one before: batch norm sees the portions
    as batches. Nothing is assigned, so that a step is still whole or absent.
    """

    @tf.function(reduce_retracing=True)
    def add(sums: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value + more[name] for name, value in sums.items()}

    @tf.function(reduce_retracing=True)
    def mean(sums: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value / tf.cast(count, value.dtype) for name, value in sums.items()}

    def compute(arguments: Mapping[str, Any]) -> dict[str, Any]:
        sums: dict[str, Any] = {}
        updates: dict[str, Any] = {}
        for number in range(count):
            moved = {f"variable/{name.partition('/')[2]}": value for name, value in updates.items()}
            seed = tf.random.experimental.stateless_fold_in(arguments["seed"], number)
            outputs = program({**arguments, **portion(arguments, number, count), **moved, "seed": seed})
            updates = {n: t for n, t in outputs.items() if n.startswith("update/")}
            summed = {n: t for n, t in outputs.items() if n not in updates}
            sums = add(sums, summed) if sums else summed
        return {**mean(sums), **updates}

    return compute


def portions(arguments: Mapping[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """The arguments of each portion by itself, without the updates of the one before."""
    for number in range(count):
        seed = arguments["seed"]
        seed = seed if count == 1 else tf.random.experimental.stateless_fold_in(seed, number)
        yield {**arguments, **portion(arguments, number, count), "seed": seed}


def portion(arguments: Mapping[str, Any], number: int, count: int) -> dict[str, Any]:
    """The rows of one of `count` portions, counted from 0."""
    rows = {name: value for name, value in arguments.items() if name.startswith(ROWS)}
    size = {name: len(value) // count for name, value in rows.items()}
    return {name: value[number * size[name] : (number + 1) * size[name]] for name, value in rows.items()}
