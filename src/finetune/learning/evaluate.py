"""A model's numbers on a set of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Forward = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]  # (inputs, labels) -> probabilities, losses


@dataclass(frozen=True)
class Evaluation:
    """What was predicted for every example, in the order of the examples."""

    labels: np.ndarray  # int64 [examples]
    probabilities: np.ndarray  # float32 [examples, classes]
    losses: np.ndarray  # float32 [examples]

    @property
    def predictions(self) -> np.ndarray:
        """The class of the highest probability, int64 [examples]."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """The share of examples whose most probable class is their label."""
        return float(np.mean(self.predictions == self.labels))

    @property
    def loss(self) -> float:
        """The mean of the losses, summed in float64."""
        return float(np.mean(self.losses, dtype=np.float64))

    def metrics(self) -> dict[str, float]:
        """The numbers that are logged."""
        return {"loss": self.loss, "accuracy": self.accuracy}


def evaluate(forward: Forward, batches: Iterable[tuple[Mapping[str, Any], Any, Any]], count: int) -> Evaluation:
    """Runs every batch forward once; what comes after the first `count` examples only fills up the last batch."""
    labels, probabilities, losses = [], [], []
    for inputs, wanted, _ in batches:
        outputs = forward(inputs, wanted)
        labels.append(wanted.numpy())
        probabilities.append(outputs["probabilities"].numpy())
        losses.append(outputs["losses"].numpy())
    columns = [np.concatenate(column)[:count] for column in (labels, probabilities, losses)]
    return Evaluation(*columns)
