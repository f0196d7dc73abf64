"""The setting of a run's engine: as it began, as the recipe has it, as it was measured before, or measured now."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune.calibrating.contest import SHARE, Ready, contest
from finetune.calibrating.machine import Machine, this_machine
from finetune.calibrating.process import Process
from finetune.calibrating.remembered import alone, file, key_of, recall, remember
from finetune.calibrating.setting import ONEDNN, THREADS, Choice, Setting, as_given, from_record
from finetune.calibrating.work import job, least_seconds, operations_of
from finetune.errors import printable
from finetune.examples.fields import as_rows
from finetune.graph import to_meta
from finetune.plan import Plan
from finetune.recipe import Recipe

LEAST = 20.0  # seconds that the processes take to start
BATCHES = 8  # that they compute together, at the least


def choose(recipe: Recipe, plan: Plan, recipe_yaml: str, record: Mapping[str, Any], may_measure: bool = True) -> Choice:
    """Decides before TensorFlow starts, which reads some settings only then.

    Args:
      record: the `run.json` of a run that goes on, whose engine stays what it was; empty at a beginning.
      may_measure: false where the run is not a whole one.
    """
    given = as_given(recipe)
    if record:
        recorded = from_record(record.get("engine")) or given  # a run that is older than its choice had none
        return _in_force(Choice(recorded, (f"engine: {recorded.words()}, as this run began",)))
    if "tensorflow" in sys.modules:
        return _in_force(Choice(given, (f"engine: {given.words()}",)))
    machine = this_machine()
    if recipe.engine.mode == "default" or not _open(recipe, plan, machine):
        return Choice(given, (f"engine: {given.words()}, as the recipe has it",))
    place, pays = file(), may_measure and _pays(recipe, plan, machine)
    short = f"engine: {given.words()} (the job is too short to measure others)"
    if not pays and not place.exists():
        return Choice(given, (short,))
    key = key_of(_about(recipe, plan, machine, given))
    known, wrong = recall(place, key)
    said = (wrong,) * bool(wrong)
    if known is not None:
        return _as_remembered(known)
    if not pays:
        return Choice(given, (*said, short))
    with alone(place, lambda: print("engine: another run is measuring; waiting for it", flush=True)):
        known, _ = recall(place, key)  # it may have been the same job, of a sweep
        if known is not None:
            return _as_remembered(known)
        print(printable(f"engine: measuring what is faster on {machine.processor}, for at most {SHARE:.0%} of the run"))
        with tempfile.TemporaryDirectory() as folder:
            asked = Path(folder) / "recipe.yaml"
            asked.write_text(recipe_yaml, encoding="utf-8")
            enter = partial(Process, words=[f"recipe={asked}"])
            choice = contest(enter, given, partial(_changes, _open(recipe, plan, machine), machine))
        wrong = remember(place, key, choice)
    return replace(choice, said=(*said, *choice.said, *(wrong,) * bool(wrong)))


def _as_remembered(known: Choice) -> Choice:
    return replace(known, said=(*(f"{line} (remembered)" for line in known.said[:1]), *known.said[1:]))


def _open(recipe: Recipe, plan: Plan, machine: Machine) -> list[str]:
    """What may be tried, for neither the recipe nor the environment says it, and this machine has it to be said."""
    on_cpu = not machine.gpus
    found = ["onednn"] * (recipe.engine.onednn is None and ONEDNN not in os.environ and on_cpu)
    if recipe.engine.threads is None and not any(name in os.environ for name in THREADS) and on_cpu:
        found += ["threads"] * bool(machine.threads())
    return found + ["xla"] * (recipe.train.xla is None and _is_of_one_shape(plan) and job(recipe, plan).steps > 0)


def _is_of_one_shape(plan: Plan) -> bool:
    """Whether all steps are alike: XLA compiles each shape and phase anew, and one is measured."""
    rows = [as_rows(field).shape for field in (plan.training.arrays or {}).values()]
    return len(plan.phases) == 1 and not any(shape[:1] == (None,) for shape in rows)


def _changes(left: Collection[str], machine: Machine, ready: Ready) -> Iterable[dict[str, Any]]:
    """What is tried, one after the other."""
    if "onednn" in left and not ready.gpus:
        yield {"onednn": not ready.onednn}
    if "threads" in left and not ready.gpus:
        yield from ({"threads": count} for count in machine.threads())
    if "xla" in left:
        yield {"xla": True}


def _pays(recipe: Recipe, plan: Plan, machine: Machine) -> bool:
    """Whether the job lasts so long, on the fastest of machines, that measuring takes no more than its share of it."""
    nodes, size = len(plan.phases[0].variants.evaluation.graph.nodes), recipe.train.batch_size
    words = operations_of(plan), nodes, size, machine.cores, len(machine.gpus)
    work = job(recipe, plan)
    few = replace(work, forwards=min(work.forwards, BATCHES), steps=min(work.steps, BATCHES))
    return SHARE * least_seconds(work, *words) >= LEAST + least_seconds(few, *words)


def _about(recipe: Recipe, plan: Plan, machine: Machine, given: Setting) -> dict[str, Any]:
    """All that a measurement depends on."""
    graphs = []
    for phase in plan.phases:
        for backbone in (phase.variants.training, phase.variants.evaluation):
            content = to_meta(backbone.graph).SerializeToString(deterministic=True)
            graphs.append(hashlib.sha256(content).hexdigest())
    return {
        "graphs": graphs,
        "cuts": plan.source.cuts,
        "rates": [sorted(phase.variants.rates().items()) for phase in plan.phases],
        "adapters": [sorted(adapter.variable for adapter in phase.variants.adapters) for phase in plan.phases],
        "sizes": [recipe.train.batch_size, plan.portion, recipe.data.image_size],
        "precision": recipe.train.precision,
        "left": _open(recipe, plan, machine),
        "given": [given.record(), {name: os.environ.get(name) for name in (ONEDNN, *THREADS)}],
        "machine": machine.record(),
        "tensorflow": metadata.version("tensorflow"),
    }


def _in_force(choice: Choice) -> Choice:
    """The choice, with a word where TensorFlow has been started otherwise, by a run before this one."""
    lacking = {name: text for name, text in choice.setting.environment().items() if os.environ.get(name) != text}
    if "tensorflow" not in sys.modules or not lacking:
        return choice
    changed = ", ".join(f"{name}={text}" for name, text in lacking.items())
    return replace(choice, said=(*choice.said, f"engine: too late for {changed}: TensorFlow runs already"))
