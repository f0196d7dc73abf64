"""The numbers of a run over its steps, as small figures: each measure in training and on the held-out examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.errors import UserError
from finetune.learning.monitor import goal_of
from finetune.pages.axes import exact
from finetune.pages.markup import Markup, tag
from finetune.pages.plots import Level, Mark, Series, chart
from finetune.results.run_files import RunFiles

_NO_MEASURES = ("step", "phase", "part", "examples", "examples_per_second", "learning_rate")
_LAST = "gradient_norm"
_UNTRAINED = "untrained head"  # step 0 has it


def curves(run: RunFiles) -> Markup | None:
    """All figures of a run; None where nothing has been logged."""
    train, held = run.of_phase("train"), run.of_phase("eval")
    names = [name for entry in [*held[:1], *train[:1]] for name in entry if name not in _NO_MEASURES]
    figures = [_figure(run, name) for name in sorted(dict.fromkeys(names), key=lambda name: name == _LAST)]
    rates = _rates(run, train)
    changing = {rate for _, rate in rates}
    if len(changing) > 1:
        series = [Series("", rates, "train")]
        figures.append(chart("learning rate", series, "step", marks=_phases(run), may_be_log=True))
    if not any(figures):
        return None
    best = " The ring is the best evaluation." if best_of(run) else ""
    rate = f" The learning rate is {changing.pop():g} throughout." if len(changing) == 1 else ""
    dots = " With dots: the held-out examples." if held else ""
    told = f"Dashed: the training batches.{dots}{best}{rate}"
    return tag(
        "section",
        tag("h2", "Curves", id="curves"),
        tag("p", told, class_="grey"),
        tag("div", figures, class_="figures"),
    )


def _figure(run: RunFiles, name: str) -> Markup:
    series = [
        Series("training", points(run.of_phase("train"), name), "train"),
        Series("held out", points(run.of_phase("eval"), name), "held", has_dots=True),
    ]
    best = best_of(run)
    marks = _phases(run)
    if best is not None and best["metric"] == name:
        marks.append(Mark(f"best {best['value']:.4g}", best["step"], best["value"], "best"))
    levels = [Level(f"{kind} {exact(found)}", found) for kind, found in _baselines(run, name).items()]
    return chart(name, series, "step", levels=levels, marks=marks, may_be_log=True)


def points(entries: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) of what was logged under a name."""
    return [(float(entry["step"]), float(entry[name])) for entry in entries if entry.get(name) is not None]


def _baselines(run: RunFiles, name: str) -> dict[str, float]:
    heads = run.evaluation.get("heads", {})
    for head, found in heads.items():
        metric = name.removeprefix(f"{head}/") if len(heads) > 1 else name
        if len(heads) == 1 or name.startswith(f"{head}/"):
            named = {kind: values.get(metric) for kind, values in found["baselines"].items() if kind != _UNTRAINED}
            return {kind: value for kind, value in named.items() if value is not None and math.isfinite(value)}
    return {}


def best_of(run: RunFiles) -> Mapping[str, Any] | None:
    """The best evaluation so far: its step, metric and value."""
    if run.is_finished:
        return run.record.get("best")
    metric = run.recipe.get("eval.metric", "loss")
    held = [(step, value) for step, value in points(run.of_phase("eval"), metric) if step and math.isfinite(value)]
    try:
        sign = 1 if goal_of(metric, run.recipe.get("eval.goal")) == "min" else -1
    except UserError:  # of a name that says nothing
        return None
    if not held:
        return None
    step, value = min(held, key=lambda point: sign * point[1])
    return {"step": round(step), "metric": metric, "value": value}


def _phases(run: RunFiles) -> list[Mark]:
    return [Mark(name, float(found["began"])) for name, found in run.record.get("phases", {}).items()]


def _rates(run: RunFiles, train: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(step, learning rate): what was logged where it changes, and elsewhere what the recipe says."""
    of_part = {phase["name"]: phase.get("learning_rate") for phase in run.recipe.get("phases") or []}
    always = run.recipe.get("train.learning_rate")
    told = [
        (float(entry["step"]), entry.get("learning_rate") or of_part.get(entry.get("part")) or always)
        for entry in train
    ]
    return [(step, float(rate)) for step, rate in told if rate is not None]
