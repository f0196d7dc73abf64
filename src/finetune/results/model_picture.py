"""The grafted model as a picture: its layers, what learns, and where the barriers are."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from finetune.engine.graft import Model
from finetune.examples.tasks import Task
from finetune.inspecting import layers
from finetune.inspecting.picture import Caption, counted, draw, note
from finetune.inspecting.repeats import short
from finetune.names import node_of
from finetune.plan import Plan
from finetune.results.fates import told
from finetune.results.opening import shown


def picture(plan: Plan, model: Model) -> str:
    """The layers of the grafted model, what learns and where the barriers are, as an SVG file."""
    source = plan.source
    reached = {*model.rates, *model.updated}
    beside = {adapter.variable: adapter.rate for adapter in model.adapters}  # what the written pair has changed
    fates = [
        f if f.variable.name in reached else replace(f, rate=beside.get(f.variable.name, 0.0), why=told(f, model))
        for f in model.variants.fates
    ]
    inputs = list(source.inputs.values())
    drawn = layers.diagram(source.below, source.cut, inputs, fates, source.shapes, model.variants.barriers)
    heads = {task.name: f"{task.name}: {plan.heads[task.name].kind} → {_outputs(task)}" for task in plan.tasks}
    above = [graft for graft in model.grafts if graft.cut == source.cut]
    on_others = {node_of(g.cut): f"and a new head, {heads[g.scope]}" for g in model.grafts if g not in above}
    boxes = (replace(box, marks=(*box.marks, *_found(on_others, box.nodes))) for box in drawn.boxes)
    drawn = replace(drawn, boxes=tuple(boxes))
    given = next((s.partition(", ")[2] for s in model.said.split("; ") if s.startswith(f"{source.cut}, ")), "")
    feeds = [f"{tensor} = {shown(value)}" for tensor, value in model.feeds.items()]
    caption = Caption(
        title=f"{source.pair.name} cut at {source.cut}",
        lines=[f"feeds: {'; '.join(feeds)}"] if feeds else [],
        cut=source.cut,
        given=given,
        head=[
            *(heads[graft.scope] for graft in above),
            f"{counted(sum(math.prod(shape) for graft in above for shape in graft.variables.values()))} · learns (new)",
        ],
        barred=source.cut in model.variants.barriers,
        note=note(layers.unneeded(source.whole, source.below), len(source.whole.nodes)),
    )
    return draw(short(drawn), caption)


def _found(marks: Mapping[str, str], nodes: Collection[str]) -> list[str]:
    return [mark for node, mark in marks.items() if node in nodes]


def _outputs(task: Task) -> str:
    return f"{task.outputs} {'class' if task.classes else 'number'}{'es' if task.classes else 's' * (task.outputs > 1)}"
