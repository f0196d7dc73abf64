"""What a run will do, as far as that is known without TensorFlow: everything that can be refused in a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune.errors import UserError
from finetune.learning.data import Examples, hold_out, read_examples
from finetune.learning.schedules import share
from finetune.learning.synthetic import synthetic
from finetune.learning.tasks import Task, make_task, with_targets
from finetune.reading import metagraph
from finetune.reading.settle import Wishes
from finetune.recipe import Head, Recipe, Train
from finetune.surgery.phases import Phases, make_phases
from finetune.surgery.source import Source, read_source, resized


@dataclass(frozen=True)
class Plan:
    """The source, what learns of it, the examples, and how long it takes."""

    source: Source
    phases: Phases
    training: Examples
    held_out: Examples
    heads: Mapping[str, Head]
    tasks: tuple[Task, ...]
    steps: int
    portion: int  # the examples that a step computes at once
    digests: Mapping[str, Mapping[str, str]]  # of the source's files and of the examples

    def share_of_rate(self, train: Train) -> Callable[[int], float] | None:
        """The share of the learning rate that a step takes; None if all take the whole."""
        if train.schedule == "constant" and not train.warmup_steps:
            return None
        end, at, by = train.schedule_end, train.decay_steps, train.decay_rate
        return lambda step: share(train.schedule, step, self.steps, train.warmup_steps, end, at, by)

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
    portion = recipe.train.batch_size // recipe.train.accumulate
    batch_sizes = {portion, recipe.eval.batch_size or portion}
    source = resized(source, batch_sizes, recipe.data.image_size)
    _check_scope(source, recipe.head.name)
    phases = make_phases(source, recipe.stop_gradient, recipe.learn)
    heads = {recipe.head.name: recipe.head}
    tasks, training, held_out = _examples(source, recipe, heads)
    steps = recipe.train.steps
    if steps is None:
        steps = math.ceil((recipe.train.epochs or 0) * len(training) / recipe.train.batch_size)
    return Plan(
        source=source,
        phases=phases,
        training=training,
        held_out=held_out,
        heads=heads,
        tasks=tasks,
        steps=steps,
        portion=portion,
        digests={
            "source.path": metagraph.digest(source.pair.files),
            "data.path": {"training": training.digest(), "held_out": held_out.digest()},
        },
    )


def _examples(source: Source, recipe: Recipe, heads: Mapping[str, Head]) -> tuple[tuple[Task, ...], Examples, Examples]:
    """The tasks, the examples to train on and those to evaluate on, with their targets."""
    columns = {name: head.labels or recipe.data.labels for name, head in heads.items()}
    if recipe.data.kind == "synthetic":
        examples, apart = synthetic(source, heads, columns, recipe.run.seed), None
    else:
        examples, apart = read_examples(recipe.data, list(source.inputs), list(dict.fromkeys(columns.values())))
    tasks = tuple(make_task(name, head, source.cut, columns[name], examples) for name, head in heads.items())
    examples = with_targets(examples, tasks)
    if apart is None:
        return (tasks, *hold_out(examples, recipe.data.holdout))
    return tasks, examples, with_targets(apart, tasks, "data.eval_path")


def _check_scope(source: Source, scope: str) -> None:
    taken = [n for n in source.below.nodes if n == scope or n.startswith(f"{scope}/")]
    if taken:
        what = f"the source has '{taken[0]}' below the cut"
        raise UserError("recipe", "head.name", what, f"name it otherwise, e.g. head.name={scope}_2")
