"""What was found on the held-out examples: `evaluation.json` and `predictions.csv` in the run folder.

`evaluation.json` holds plain numbers, lists and text; what is not known, or makes no sense for a head, is null.

    step, examples, confidence   of the model, the number held out, and the level of the intervals
    old_head                     null, or {tensor, examples, difference, divergence, agreement}, as a Drift has them
    heads.HEAD                   one for each head:
      loss, classes, main        its loss, its classes in order ([] for numbers), the metric to remember
      metrics.NAME               {value, low, high}: `loss` first, then those asked for
      baselines.NAME             {METRIC: value} of `majority class` (`class frequencies` where an example has any
                                 number of classes, `mean` of numbers), `untrained head` and `linear probe`
      by_class                   [{class, precision, recall, f1, support}]
      confusion                  rows are what is, columns what it is taken for; one class an example, up to 200 classes
      mistakes                   [{is, taken_for, examples}], the most frequent ones; one class an example
      calibration                bins of probability, [{from, to, examples, confidence, right}]; empty ones are left out
      curves.CLASS               [{threshold, recall, false_positive_rate, precision}], at most 200 of them; of the
                                 second of two classes, or of each where an example has any number of them. Recall over
                                 false positive rate is the ROC curve. Null where all examples are of the class or none
      pairs                      numbers: for each output [[what is, what was said]], at most 200 of them

`predictions.csv` has a line for each held-out example: `id` (file or row), and of each head `label`, `prediction`,
`probability` (of the prediction, or of every class in order; none for numbers) and `loss`, with `HEAD/` before them if
there are several heads.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from finetune.judging import curves
from finetune.judging.baselines import CONSTANT, PROBE, constant
from finetune.judging.drift import Drift
from finetune.judging.evaluate import Evaluation
from finetune.judging.intervals import LEVEL, Interval, interval, interval_of_mean
from finetune.judging.metrics import LESS_IS_BETTER, chosen, find, measure
from finetune.results.checkpoints import write_text

EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.csv"
EARLIER = {"untrained head": "eval", PROBE: "probe"}  # baselines, and the phase in which step 0 logs their metrics
WIDEST = 200  # classes of a confusion matrix

Earlier = Mapping[str, Mapping[str, Any]]  # name of a baseline -> metrics as they were logged


def judge(evaluations: Mapping[str, Evaluation], names: Sequence[str], seed: int, earlier: Earlier) -> dict[str, Any]:
    """What `evaluation.json` says of each head, by its name.

    Args:
      names: of the metrics, none for the usual ones.
      seed: of the bootstrap.
      earlier: baselines that were evaluated before the first step.
    """
    several = len(evaluations) > 1
    return {
        head: {
            "loss": found.task.loss,
            "classes": list(found.task.classes),
            "main": chosen(names, found.task.loss)[0],
            "metrics": _metrics(found, names, seed),
            "baselines": _baselines(found, names, earlier, f"{head}/" if several else ""),
            **_drawn(found),
        }
        for head, found in evaluations.items()
    }


def _metrics(found: Evaluation, names: Sequence[str], seed: int) -> dict[str, Any]:
    values = found.metrics(names)
    ranges = {"loss": interval_of_mean(found.losses.astype(np.float64), seed)}
    for name in chosen(names, found.task.loss):
        metric = find(name, found.task.loss)
        ranges[name] = None if metric is None else interval(metric, found.targets, found.outputs, seed)
    return {name: {"value": value, **_ends(ranges[name])} for name, value in values.items()}


def _ends(found: Interval | None) -> dict[str, float | None]:
    return dict(zip(("low", "high"), found or (None, None), strict=True))


def _baselines(found: Evaluation, names: Sequence[str], earlier: Earlier, prefix: str) -> dict[str, dict[str, float]]:
    task = found.task
    wanted = chosen(names, task.loss)
    guess = constant(found.targets, task.outputs)
    baselines = {CONSTANT.get(task.loss, "mean"): {n: measure(n, task.loss, found.targets, guess) for n in wanted}}
    for name, logged in earlier.items():
        if there := {metric: logged[prefix + metric] for metric in wanted if prefix + metric in logged}:
            baselines[name] = there
    return baselines


def _drawn(found: Evaluation) -> dict[str, Any]:
    """Tables and curves; none of outputs that are no numbers."""
    task, targets, outputs = found.task, found.targets, found.outputs.astype(np.float64)
    drawn: dict[str, Any] = {
        "by_class": None,
        "confusion": None,
        "mistakes": None,
        "calibration": None,
        "curves": None,
        "pairs": None,
    }
    if not np.isfinite(outputs).all():
        return drawn
    if not task.classes:
        return {**drawn, "pairs": curves.pairs(targets, outputs)}
    hot = np.eye(task.outputs, dtype=bool)
    there, said = (hot[targets], hot[found.predictions]) if task.is_exclusive else (targets > 0, found.predictions)
    drawn["by_class"] = curves.by_class(there, said, task.classes)
    drawn["calibration"] = curves.reliability(targets, outputs)
    if task.is_exclusive:
        matrix = curves.confusion(targets, found.predictions, task.outputs)
        drawn["mistakes"] = curves.mistakes(matrix, task.classes)
        drawn["confusion"] = matrix.tolist() if task.outputs <= WIDEST else None
    shown = () if task.is_exclusive and task.outputs != 2 else range(1 if task.is_exclusive else 0, task.outputs)
    drawn["curves"] = {task.classes[i]: curves.thresholds(there[:, i], outputs[:, i]) for i in shown}
    return drawn


def sentence(heads: Mapping[str, Mapping[str, Any]], examples: int, steps: int) -> str:
    """The one sentence to remember, with what it has to be compared with."""
    if not heads:
        return f"trained for {steps} steps; nothing was held out to evaluate on"
    told = []
    for name, head in heads.items():
        main = head["main"]
        beside = [f"{n} {values[main]:.3f}" for n, values in head["baselines"].items() if main in values]
        where = f" on {examples} held-out examples" if not told else ""
        named = f"{name}: " if len(heads) > 1 else ""
        told.append(f"{named}{main} {_shown(head['metrics'][main])}{where} ({', '.join(beside)})")
    return "; ".join(told)


def _shown(metric: Mapping[str, float | None]) -> str:
    value, low, high = (metric[key] for key in ("value", "low", "high"))
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f}, {LEVEL * 100:.0f} %)"


def hints(heads: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines about heads that a linear probe of the pretrained features beats by more than chance."""
    lines = []
    for name, head in heads.items():
        main, probe = head["main"], head["baselines"].get(PROBE, {})
        low, high = head["metrics"][main]["low"], head["metrics"][main]["high"]
        if low is None or main not in probe:
            continue
        if probe[main] < low if main in LESS_IS_BETTER else probe[main] > high:
            what = f"{main} {head['metrics'][main]['value']:.3f} is worse than the linear probe's {probe[main]:.3f}"
            lines.append(f"hint: {name}: {what}; train longer, or change train.learning_rate")
    return lines


