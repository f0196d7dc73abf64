"""What can be drawn of outputs: who is taken for whom, how sure one may be, and what a threshold costs.

Shapes as in finetune.judging.metrics; everything comes back as plain numbers and lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 15
POINTS = 200  # of one curve, at most


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """How many examples of each class (rows) are taken for which (columns): int64 [classes, classes]."""
    return np.bincount(targets * classes + predictions, minlength=classes**2).reshape(classes, classes)


def mistakes(matrix: np.ndarray, classes: Sequence[str], most: int = 20) -> list[dict[str, Any]]:
    """The most frequent confusions, the most frequent one first."""
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [divmod(int(place), len(matrix)) for place in order]
    return [{"is": classes[i], "taken_for": classes[j], "examples": int(wrong[i, j])} for i, j in places if wrong[i, j]]


def by_class(there: np.ndarray, said: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of examples of each class; None where nothing is divided.

    Args:
      there, said: bool [n, classes]: what is, and what was predicted.
    """
    right, support, claimed = (there & said).sum(axis=0), there.sum(axis=0), said.sum(axis=0)
    columns = zip(classes, right.tolist(), support.tolist(), claimed.tolist(), strict=True)
    return [
        {
            "class": name,
            "precision": hits / named if named else None,
            "recall": hits / real if real else None,
            "f1": 2 * hits / (named + real) if named + real else None,
            "support": real,
        }
        for name, hits, real, named in columns
    ]


def reliability(targets: np.ndarray, outputs: np.ndarray) -> list[dict[str, Any]]:
    """In bins of equal width: how probable predictions are said to be, and how often they are right.

    Where an example has one class, of the most probable class; else of every class.
    """
    if targets.ndim == 1:
        said, right = outputs.max(axis=1), outputs.argmax(axis=1) == targets
    else:
        said, right = outputs.ravel(), targets.ravel() > 0
    place = np.clip(np.ceil(said * BINS).astype(int) - 1, 0, BINS - 1)  # a bin holds its upper border
    count = np.bincount(place, minlength=BINS)
    confidence, hits = (np.bincount(place, weights=w, minlength=BINS) for w in (said, right))
    return [
        {
            "from": i / BINS,
            "to": (i + 1) / BINS,
            "examples": int(count[i]),
            "confidence": float(confidence[i] / count[i]),
            "right": float(hits[i] / count[i]),
        }
        for i in np.flatnonzero(count).tolist()
    ]


def thresholds(there: np.ndarray, scores: np.ndarray) -> list[dict[str, float]] | None:
    """What each threshold on the scores gives, the highest first, at most `POINTS` of them: a ROC curve and more.

    None where every example is of the class, or none is.

    Args:
      there: bool [n]: whether the example is of the class.
    """
    positive, negative = int(there.sum()), int((~there).sum())
    if not (positive and negative):
        return None
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of the examples with one score
    hits = there[order].cumsum()[last]
    kept = np.unique(np.linspace(0, len(last) - 1, min(len(last), POINTS)).round().astype(int))
    return [
        {
            "threshold": float(scores[order[last[i]]]),
            "recall": float(hits[i] / positive),  # the true positive rate
            "false_positive_rate": float((last[i] + 1 - hits[i]) / negative),
            "precision": float(hits[i] / (last[i] + 1)),
        }
        for i in kept.tolist()
    ]


def pairs(targets: np.ndarray, outputs: np.ndarray) -> list[list[list[float]]]:
    """Of each output at most `POINTS` pairs of the number that is and the one said, evenly spread over the examples."""
    rows = np.unique(np.linspace(0, len(targets) - 1, min(len(targets), POINTS)).round().astype(int))
    both = np.stack([targets[rows], outputs[rows]], axis=2)
    return both.transpose(1, 0, 2).astype(float).tolist()
