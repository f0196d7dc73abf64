"""Puts a head on a backbone, and gives back one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import tensorflow as tf

from finetune.engine.compile import (
    Graft,
    Program,
    as_function,
    feature_shapes,
    features_program,
    forward_program,
    step_program,
)
from finetune.engine.heads import HEADS, Flattening, flatten
from finetune.engine.heads import flattening as flattening_of
from finetune.engine.lora import merged_arguments, with_adapters
from finetune.engine.losses import LOSSES, distillation, objective
from finetune.engine.nonfinite import first_nonfinite
from finetune.engine.own_heads import own_head, own_objective
from finetune.engine.precision import lowered
from finetune.examples.tasks import Task
from finetune.names import node_of, tensor_name
from finetune.own_functions import is_path
from finetune.recipe import Distill, Head
from finetune.results.export import make_pair_graph
from finetune.surgery.adapters import Adapter
from finetune.surgery.backbone import mode_feeds
from finetune.surgery.source import Source
from finetune.surgery.variants import Variants

OLD = "old"  # the name of what is kept of the old task, among the losses

Shape = tuple[int | None, ...]
Probe = Callable[[], Mapping[str, Any]]
Function = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Model:
    """The grafted model as pure functions of inputs and variables.

    `forward` gives the heads' outputs and losses in evaluation, `features` what each head reads, `step` loss,
    gradients and updates in training. `said` tells how features become vectors; `feeds` are the mode feeds of both
    variants.
    """

    grafts: tuple[Graft, ...]
    trained: tuple[Graft, ...]  # the same as a step has them, and what is kept of the old task
    shapes: Mapping[str, Shape]  # of the cuts
    said: str
    inputs: Mapping[str, str]  # data field -> the tensor that takes it, in the pair that is written too
    variants: Variants
    behind: Variants  # what the functions below are compiled of: all of `variants`, or the rest behind what is kept
    forward: Function
    features: Function
    step: Function
    first_nonfinite: Callable[[Mapping[str, Any]], str | None]  # of what `step` computes
    rates: Mapping[str, float]  # variable -> multiple of the learning rate
    updated: frozenset[str]  # variables that the source's own updates change
    products: int = 0  # nodes of the step that compute in 16 bits
    precision: str = "float32"  # of the step
    xla: bool = False  # whether the step is compiled with XLA
    teacher: Function | None = None  # the old logits, where training is to keep them

    @property
    def feeds(self) -> Mapping[str, Any]:
        """The mode feeds of both variants."""
        return self.variants.feeds

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The small matrices beside frozen ones."""
        return self.variants.adapters

    @property
    def new_variables(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the heads' variables, by full name."""
        return {name: shape for graft in self.grafts for name, shape in graft.variables.items()}

    @property
    def small_variables(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the adapters' matrices, by name."""
        return {name: shape for adapter in self.adapters for name, shape in adapter.shapes.items()}


def graft(
    variants: Variants,
    heads: Mapping[str, Head],
    tasks: Sequence[Task],
    probe: Probe | None = None,
    distill: Distill | None = None,
    mixed: bool = False,
    precision: str = "float32",
    xla: bool = False,
    behind: Variants | None = None,
) -> Model:
    """Joins heads to the source, and compiles both variants.

    Args:
      heads: how each head is made, by name.
      tasks: what each of them learns.
      probe: gives arguments of the evaluation, inputs and variables, to run the backbone once on; it is asked only
        if neither the file nor shape inference knows how wide the cut is.
      distill: the old logits that training is to keep, one of the cuts.
      mixed: whether examples are mixed in training, so that one has a distribution of classes.
      precision: of the training step; the evaluation is always float32.
      xla: whether the training step is compiled with XLA.
      behind: the rest of `variants` behind what is computed once for each example, if the functions are to take that.

    Raises:
      UserError: the cut's width is unknown, no gradient reaches a variable, TensorFlow refuses the graph.
    """
    shapes = feature_shapes(variants.evaluation)
    if probe is not None and any(not shape or shape[-1] is None for shape in shapes.values()):
        shapes = _probed(variants, shapes, probe())
        variants = _with_shapes(variants, shapes)
    behind = variants if behind is None else _with_shapes(behind, shapes)
    said, joined = [], []
    for task in tasks:
        head = heads[task.name]
        flattening = flattening_of(shapes[task.cut], head.pool, maps=head.kind == "conv")
        said.append(f"{task.cut}, {flattening.said}")
        joined.append(_joined(task, head, flattening))
    trained = [_of_distributions(*pair) for pair in zip(joined, tasks, strict=True)] if mixed else list(joined)
    old = [_old_logits(distill, shapes)] if distill is not None else []
    return Model(
        grafts=tuple(joined),
        trained=(*trained, *old),
        shapes={at: shape or () for at, shape in shapes.items()},
        said="; ".join(dict.fromkeys(said)),
        inputs=variants.evaluation.inputs,
        variants=variants,
        behind=behind,
        precision=precision,
        xla=xla,
        **_judging(behind, joined, old),
        **_learning(behind, (*trained, *old), precision, xla),
    )


def _with_shapes(variants: Variants, shapes: Mapping[str, Shape | None]) -> Variants:
    training, evaluation = (replace(part, shapes=shapes) for part in (variants.training, variants.evaluation))
    return replace(variants, training=training, evaluation=evaluation)


def _judging(variants: Variants, joined: Sequence[Graft], old: Sequence[Graft]) -> dict[str, Any]:
    """The functions of a model that nothing learns from."""
    forward = forward_program(variants.evaluation, joined)
    outputs = [f"{new.scope}/{name}" for new in joined for name in (new.loss.output, "losses")]
    features = as_function(forward, [f"{new.scope}/features" for new in joined])
    return {
        "forward": with_adapters(as_function(forward, outputs), variants.adapters),
        "features": with_adapters(features, variants.adapters),
        "teacher": as_function(features_program(variants.evaluation), [f"features/{old[0].cut}"]) if old else None,
    }


def _joined(task: Task, head: Head, flattening: Flattening) -> Graft:
    words = flattening.width, task.outputs, head.hidden
    if is_path(head.kind):
        variables, apply = own_head(head.kind, "head.kind", *words)
    else:
        variables_of, apply = HEADS[head.kind]
        variables = variables_of(*words)
    lessened = objective(task.loss, task.outputs, head.label_smoothing, task.weights, head.focal)
    target = (tf.int64, (None,)) if task.is_exclusive else (tf.float32, (None, task.outputs))
    flat = partial(flatten, how=flattening.how)
    return Graft(
        task.name,
        variables,
        flat,
        apply,
        LOSSES[task.loss],
        lessened if head.objective is None else own_objective(head.objective, "head.objective"),
        target,
        head.weight,
        task.cut,
        head.dropout,
    )


def _of_distributions(graft: Graft, task: Task) -> Graft:
    return replace(graft, target=(tf.float32, (None, task.outputs)))


def _old_logits(distill: Distill, shapes: Mapping[str, Shape | None]) -> Graft:
    """What training does about the old logits, as a head without variables."""
    at = next(at for at in shapes if at == tensor_name(str(distill.tensor)))
    width = (shapes[at] or (None,))[-1]
    kept = distillation(distill.temperature)
    return Graft(
        OLD,
        {},
        partial(flatten, how="squeeze" if len(shapes[at] or ()) > 2 else "as_is"),
        lambda logits, _: logits,
        objective=kept,
        target=(tf.float32, (None, width)),
        weight=distill.weight,
        cut=at,
    )


def regraft(model: Model, variants: Variants, behind: Variants | None = None) -> Model:
    """The model with another part of it learning, and another rest behind what is kept: a step of its own.

    Raises:
      UserError: as `graft`.
    """
    variants = _of_one_shape(model, variants)
    rest = variants if behind is None else _with_shapes(behind, model.variants.evaluation.shapes)
    judging = {}
    if behind is not None or model.behind.evaluation is not model.variants.evaluation:
        judging = _judging(rest, model.grafts, [graft for graft in model.trained if graft.scope == OLD])
    learning = _learning(rest, model.trained, model.precision, model.xla)
    return replace(model, variants=variants, behind=rest, **judging, **learning)


def check_gradients(model: Model, variants: Variants) -> None:
    """Refuses what `regraft` would refuse, and compiles nothing.

    Raises:
      UserError: no gradient reaches a variable, TensorFlow refuses the graph.
    """
    _step(_of_one_shape(model, variants), model.trained, model.precision)


def _of_one_shape(model: Model, variants: Variants) -> Variants:
    """Other variants of the source, with what the model knows of the shapes of the cuts."""
    known = model.variants.evaluation
    return replace(variants, training=replace(variants.training, shapes=known.shapes), evaluation=known)


def _learning(variants: Variants, trained: Sequence[Graft], precision: str, xla: bool) -> dict[str, Any]:
    """The fields of a model that say what learns."""
    rates, step = _step(variants, trained, precision)
    low = None if precision == "float32" else lowered(step, precision)
    outputs = [name for name in step.outputs if not name.endswith("/logits")]
    function = as_function(low.program if low else step, outputs, xla, apart=True)
    rates = {name: rate for name, rate in rates.items() if f"gradient/{name}" in step.outputs}
    return {
        "step": with_adapters(function, variants.adapters),
        "first_nonfinite": lambda given: first_nonfinite(step, merged_arguments(variants.adapters, given)),
        "rates": {**rates, **{name: adapter.rate for adapter in variants.adapters for name in adapter.shapes}},
        "updated": frozenset(u.variable for u in variants.training.updates),
        "products": low.count if low else 0,
    }


def _step(variants: Variants, trained: Sequence[Graft], precision: str) -> tuple[dict[str, float], Program]:
    """The rates of all that is to learn by itself, and the program of a step."""
    rates = {**variants.rates(), **{name: 1.0 for new in trained for name in new.variables}}
    barriers = [b for b in variants.barriers if node_of(b) in variants.training.graph.nodes]
    asked = {fate.variable.name: fate.rule is not None for fate in variants.fates}
    asked |= {adapter.variable: True for adapter in variants.adapters}
    learning = {name: asked.get(name, True) for name in (*rates, *(a.variable for a in variants.adapters))}
    return rates, step_program(variants.training, trained, learning, barriers, is_scaled=precision == "mixed_float16")


def _probed(
    variants: Variants, known: Mapping[str, Shape | None], arguments: Mapping[str, Any]
) -> dict[str, Shape | None]:
    """The shape of each cut as one batch shows it: its rank and its last size; the others may vary."""
    features = as_function(features_program(variants.evaluation))(arguments)
    shapes: dict[str, Shape | None] = {}
    for at, shape in known.items():
        found = features[f"features/{at}"].shape.as_list()
        inner = shape[1:-1] if shape else (None,) * (len(found) - 2)
        shapes[at] = (None, *inner, found[-1])[: len(found)]
    return shapes


def pair_graph(source: Source, model: Model) -> Any:
    """The `MetaGraphDef` that is written back."""
    return make_pair_graph(
        source.meta,
        source.whole,
        source.inputs,
        mode_feeds(model.feeds, "eval"),
        source.updates,
        source.tables,
        source.variables,
        source.shapes,
        model.grafts,
        model.shapes,
    )