def intervals(heads: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """The ends of the intervals by metric, as metrics are named in the log."""
    named = {head: f"{head}/" if len(heads) > 1 else "" for head in heads}
    return {
        f"{named[head]}{name}": [metric["low"], metric["high"]]
        for head, found in heads.items()
        for name, metric in found["metrics"].items()
        if metric["low"] is not None
    }


def content(
    step: int, heads: Mapping[str, Any], sources: Sequence[str], old_head: Drift | None = None
) -> dict[str, Any]:
    """What `evaluation.json` says; `sources` are the names of the held-out examples."""
    said = {
        "step": step,
        "examples": len(sources),
        "confidence": LEVEL,
        "heads": heads,
        "old_head": None if old_head is None else asdict(old_head),
    }
    return _plain(said)


def write(folder: Path, said: Mapping[str, Any], evaluations: Mapping[str, Evaluation], sources: Sequence[str]) -> None:
    """Writes both files, if anything was held out."""
    if not evaluations:
        return
    write_text(folder / EVALUATION, json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / PREDICTIONS, table(evaluations, sources))


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(evaluations: Mapping[str, Evaluation], sources: Sequence[str]) -> str:
    """The text of `predictions.csv`."""
    named = {head: f"{head}/" if len(evaluations) > 1 else "" for head in evaluations}
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["id", *(named[h] + c for h in evaluations for c in ("label", "prediction", "probability", "loss"))])
    columns = [list(column) for found in evaluations.values() for column in _columns(found)]
    lines.writerows(zip(sources, *columns, strict=True))
    return text.getvalue()


def _columns(found: Evaluation) -> Sequence[Sequence[Any]]:
    losses = [f"{loss:.6g}" for loss in found.losses]
    said = [found.said(p) for p in found.predictions]
    return [found.said(t) for t in found.targets], said, probabilities(found), losses


def probabilities(found: Evaluation) -> list[str]:
    """Of each prediction, or of every class in order where an example has any number of them; nothing of numbers."""
    if found.task.is_exclusive:
        return [f"{p:.6g}" for p in found.outputs.max(axis=1)]
    if found.task.classes:
        return [" ".join(f"{p:.6g}" for p in row) for row in found.outputs]
    return [""] * len(found.outputs)
