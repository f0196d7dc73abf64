"""What a run will do, as far as that is known without TensorFlow: everything that can be refused in a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.errors import UserError
from finetune.learning import metrics
from finetune.learning.data import Examples, grouped, hold_out
from finetune.learning.kinds import read_examples
from finetune.learning.schedules import share
from finetune.learning.synthetic import synthetic
from finetune.learning.tasks import Task, make_task, weighed, with_targets
from finetune.names import node_of, tensor_name
from finetune.reading import metagraph
from finetune.reading.settle import Wishes
from finetune.recipe import Head, Recipe, Train, named_heads
from finetune.surgery.source import Source, read_source, resized
from finetune.surgery.variants import Variants, make_variants


@dataclass(frozen=True)
class Plan:
    """The source, what learns of it, the examples, and how long it takes."""

    source: Source
    variants: Variants
    training: Examples
    held_out: Examples
    heads: Mapping[str, Head]
    tasks: tuple[Task, ...]
    members: Sequence[np.ndarray] | None  # the training examples of each class, where classes are balanced
    steps: int
    digests: Mapping[str, Mapping[str, str]]  # of the source's files and of the examples
    old_head: Source | None = None  # the source cut at its own head, where the recipe names it

    def share_of_rate(self, train: Train) -> Callable[[int], float] | None:
        """The share of the learning rate that a step takes; None if all take the whole."""
        if train.schedule == "constant" and not train.warmup_steps:
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
    heads = named_heads(recipe)
    metrics.check(recipe.eval.metrics, [head.loss for head in heads.values()])
    source = read_sized(recipe)
    for name in heads:
        _check_scope(source, name)
    variants = make_variants(source, recipe.stop_gradient, recipe.learn, recipe.learn_decay, recipe.lora)
    if recipe.distill.tensor is not None and not (variants.rates() or variants.adapters):
        what = "nothing that the old logits depend on learns, so they stay as they are"
        raise UserError("recipe", "distill.tensor", what, "set stop_gradient=false, or leave distill out")
    tasks, training, held_out = _examples(source, recipe, heads)
    steps = recipe.train.steps
    if steps is None:
        steps = math.ceil((recipe.train.epochs or 0) * len(training) / recipe.train.batch_size)
    return Plan(
        source=source,
        variants=variants,
        training=training,
        held_out=held_out,
        heads=heads,
        tasks=tasks,
        members=_members(training, tasks) if recipe.data.balance == "sampling" else None,
        steps=steps,
        digests={
            "source.path": metagraph.digest(source.pair.files),
            "data.path": {"training": training.digest(), "held_out": held_out.digest()},
        },
        old_head=_old_head(source, recipe),
    )


def read_sized(recipe: Recipe) -> Source:
    """The source, with the batch and image sizes that the recipe asks for.

    Raises:
      UserError: it cannot be used.
    """
    also = {f"heads.{name}.cut": head.cut for name, head in named_heads(recipe).items() if head.cut is not None}
    also |= {"distill.tensor": recipe.distill.tensor} if recipe.distill.tensor is not None else {}
    return _read(recipe, recipe.cut, recipe.source.inputs, also)


def _read(recipe: Recipe, at: str, inputs: Mapping[str, str], also: Mapping[str, str]) -> Source:
    asked = recipe.source
    wishes = Wishes(asked.rename, asked.weights == "averages", asked.allow_missing)
    source = read_source(asked.path, at, inputs, asked.feeds, asked.trust, wishes, asked.dropout, also)
    batch_sizes = {recipe.train.batch_size, recipe.eval.batch_size or recipe.train.batch_size}
    return resized(source, batch_sizes, recipe.data.image_size)


def _examples(source: Source, recipe: Recipe, heads: Mapping[str, Head]) -> tuple[tuple[Task, ...], Examples, Examples]:
    """The tasks, the examples to train on and those to evaluate on, with their targets."""
    columns = label_columns(recipe, heads)
    if recipe.data.kind == "synthetic":
        examples, apart = synthetic(source, heads, columns, recipe.run.seed), None
    else:
        examples, apart = read_examples(recipe.data, list(source.inputs), list(dict.fromkeys(columns.values())))
    return settle(source, recipe, heads, examples, apart)


def label_columns(recipe: Recipe, heads: Mapping[str, Head]) -> dict[str, str]:
    """The column that each head learns."""
    return {name: head.labels or recipe.data.labels for name, head in heads.items()}


def settle(
    source: Source, recipe: Recipe, heads: Mapping[str, Head], examples: Examples, apart: Examples | None
) -> tuple[tuple[Task, ...], Examples, Examples]:
    """The tasks, the examples to train on and those to evaluate on; without `apart` some of the first are held out.

    Raises:
      UserError: the labels are not what the heads learn.
    """
    columns, names = label_columns(recipe, heads), recipe.data.classes or ()
    cuts = {name: tensor_name(head.cut or source.cut) for name, head in heads.items()}
    tasks = [make_task(name, head, cuts[name], columns[name], examples, names=names) for name, head in heads.items()]
    examples = with_targets(examples, tasks)
    groups = grouped(examples, recipe.data.group) if recipe.data.group else None
    if apart is None:
        training, held_out = hold_out(examples, recipe.data.holdout, groups)
    else:
        training, held_out = examples, with_targets(apart, tasks, "data.eval_path")
    weighing = ((task, heads[task.name].class_weights, training.targets[task.name]) for task in tasks)
    return tuple(weighed(*words, f"{words[0].name}.class_weights") for words in weighing), training, held_out


def _members(training: Examples, tasks: Sequence[Task]) -> list[np.ndarray]:
    exclusive = [task for task in tasks if task.is_exclusive]
    if not exclusive:
        raise UserError("recipe", "data.balance", "no head has one class an example", "add data.balance=none")
    classes = training.targets[exclusive[0].name]
    return [np.flatnonzero(classes == number) for number in np.unique(classes)]


def _old_head(source: Source, recipe: Recipe) -> Source | None:
    at = recipe.eval.old_head
    if at is None:
        return None
    try:
        old = _read(recipe, at, source.inputs, {})
    except UserError as error:
        where = "eval.old_head" if error.where == "cut" else error.where
        raise UserError(error.code, where, error.what, error.todo) from None
    if node_of(source.cut) not in old.below.nodes:
        what = f"'{at}' does not depend on the cut '{source.cut}'"
        raise UserError("recipe", "eval.old_head", what, "name the source's own logits or probabilities")
    return old


def _check_scope(source: Source, scope: str) -> None:
    taken = [n for n in source.below.nodes if n == scope or n.startswith(f"{scope}/")]
    if taken:
        what = f"the source has '{taken[0]}' below the cut"
        raise UserError("recipe", "head.name", what, f"name it otherwise, e.g. head.name={scope}_2")
