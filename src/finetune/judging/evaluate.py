"""A model's numbers on a set of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.examples.tasks import Task
from finetune.judging.metrics import chosen, measure

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

    def metrics(self, names: Sequence[str] = ()) -> dict[str, float]:
        """The numbers that are logged: the loss, summed in float64, and those of the metrics that the head has."""
        loss = self.task.loss
        found = {name: measure(name, loss, self.targets, self.outputs) for name in chosen(names, loss)}
        return {"loss": float(np.mean(self.losses, dtype=np.float64)), **found}


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


def losses_of(found: Mapping[str, Any], tasks: Sequence[Task]) -> np.ndarray:
    """The loss of each example over all heads, in what a forward pass gives: float32 [examples]."""
    return np.sum([found[f"{task.name}/losses"].numpy() for task in tasks], axis=0)


def metrics(evaluations: Mapping[str, Evaluation], names: Sequence[str] = ()) -> dict[str, float]:
    """The metrics of one head as they are; of several with their names before them, and the weighed sum of losses."""
    found = by_head({name: evaluation.metrics(names) for name, evaluation in evaluations.items()})
    if len(evaluations) == 1:
        return found
    return {"loss": sum(e.task.weight * found[f"{name}/loss"] for name, e in evaluations.items()), **found}


def measured(tasks: Sequence[Task], names: Sequence[str] = ()) -> list[str]:
    """The names of the metrics that an evaluation gives."""
    found = list(by_head({task.name: dict.fromkeys(["loss", *chosen(names, task.loss)], 0.0) for task in tasks}))
    return found if len(tasks) == 1 else ["loss", *found]


def by_head(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of all heads in one mapping, as they are logged."""
    if len(found) == 1:
        return dict(next(iter(found.values())))
    return {f"{head}/{key}": value for head, values in found.items() for key, value in values.items()}
