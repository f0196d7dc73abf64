"""How far the source has moved from what it could do: its own old outputs before and after training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Drift:
    """Of `examples`, the mean absolute difference of the outputs; of classes also the mean Kullback-Leibler divergence
    of after from before, in nats, and the share of examples with the same most probable class.

    Those two are None where the old head has a single output.
    """

    tensor: str
    examples: int
    difference: float
    divergence: float | None
    agreement: float | None

    def told(self) -> str:
        """One line for people."""
        found = [f"difference {self.difference:.4g}"]
        if self.agreement is not None:
            found = [f"agrees with itself on {self.agreement:.1%}", f"divergence {self.divergence:.4g}", *found]
        return f"old head: {self.tensor} {', '.join(found)}, on {self.examples} held-out examples before and after"


def drift(tensor: str, before: np.ndarray, after: np.ndarray) -> Drift:
    """Compares outputs [n, …], the last dimension being the classes, if there are several.

    Rows that are no distributions are taken as logits.
    """
    count = len(before)
    difference = float(np.mean(np.abs(after.astype(np.float64) - before)))
    if before.ndim < 2 or before.shape[-1] < 2:
        return Drift(tensor, count, difference, None, None)
    old, new = (rows.reshape(-1, rows.shape[-1]).astype(np.float64) for rows in (before, after))
    are_shares = bool((old >= 0).all() and np.allclose(old.sum(axis=1), 1, atol=1e-3))
    p, q = (np.log(np.maximum(rows, 1e-12)) if are_shares else _log_softmax(rows) for rows in (old, new))
    divergence = float(np.mean(np.sum(np.exp(p) * (p - q), axis=1)))
    agreement = float(np.mean(old.argmax(axis=1) == new.argmax(axis=1)))
    return Drift(tensor, count, difference, divergence, agreement)


def _log_softmax(rows: np.ndarray) -> Any:
    shifted = rows - rows.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
