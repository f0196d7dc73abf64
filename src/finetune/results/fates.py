"""What becomes of each variable: which learn and how strongly, in words and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune.engine.graft import Model
from finetune.learning.course import Phase, Standing
from finetune.plan import Plan
from finetune.surgery import freeze
from finetune.surgery.freeze import Fate
from finetune.surgery.source import Source


def variable_table(rows: Iterable[tuple[str, Sequence[int], str]]) -> list[str]:
    """Lines that say of every variable what it is and what becomes of it."""
    shown = [(name, "×".join(map(str, shape)) or "scalar", why) for name, shape, why in rows]
    widths = [max((len(row[i]) for row in shown), default=0) for i in (0, 1)]
    return [f"  {name:<{widths[0]}}  {shape:>{widths[1]}}  {why}" for name, shape, why in shown]


def variable_rows(source: Source, model: Model) -> Sequence[tuple[str, Sequence[int], str]]:
    """Name, shape and fate of each variable that the model has."""
    rows = [(f.variable.name, source.shapes[f.variable.name], told(f, model)) for f in model.variants.fates]
    rows += [(name, shape, _told_new(a.rate, "lora")) for a in model.adapters for name, shape in a.shapes.items()]
    rows += [(name, shape, _told_new(1.0, "new")) for name, shape in model.new_variables.items()]
    return rows


def _told_new(rate: float, kind: str) -> str:
    return f"learns ({kind})" if rate == 1.0 else f"learns ({kind}), rate × {rate:.4g}"


def told(fate: Fate, model: Model) -> str:
    """What becomes of a variable of the source's, and why."""
    if _rate(fate, model) != fate.rate:
        return freeze.UNREACHED
    return fate.why if fate.rate in (0.0, 1.0) else f"{fate.why}, rate × {fate.rate:.4g}"


def _rate(fate: Fate, model: Model) -> float:
    return fate.rate if fate.variable.name in {*model.rates, *model.updated} else 0.0


def variable_record(plan: Plan, model: Model) -> dict[str, Any]:
    """The table of variables for programs.

    `variables` has, by name: shape; `key` in the checkpoint, None where it lacks the variable; `start`; the `rate` at
    which it learns, 0 for frozen; and what decided that: `rule`, `barriers`, and `why` in words.
    """
    start = plan.source.start
    below = {
        fate.variable.name: {
            "shape": start.shapes[fate.variable.name],
            "key": start.keys.get(fate.variable.name),
            "start": plan.source.first_value(fate.variable.name),
            "rate": _rate(fate, model),
            "rule": fate.rule,
            "barriers": fate.barriers,
            "why": told(fate, model),
        }
        for fate in model.variants.fates
    }
    new = {
        name: {
            "shape": shape,
            "key": None,
            "start": "new",
            "rate": model.rates[name],
            "rule": None,
            "barriers": (),
            "why": "learns",
        }
        for name, shape in {**model.small_variables, **model.new_variables}.items()
    }
    return {"variables": {**below, **new}, "not_below_the_cut": plan.source.above}


def phase_lines(plan: Plan, model: Model, phase: Phase, standing: Standing) -> list[str]:
    """What learns from now on; nothing where the run has only one part."""
    if not phase.name:
        return []
    began, train, rates = standing.began[-1], phase.train, sorted(set(model.rates.values()))
    shapes = {**plan.source.shapes, **model.new_variables, **model.small_variables}
    learning = [math.prod(shapes[name]) for name in {*model.rates, *model.updated}]
    times = f" × {rates[0]:g} to {rates[-1]:g}" if len(rates) > 1 else f" × {rates[0]:g}" * (rates[0] != 1)
    falling = "" if train.schedule == "constant" else f", {train.schedule}"
    ends = [f"step {phase.last}"] if phase.last is not None else []
    ends += [f"{phase.patience} evaluations without a better {phase.metric}"] if phase.patience is not None else []
    until = f", until {' or '.join(ends)}" if ends else ", to the end"
    return [
        f"phase: {phase.name} ({standing.number + 1} of {len(plan.phases)}, after step {began}): "
        f"{len(learning)} variables learn, {sum(learning):,} values, by {train.optimizer} "
        f"at {train.learning_rate:g}{times}{falling}{until}"
    ]


def phase_record(
    record: Mapping[str, Any], plan: Plan, model: Model, phase: Phase, standing: Standing
) -> dict[str, Any]:
    """What programs may know of the phases so far: after which step each began, and which variables learn at what rate.

    Nothing where the run has only one part.
    """
    if not phase.name:
        return {}
    begun = [other.name for other in plan.phases[: standing.number]]
    earlier = {name: entry for name, entry in record.get("phases", {}).items() if name in begun}
    now = {"began": standing.began[-1], "learns": dict(model.rates), "updated": sorted(model.updated)}
    return {**variable_record(plan, model), "phases": {**earlier, phase.name: now}}
