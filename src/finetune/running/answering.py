"""What a source says of examples, with nothing grafted onto it: features of any pair, answers of a finished one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.engine.compile import as_function, features_program
from finetune.examples import batches
from finetune.examples.data import Examples
from finetune.recipe import Data
from finetune.surgery.source import Source, read_values
from finetune.surgery.variants import make_variants


@dataclass(frozen=True)
class Answers:
    """What a batch gives: the places of its examples, and by tensor a row for each."""

    places: np.ndarray
    rows: Mapping[str, np.ndarray]


def make_answer(source: Source, seed: int = 0, allow_nonfinite: bool = False) -> Callable[[Mapping[str, Any]], Any]:
    """A function from inputs by field to the source's cuts by name, run as in evaluation.

    Raises:
      UserError: the source cannot be read or compiled.
    """
    variants = make_variants(source, True, [])
    compute = as_function(features_program(variants.evaluation), [f"features/{cut}" for cut in source.cuts])
    values = read_values(source, seed, allow_nonfinite)
    variables = {f"variable/{name}": tf.constant(value) for name, value in values.items()}

    def answer(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        given = {f"input/{name}": tensor for name, tensor in inputs.items()}
        found = compute({**variables, **given, "seed": (0, 0)})
        return {cut: found[f"features/{cut}"].numpy() for cut in source.cuts}

    return answer


def answers(
    source: Source, examples: Examples, data: Data, batch_size: int, answer: Callable[[Mapping[str, Any]], Any]
) -> Iterator[Answers]:
    """What each example gives, batch by batch and in order; memory does not grow with their number."""
    if not len(examples):
        return
    load = batches.make_loader(examples, source.input_kinds(), data)
    whole = source.batch_size is not None
    for number, (inputs, _, _) in enumerate(batches.evaluation_batches(examples, load, batch_size, whole)):
        first = number * batch_size
        places = np.arange(first, min(first + batch_size, len(examples)))
        yield Answers(places, {cut: rows[: len(places)] for cut, rows in answer(inputs).items()})


def unreadable(source: Source, examples: Examples, data: Data) -> list[str]:
    """The images that cannot be decoded, each with the reason in brackets."""
    return batches.unreadable(examples, batches.make_loader(examples, source.input_kinds(), data))
