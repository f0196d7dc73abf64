"""What each head learns: from which column of the examples, towards which targets.

Nothing here imports TensorFlow, so that wrong labels are refused at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.errors import UserError, shortlist
from finetune.examples.data import Examples
from finetune.names import did_you_mean
from finetune.recipe import Head

TEXT = "OU"  # kinds of columns of names

ONE_CLASS = ("softmax",)  # losses whose examples have one class each
MANY_CLASSES = ("sigmoid",)  # any number of classes each
NUMBERS = ("squared", "absolute", "huber")  # numbers instead of classes


@dataclass(frozen=True)
class Task:
    """What one head learns.

    `classes` are the names of the classes, in the order of the outputs; there are none where numbers are learnt.
    `cut` is the tensor that the head stands on, `column` the column of the examples that it learns.
    """

    name: str
    cut: str
    column: str
    loss: str
    classes: tuple[str, ...]
    outputs: int
    weight: float = 1.0  # what it counts for in the loss of all heads
    weights: tuple[float, ...] = ()  # what the examples of each class count in training; all the same if empty

    @property
    def is_exclusive(self) -> bool:
        """Whether each example has exactly one class."""
        return self.loss in ONE_CLASS


def make_task(
    name: str,
    head: Head,
    cut: str,
    column: str,
    examples: Examples,
    where: str = "data.path",
    names: Sequence[str] = (),
) -> Task:
    """The task of a head, as its words and the training examples settle it.

    Args:
      names: those of the classes in their order, where the recipe gives them.

    Raises:
      UserError: they do not agree.
    """
    values = examples.columns[column]
    if head.loss in NUMBERS:
        return Task(name, cut, column, head.loss, (), _numbers(values, column).shape[1], head.weight)
    if head.loss in MANY_CLASSES:
        classes = _many_classes(values, column)
    elif values.dtype.kind in TEXT:
        classes = tuple(sorted(set(values.tolist())))
    else:
        classes = _numbered(values, head.classes or len(names) or None, len(examples), where)
    if names:
        classes = _named(classes, names, is_text=values.dtype.kind == "O")
    if head.classes not in (None, len(classes)):
        what = f"the recipe says {head.classes}, the data has {len(classes)}: {shortlist(list(classes))}"
        raise UserError("recipe", "head.classes", what, f"set head.classes={len(classes)} or leave it out")
    return Task(name, cut, column, head.loss, classes, len(classes), head.weight)


def _named(there: Sequence[str], names: Sequence[str], is_text: bool) -> tuple[str, ...]:
    """The classes as the recipe names them; numbered ones take the names in their order."""
    if is_text and (strange := [name for name in there if name not in names]):
        guess = did_you_mean(strange[0], names) or f"it has {shortlist(list(names))}"
        raise UserError("recipe", "data.classes", f"the data has a class that it has not: {strange[0]}", guess)
    if not is_text and len(names) != len(there):
        what = f"it names {len(names)}, there are {len(there)}"
        raise UserError("recipe", "data.classes", what, "name each, in the order of the numbers")
    return tuple(names)


def with_targets(examples: Examples, tasks: Sequence[Task], where: str = "data.path") -> Examples:
    """The examples with what each head is to learn: int64 [examples] for one class, else float32 [examples, outputs].

    Raises:
      UserError: labels that the task does not know; the message says which and in which row.
    """
    return replace(examples, targets={task.name: target(task, examples.columns[task.column], where) for task in tasks})


def target(task: Task, values: np.ndarray, where: str) -> np.ndarray:
    """The target of every example."""
    if task.loss in NUMBERS:
        found = _numbers(values, task.column)
    elif task.loss in MANY_CLASSES:
        found = _hot(values, task, where) if values.dtype.kind in TEXT else _numbers(values, task.column)
    elif values.dtype.kind in TEXT:
        return _places(values, task, where)
    else:
        _refuse_outside(values, task.outputs, where)
        return values.astype(np.int64, copy=False)
    if found.shape[1] != task.outputs:
        what = f"'{task.column}' has {found.shape[1]} values a row, training has {task.outputs}"
        raise UserError("data", where, what, "give both the same")
    return found


def weighed(task: Task, wanted: Any, targets: np.ndarray, key: str) -> Task:
    """The task with its class weights.

    Args:
      wanted: None, "balanced", or a weight for each class by name; those not named count 1. Balanced weights are
        examples / (classes * examples of the class), as scikit-learn has them; of classes by themselves, how many
        examples are not of the class for one that is.

    Raises:
      UserError: a name that is no class.
    """
    if not wanted:
        return task
    if wanted == "balanced":
        if task.is_exclusive:
            counts = np.bincount(targets, minlength=task.outputs)
            weights = len(targets) / (task.outputs * np.maximum(counts, 1))
        else:
            weights = (len(targets) - targets.sum(axis=0)) / np.maximum(targets.sum(axis=0), 1)
        return replace(task, weights=tuple(map(float, weights)))
    named = {str(name): float(weight) for name, weight in wanted.items()}
    if strange := [name for name in named if name not in task.classes]:
        guess = did_you_mean(strange[0], task.classes) or f"the classes are {shortlist(list(task.classes))}"
        raise UserError("recipe", key, f"there is no class '{strange[0]}'", guess)
    return replace(task, weights=tuple(named.get(name, 1.0) for name in task.classes))


def _numbered(labels: np.ndarray, wanted: int | None, rows: int, where: str) -> tuple[str, ...]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        what = f"labels are {labels.dtype} {list(labels.shape)}"
        raise UserError("data", "data.labels", what, "give one integer per row")
    if wanted is None and labels.max() >= rows:
        row = int(labels.argmax())
        what = f"label {labels[row]} in row {row} makes more classes than there are rows"
        raise UserError("data", where, what, "number the classes from 0, or give head.classes")
    count = wanted if wanted is not None else max(2, int(labels.max()) + 1)
    return tuple(str(i) for i in range(count))


def _refuse_outside(labels: np.ndarray, count: int, where: str) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        what = f"labels are {labels.dtype} {list(labels.shape)}"
        raise UserError("data", "data.labels", what, "give one integer per row")
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if wrong.size:
        what = f"label {labels[wrong[0]]} in row {wrong[0]} is not within 0..{count - 1} ({wrong.size} such rows)"
        raise UserError("data", where, what, f"head.classes is {count}")


def _places(values: np.ndarray, task: Task, where: str) -> np.ndarray:
    place = {name: i for i, name in enumerate(task.classes)}
    strange = [value for value in dict.fromkeys(values.tolist()) if value not in place]
    if strange:
        guess = did_you_mean(strange[0], task.classes) or f"the classes are {shortlist(list(task.classes))}"
        raise UserError("data", where, f"there is a class that training has not: {strange[0]}", guess)
    return np.fromiter(map(place.__getitem__, values.tolist()), np.int64, len(values))


SEPARATOR = "|"  # between the classes of one example


def _many_classes(values: np.ndarray, column: str) -> tuple[str, ...]:
    if values.dtype.kind in TEXT:
        return tuple(sorted({name for text in values.tolist() for name in _split(text)}))
    hot = _numbers(values, column)
    if not np.isin(hot, (0.0, 1.0)).all():
        what = f"'{column}' has values other than 0 and 1"
        raise UserError("data", "data.labels", what, "for several classes a row give a 0 or 1 for each class")
    return tuple(str(i) for i in range(hot.shape[1]))


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(SEPARATOR) if name.strip()]


def _hot(values: np.ndarray, task: Task, where: str) -> np.ndarray:
    place = {name: i for i, name in enumerate(task.classes)}
    hot = np.zeros((len(values), task.outputs), np.float32)
    for row, text in enumerate(values.tolist()):
        for name in _split(text):
            if name not in place:
                guess = did_you_mean(name, task.classes) or f"the classes are {shortlist(list(task.classes))}"
                raise UserError("data", where, f"there is a class that training has not: {name}", guess)
            hot[row, place[name]] = 1.0
    return hot


def _numbers(values: np.ndarray, column: str) -> np.ndarray:
    if values.dtype.kind not in "iufb" or values.ndim not in (1, 2):
        what = f"'{column}' is {values.dtype} {list(values.shape)}"
        raise UserError("data", "data.labels", what, "give a number, or a row of numbers, for each example")
    rows = values.astype(np.float32).reshape(len(values), -1)
    if (wrong := np.flatnonzero(~np.isfinite(rows).all(axis=1))).size:
        what = f"'{column}' is not finite in row {wrong[0]} ({wrong.size} such rows)"
        raise UserError("data", "data.labels", what, "remove these rows")
    return rows
