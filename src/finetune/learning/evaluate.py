"""A model's numbers on a set of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.learning.tasks import Task

# (inputs, targets) -> HEAD/probabilities or HEAD/values, and HEAD/losses
Forward = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """What one head said of every example, in the order of the examples."""

    task: Task
    targets: np.ndarray  # int64 [examples], or float32 [examples, outputs]
    outputs: np.ndarray  # float32 [examples, outputs]: probabilities, or values
    losses: np.ndarray  # float32 [examples]

    @property
    def predictions(self) -> np.ndarray:
        """The most probable class, int64 [examples]; all probable ones, bool [examples, classes]; or the values."""
        if self.task.is_exclusive:
            return self.outputs.argmax(axis=1)
        return self.outputs >= 0.5 if self.task.classes else self.outputs

    @property
    def is_right(self) -> np.ndarray:
        """Whether the prediction is the target, bool [examples]; of several classes, all of them. Not of numbers."""
        right = self.predictions == self.targets
        return right if self.task.is_exclusive else right.all(axis=1)

    def said(self, prediction: Any) -> str:
        """A target or prediction of one example in words."""
        if self.task.is_exclusive:
            return self.task.classes[int(prediction)]
        if self.task.classes:
            return ", ".join(name for name, there in zip(self.task.classes, prediction, strict=True) if there) or "none"
        return " ".join(f"{value:.4g}" for value in prediction)

    def metrics(self) -> dict[str, float]:
        """The numbers that are logged; the loss is summed in float64."""
        found = {"loss": float(np.mean(self.losses, dtype=np.float64))}
        if self.task.classes:
            return {**found, "accuracy": float(np.mean(self.is_right))}
        return {**found, "mae": float(np.mean(np.abs(self.outputs - self.targets), dtype=np.float64))}


def evaluate(
    forward: Forward,
    batches: Iterable[tuple[Mapping[str, Any], Mapping[str, Any], Any]],
    tasks: Sequence[Task],
    count: int,
) -> dict[str, Evaluation]:
    """Runs every batch forward once; what comes after the first `count` examples only fills up the last batch."""
    columns: dict[str, list[list[Any]]] = {task.name: [] for task in tasks}
    for inputs, targets, _ in batches:
        found = forward(inputs, targets)
        for task in tasks:
            outputs = found[f"{task.name}/{'probabilities' if task.classes else 'values'}"]
            columns[task.name].append([t.numpy() for t in (targets[task.name], outputs, found[f"{task.name}/losses"])])
    return {
        task.name: Evaluation(task, *(np.concatenate(c)[:count] for c in zip(*columns[task.name], strict=True)))
        for task in tasks
    }


def metrics(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """The metrics of one head as they are; of several with the name of each before them, and the sum of the losses."""
    if len(evaluations) == 1:
        return next(iter(evaluations.values())).metrics()
    found = {f"{name}/{key}": value for name, e in evaluations.items() for key, value in e.metrics().items()}
    return {"loss": sum(value for key, value in found.items() if key.endswith("/loss")), **found}


def measured(tasks: Sequence[Task]) -> list[str]:
    """The names of the metrics that an evaluation gives."""
    nothing = {task.name: np.zeros((1, task.outputs), np.float32) for task in tasks}
    targets = {task.name: np.zeros(1, np.int64) if task.is_exclusive else nothing[task.name] for task in tasks}
    zero = np.zeros(1, np.float32)
    return list(metrics({t.name: Evaluation(t, targets[t.name], nothing[t.name], zero) for t in tasks}))
