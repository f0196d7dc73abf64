"""What a run will do, as far as that is known without TensorFlow: everything that can be refused in a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.caching.shelf import RECORDS, cache_folder
from finetune.errors import UserError, refuse, shortlist
from finetune.examples.data import Examples, grouped, hold_out
from finetune.examples.kinds import read_examples
from finetune.examples.record_index import Keeping
from finetune.examples.synthetic import synthetic
from finetune.examples.tasks import Task, make_task, weighed, with_targets
from finetune.graph import FLOATS, UINT8, dtype_name
from finetune.judging import metrics
from finetune.judging.evaluate import measured
from finetune.learning.course import Phase, check_metrics, make_course, with_ends
from finetune.learning.monitor import Rules, goal_of, value_of
from finetune.names import node_of, tensor_name
from finetune.reading import metagraph
from finetune.reading.settle import Wishes
from finetune.recipe import Head, Recipe, Train, named_heads
from finetune.surgery.source import Source, read_source, resized


@dataclass(frozen=True)
class Plan:
    """The source, what learns of it, the examples, and how long it takes."""

    source: Source
    phases: tuple[Phase, ...]
    training: Examples
    held_out: Examples
    heads: Mapping[str, Head]
    tasks: tuple[Task, ...]
    members: Sequence[np.ndarray] | None  # the training examples of each class, where classes are balanced
    steps: int
    portion: int  # the examples that a step computes at once
    digests: Mapping[str, Mapping[str, str]]  # of the source's files and of the examples
    rules: Rules  # what follows from evaluations; the rate falls only in phases with the schedule `plateau`
    old_head: Source | None = None  # the source cut at its own head, where the recipe names it

    def moving(self) -> set[str]:
        """The variables of the source that some phase may change."""
        return {name for phase in self.phases for name in phase.variants.moving()}

    def l2_sp(self, train: Train, learning: Collection[str]) -> float | None:
        """How strongly what learns is drawn to the source; None in a phase in which nothing of the source learns."""
        return train.l2_sp if len(self.phases) == 1 or self.moving() & set(learning) else None

    def steps_per_epoch(self, batch_size: int) -> int:
        """The number of whole batches in the training examples, at least one."""
        return max(1, len(self.training) // batch_size)


def make_plan(recipe: Recipe, share: tuple[int, int] = (0, 1), writes: bool = True) -> Plan:
    """Reads source and examples and settles them with each other.

    Args:
      share: which of the workers that read the same examples at once this is, and how many there are.
      writes: whether what is found in record files may be kept in the cache; nothing else is written.

    Raises:
      UserError: anything that does not fit.
    """
    try:
        return _planned(recipe, keeping(recipe, share, writes))
    except UserError as fault:
        if others := beside([fault], recipe):
            refuse([fault, *others])
        raise


def keeping(recipe: Recipe, share: tuple[int, int] = (0, 1), writes: bool = True) -> Keeping | None:
    """Where what is found in record files is kept; None where the recipe has no cache."""
    asked = recipe.cache
    if asked.mode == "off":
        return None
    return Keeping(cache_folder(asked.dir) / RECORDS, asked.max_gb * 1e9, *share, writes)


def beside(faults: Sequence[UserError], recipe: Recipe) -> list[UserError]:
    """What else than these faults is wrong with the source, what learns of it and the examples.

    Each is looked at if nothing is wrong with its own keys, so that no fault is told twice.
    """
    others: list[UserError] = []
    found: list[Source] = []

    def look(codes: Sequence[str], keys: Sequence[str], at: Callable[[], None]) -> None:
        if any(fault.code in codes or fault.where.startswith(tuple(keys)) for fault in (*faults, *others)):
            return
        try:
            at()
        except UserError as fault:
            others.append(fault)
        except OSError:  # is said when nothing else is wrong
            pass

    def learning() -> None:
        words = recipe.stop_gradient, recipe.learn, recipe.train, recipe.learn_decay, recipe.lora
        make_course(recipe.phases, found[0], *words)

    def examples() -> None:
        columns = label_columns(recipe, named_heads(recipe))
        inputs = list(found[0].inputs) if found else []
        read_examples(recipe.data, inputs, list(dict.fromkeys(columns.values())), keeping(recipe))

    sizes = ("train.batch_size", "train.accumulate", "eval.batch_size")
    look(
        ["source"],
        ["source", "cut", "head", "distill", "data.image_size", *sizes],
        lambda: found.append(read_sized(recipe)),
    )
    if found:
        look([], ["stop_gradient", "learn", "lora", "phases", "train.optimizer"], learning)
    if recipe.data.kind != "synthetic" and (found or recipe.data.kind == "images"):
        look(["data"], ["data", "head"], examples)
    return others


def _planned(recipe: Recipe, kept: Keeping | None) -> Plan:
    heads = named_heads(recipe)
    metrics.check(recipe.eval.metrics, [head.loss for head in heads.values()])
    source = read_sized(recipe)
    for name in heads:
        _check_scope(source, name)
    words = recipe.stop_gradient, recipe.learn, recipe.train, recipe.learn_decay, recipe.lora
    phases = make_course(recipe.phases, source, *words)
    if len({tuple(a.variable for a in phase.variants.adapters) for phase in phases}) > 1:
        what = "not every phase has the same matrices to learn beside, for their barriers differ"
        raise UserError("recipe", "lora.match", what, "leave stop_gradient out of the phases")
    _check_mixing(source, recipe.train)
    if recipe.distill.tensor is not None and not any(p.variants.rates() or p.variants.adapters for p in phases):
        what = "nothing that the old logits depend on learns, so they stay as they are"
        raise UserError("recipe", "distill.tensor", what, "set stop_gradient=false, or leave distill out")
    tasks, training, held_out = _examples(source, recipe, heads, kept)
    _check_watched(phases, recipe.train, len(held_out))

    def steps_in(epochs: float) -> int:
        return math.ceil(epochs * len(training) / recipe.train.batch_size)

    phases = with_ends(phases, recipe.phases, steps_in, recipe.eval.metric, recipe.eval.goal)
    if waits := [p for p in phases if p.patience is not None and not len(held_out)]:
        what = "a plateau is one of the held-out examples, and there are none"
        raise UserError("recipe", f"{waits[0].key}.until.plateau", what, "add data.holdout=0.2 or data.eval_path=…")
    given = measured(tasks, recipe.eval.metrics)
    check_metrics(phases, given)
    if len(held_out):
        value_of(recipe.eval.metric, dict.fromkeys(given, 0.0))
    return Plan(
        source=source,
        phases=phases,
        training=training,
        held_out=held_out,
        heads=heads,
        tasks=tasks,
        members=_members(training, tasks) if recipe.data.balance == "sampling" else None,
        steps=steps_in(recipe.train.epochs or 0) if recipe.train.steps is None else recipe.train.steps,
        portion=recipe.train.batch_size // recipe.train.accumulate,
        digests={
            "source.path": metagraph.digest(source.pair.files),
            "data.path": {"training": training.digest(), "held_out": held_out.digest()},
        },
        rules=_rules(recipe),
        old_head=_old_head(source, recipe),
    )


def _rules(recipe: Recipe) -> Rules:
    goal, plateau = goal_of(recipe.eval.metric, recipe.eval.goal), recipe.train.plateau
    return Rules(goal, recipe.eval.min_delta, recipe.train.stop_early, plateau.patience, plateau.factor)


def read_sized(recipe: Recipe) -> Source:
    """The source, with the batch and image sizes that the recipe asks for.

    Raises:
      UserError: it cannot be used.
    """
    also = {f"heads.{name}.cut": head.cut for name, head in named_heads(recipe).items() if head.cut is not None}
    also |= {"distill.tensor": recipe.distill.tensor} if recipe.distill.tensor is not None else {}
    return _read(recipe, recipe.cut, recipe.source.inputs, also)


def read_at(recipe: Recipe, tensors: Sequence[str]) -> Source:
    """The source of a recipe, cut at these tensors and not where the recipe says.

    Raises:
      UserError: it cannot be used.
    """
    first, *others = tensors
    return _read(recipe, first, recipe.source.inputs, {f"cut {number}": t for number, t in enumerate(others, 2)})


def read_pair(recipe: Recipe, path: str, tensors: Sequence[str], inputs: Mapping[str, str]) -> Source:
    """The pair that a run of this recipe wrote, as a source of some of its tensors.

    Raises:
      UserError: it cannot be used.
    """
    first, *others = tensors
    also = {f"cut {number}": tensor for number, tensor in enumerate(others, 2)}
    source = read_source(path, first, inputs, {}, recipe.source.trust, also=also)
    return resized(source, {recipe.eval.batch_size or recipe.train.batch_size // recipe.train.accumulate}, None)


def _read(recipe: Recipe, at: str, inputs: Mapping[str, str], also: Mapping[str, str]) -> Source:
    asked = recipe.source
    wishes = Wishes(asked.rename, asked.weights == "averages", asked.allow_missing)
    source = read_source(asked.path, at, inputs, asked.feeds, asked.trust, wishes, asked.dropout, also)
    portion = recipe.train.batch_size // recipe.train.accumulate
    batch_sizes = {portion, recipe.eval.batch_size or portion}
    return resized(source, batch_sizes, recipe.data.image_size)


def _examples(
    source: Source, recipe: Recipe, heads: Mapping[str, Head], kept: Keeping | None
) -> tuple[tuple[Task, ...], Examples, Examples]:
    """The tasks, the examples to train on and those to evaluate on, with their targets."""
    columns = label_columns(recipe, heads)
    if recipe.data.kind == "synthetic":
        examples, apart = synthetic(source, heads, columns, recipe.run.seed), None
    else:
        examples, apart = read_examples(recipe.data, list(source.inputs), list(dict.fromkeys(columns.values())), kept)
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
        if not len(training):
            same = "are of one group or of few" if groups else "are equal, or few"
            what = f"all {len(held_out)} examples are held out, and none is left to train on: they {same}"
            raise UserError("data", "data.holdout", what, "see --check-data, or give data.eval_path")
    else:
        training, held_out = examples, with_targets(apart, tasks, "data.eval_path")
    weighing = ((task, heads[task.name].class_weights, training.targets[task.name]) for task in tasks)
    return tuple(weighed(*words, f"{words[0].name}.class_weights") for words in weighing), training, held_out


def _members(training: Examples, tasks: Sequence[Task]) -> list[np.ndarray]:
    exclusive = [task for task in tasks if task.is_exclusive]
    if not exclusive:
        raise UserError("recipe", "data.balance", "no head has one class an example", "add data.balance=none")
    classes = training.targets[exclusive[0].name]
    counts = np.unique(classes, return_counts=True)[1]
    return np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])


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


def _check_mixing(source: Source, train: Train) -> None:
    kinds = source.input_kinds()
    shapes = [shape for _, shape in kinds.values() if shape is not None and len(shape) not in (3, 4)]
    if train.cutmix and (len(kinds) > 1 or shapes):
        what = f"it pastes rectangles of images, and the cut needs {shortlist(list(source.inputs.values()))}"
        raise UserError("recipe", "train.cutmix", what, "use train.mixup")
    for tensor, (dtype, _) in zip(source.inputs.values(), kinds.values(), strict=True):
        if (train.mixup or train.cutmix) and dtype not in (*FLOATS, UINT8):
            what = f"{tensor} takes {dtype_name(dtype)}, which cannot be mixed"
            raise UserError("recipe", "train.mixup, train.cutmix", what, "leave them out")


def _check_watched(phases: Sequence[Phase], train: Train, held_out: int) -> None:
    asked = [f"{p.key or 'train'}.schedule" for p in phases if p.train.schedule == "plateau"]
    asked += ["train.stop_early"] * (train.stop_early is not None)
    if asked and not held_out:
        raise UserError("recipe", asked[0], "there is no evaluation to go by: nothing is held out", "see data.holdout")


def _check_scope(source: Source, scope: str) -> None:
    taken = [n for n in source.below.nodes if n == scope or n.startswith(f"{scope}/")]
    if taken:
        what = f"the source has '{taken[0]}' below the cut"
        raise UserError("recipe", "head.name", what, f"name it otherwise, e.g. head.name={scope}_2")
