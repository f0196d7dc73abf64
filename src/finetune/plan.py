"""What a run will do, as far as that is known without TensorFlow: everything that can be refused in a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune.errors import UserError
from finetune.learning.data import Examples, check_classes, hold_out, read_examples
from finetune.learning.schedules import share
from finetune.learning.synthetic import synthetic
from finetune.reading import metagraph
from finetune.reading.settle import Wishes
from finetune.recipe import Recipe, Train
from finetune.surgery.phases import Phases, make_phases
from finetune.surgery.source import Source, read_source, resized


@dataclass(frozen=True)
class Plan:
    """The source, what learns of it, the examples, and how long it takes."""

    source: Source
    phases: Phases
    training: Examples
    held_out: Examples
    classes: int
    steps: int
    digests: Mapping[str, Mapping[str, str]]  # of the source's files and of the examples

    def share_of_rate(self, train: Train) -> Callable[[int], float] | None:
        """The share of the learning rate that a step takes; None if all take the whole."""
        if train.schedule == "constant" and not train.warmup_steps and train.on_nan == "stop":
            return None
        return lambda step: share(train.schedule, step, self.steps, train.warmup_steps)

    def steps_per_epoch(self, batch_size: int) -> int:
        """The number of whole batches in the training examples, at least one."""
        return max(1, len(self.training) // batch_size)


def make_plan(recipe: Recipe) -> Plan:
    """Reads source and examples and settles them with each other; writes nothing.

    Raises:
      UserError: anything that does not fit.
    """
    asked = recipe.source
    wishes = Wishes(asked.rename, asked.weights == "averages", asked.allow_missing)
    source = read_source(asked.path, recipe.cut, asked.inputs, asked.feeds, asked.trust, wishes, asked.dropout)
    batch_sizes = {recipe.train.batch_size, recipe.eval.batch_size or recipe.train.batch_size}
    source = resized(source, batch_sizes, recipe.data.image_size)
    _check_scope(source, recipe.head.name)
    phases = make_phases(source, recipe.stop_gradient, recipe.learn)
    training, held_out = _examples(source, recipe)
    _check_watched(recipe.train, len(held_out))
    steps = recipe.train.steps
    if steps is None:
        steps = math.ceil((recipe.train.epochs or 0) * len(training) / recipe.train.batch_size)
    return Plan(
        source=source,
        phases=phases,
        training=training,
        held_out=held_out,
        classes=check_classes(training, recipe.head.classes),
        steps=steps,
        digests={
            "source.path": metagraph.digest(source.pair.files),
            "data.path": {"training": training.digest(), "held_out": held_out.digest()},
        },
    )


def _examples(source: Source, recipe: Recipe) -> tuple[Examples, Examples]:
    if recipe.data.kind == "synthetic":
        return hold_out(synthetic(source, recipe.head.classes, recipe.run.seed), recipe.data.holdout)
    return read_examples(recipe.data, list(source.inputs), recipe.head.classes)


def _check_watched(train: Train, held_out: int) -> None:
    asked = [
        key
        for key, wanted in (("train.stop_early", train.stop_early), ("train.schedule", train.schedule == "plateau"))
        if wanted
    ]
    if asked and not held_out:
        raise UserError("recipe", asked[0], "there is no evaluation to go by: nothing is held out", "see data.holdout")


def _check_scope(source: Source, scope: str) -> None:
    taken = [n for n in source.below.nodes if n == scope or n.startswith(f"{scope}/")]
    if taken:
        what = f"the source has '{taken[0]}' below the cut"
        raise UserError("recipe", "head.name", what, f"name it otherwise, e.g. head.name={scope}_2")
