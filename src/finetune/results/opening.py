"""The first lines of a run: where it begins, and what is known before the first step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune.engine.graft import Model
from finetune.engine.proof import Proof
from finetune.errors import shortlist
from finetune.examples.tasks import Task
from finetune.plan import Plan
from finetune.reading import metagraph
from finetune.recipe import Train
from finetune.results.checkpoints import Loaded
from finetune.results.fates import variable_rows, variable_table
from finetune.results.report import passed_over
from finetune.start import Started
from finetune.surgery.source import Source


def first_line(folder: Path, prefix: str, stem: str, saved: Loaded | None) -> str:
    """Whether this is a beginning or a continuation, and of what."""
    if saved is None:
        return f"init: {folder} begins at step 0 with the weights of {prefix}"
    return f"resume: {folder} goes on after step {saved.step}, from checkpoints/{stem}-{saved.step}"


def lines(plan: Plan, model: Model, saved: Loaded | None, started: Started, proof: Proof | None) -> list[str]:
    """What is known before the first step: source, cut, what learns, and the examples."""
    source = plan.source
    feeds = [f"{tensor}={shown(value)}" for tensor, value in model.feeds.items()]
    return [
        *(passed_over(saved) if saved else []),
        f"device: {started.device}",
        *started.engine.said,
        f"source: {source.pair.name}, written by TensorFlow {metagraph.producer(source.meta)}; "
        f"{len(source.below.nodes)} of {len(source.whole.nodes)} nodes are below the cut",
        *([_where_weights_lie(source)] if source.pair.is_one_file else []),
        *_weights(source),
        f"cut: {model.said}",
        *([f"feeds: {', '.join(feeds)}"] if feeds else []),
        *([f"bypassed: Print and Assert nodes {shortlist(list(source.bypassed))}"] if source.bypassed else []),
        "variables:",
        *variable_table(variable_rows(source, model)),
        *([f"  not below the cut: {shortlist(list(source.above))}"] if source.above else []),
        *([_adapted(source, model)] if model.adapters else []),
        f"data: {len(plan.training)} examples to train on ({'; '.join(_learnt(plan, task) for task in plan.tasks)}), "
        f"{len(plan.held_out)} held out",
        *(proof.lines(shortlist(list(source.cuts))) if proof else []),
    ]


def numerics(train: Train, model: Model, averages: int, started: Started) -> list[str]:
    """How a step computes, where that is not the usual way."""
    said = []
    if train.accumulate > 1:
        said.append(
            f"step: {train.accumulate} portions of {train.batch_size // train.accumulate} examples, one after the other"
        )
    if train.ema is not None:
        said.append(
            f"averages: evaluation and the written pair take moving averages of {averages} variables "
            f"(decay {train.ema:g}); checkpoints hold both"
        )
    if train.precision != "float32":
        kind = train.precision.removeprefix("mixed_")
        done = f"{model.products} products and convolutions of a step are {kind}, all else and evaluation float32"
        slow = "; most CPUs compute them several times slower" if started.device.startswith("cpu") else ""
        none = f"a step has no product or convolution that could be {kind}"
        said.append(f"precision: {done + slow if model.products else none}")
    if train.xla:
        said.append("xla: the step is compiled before it first runs; its random numbers are not those without XLA")
    return said


def _adapted(source: Source, model: Model) -> str:
    """How much of all there is learns, where small matrices do."""
    shapes = {**source.shapes, **model.small_variables, **model.new_variables}
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    learning = sum(counts[name] for name in model.rates)
    many = f"{len(model.adapters)} matrices" if len(model.adapters) > 1 else "1 matrix"
    return f"lora: {many}, {learning:,} of {sum(counts.values()):,} parameters learn"


def _learnt(plan: Plan, task: Task) -> str:
    """What a head has to learn from: how many examples of each class, or the range of the numbers."""
    targets = plan.training.targets[task.name]
    named = f"{task.name}: " if len(plan.tasks) > 1 else ""
    if not task.classes:
        return f"{named}{task.outputs} numbers from {targets.min():.4g} to {targets.max():.4g}"
    counts = np.bincount(targets, minlength=task.outputs) if task.is_exclusive else targets.sum(axis=0)
    return named + ", ".join(f"{name} {count:.0f}" for name, count in list(zip(task.classes, counts, strict=True))[:10])


def _where_weights_lie(source: Source) -> str:
    if metagraph.is_frozen(source.pair.meta):
        return "no checkpoint: the weights are constants of the frozen graph"
    return f"no checkpoint lies beside {source.pair.name}: the weights are the constants that variables start from"


def _weights(source: Source) -> list[str]:
    """Where the variables start from."""
    start, all_of_them = source.start, len(source.variables)
    count = sum(math.prod(start.shapes[name]) for name in start.keys)
    said = [
        f"weights: {len(start.keys)} of {all_of_them} variables found, {count:,} values; "
        f"{source.unused_keys} other tensors of the checkpoint are not needed"
    ]
    if start.averaged:
        said.append(f"averages: {len(start.averaged)} of {all_of_them} variables start from their moving averages")
    if start.missing:
        anew = [f"{name} ({source.first_value(name)})" for name in start.missing]
        said.append(f"missing: the checkpoint lacks {shortlist(anew)}, as source.allow_missing allows")
    return said


def shown(value: Any) -> str:
    """What a mode feed is fed: one value, or one for each mode."""
    if isinstance(value, Mapping) and len(set(value.values())) > 1:
        return " / ".join(f"{v} in {k}" for k, v in value.items())
    return str(next(iter(value.values())) if isinstance(value, Mapping) else value)
