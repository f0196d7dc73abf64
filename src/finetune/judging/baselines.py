"""What a model has to be compared with: a constant guess, and a linear probe of the pretrained features.

Shapes of targets and outputs as in finetune.judging.metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.examples.compact import sortable, taken
from finetune.examples.data import Examples
from finetune.examples.tasks import MANY_CLASSES, ONE_CLASS, Task
from finetune.judging.evaluate import by_head
from finetune.judging.metrics import chosen, measure

CONSTANT = {**dict.fromkeys(ONE_CLASS, "majority class"), **dict.fromkeys(MANY_CLASSES, "class frequencies")}
PROBE = "linear probe"

MOST = 5000  # examples that a probe learns from
_NARROW = 2048  # up to so many features; of wider ones it sees no more examples than this
_VALUES = 100_000_000  # of all features together

_STRENGTHS = np.geomspace(1e-4, 10.0, 6)  # of the ridge, in mean eigenvalues
_TEMPERATURES = np.geomspace(0.02, 2.0, 15)


def constant(targets: np.ndarray, outputs: int) -> np.ndarray:
    """The best that says the same of every example: the shares of the classes, or the mean; float64 [n, outputs]."""
    wanted = _wanted(targets, outputs)
    return np.broadcast_to(wanted.mean(axis=0), wanted.shape)


def some(examples: Examples, width: int, affordable: int) -> Examples:
    """As many examples as a probe of features of that width learns from, chosen by their content.

    Args:
      affordable: the number that may be run forward for it.
    """
    most = min(affordable, MOST if width <= _NARROW else _NARROW, max(1, _VALUES // width))
    which = np.ones(len(examples), bool)
    if most < len(examples):
        heads = sortable(examples.hashes)
        near = np.flatnonzero(heads <= np.partition(heads, most - 1)[most - 1])
        first = near[np.argsort(np.asarray(list(taken(examples.hashes, near))), kind="stable")[:most]]
        which = np.isin(np.arange(len(examples)), first)
    return examples.where(which)


def collect(rows: Iterable[Mapping[str, Any]], count: int) -> dict[str, np.ndarray]:
    """Batches of tensors by name as one array each, of the first `count` rows."""
    batches = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in rows]
    return {name: np.concatenate([batch[name] for batch in batches])[:count] for name in batches[0]}


def probe(
    features: Callable[[Examples], Mapping[str, np.ndarray]],
    training: Examples,
    held_out: Examples,
    tasks: Sequence[Task],
    affordable: int,
    names: Sequence[str],
) -> dict[str, float]:
    """The metrics of linear probes on the held-out examples, as they are logged, and how many examples they learn from.

    Args:
      features: gives HEAD/features of every example.
      affordable: the number of examples that may be run forward for it.
      names: of the metrics, none for the usual ones.
    """
    there = features(held_out)
    seen = some(training, max(rows.shape[1] for rows in there.values()), affordable)
    here = features(seen)
    found: dict[str, dict[str, float]] = {}
    for task in tasks:
        learnt, judged = here[f"{task.name}/features"], there[f"{task.name}/features"]
        outputs = linear_probe(learnt, seen.targets[task.name], judged, task.loss, task.outputs)
        found[task.name] = {}
        if outputs is not None:
            truth, wanted = held_out.targets[task.name], chosen(names, task.loss)
            found[task.name] = {name: measure(name, task.loss, truth, outputs) for name in wanted}
    return {**by_head(found), "examples": len(seen)}


def linear_probe(
    features: np.ndarray, targets: np.ndarray, elsewhere: np.ndarray, loss: str, outputs: int
) -> np.ndarray | None:
    """What a linear model of the features says elsewhere; None where features are no numbers.

    Ridge regression on numbers or on 0 and 1 for the classes, in closed form, its strength chosen by generalised
    cross-validation on the examples themselves (Golub, Heath and Wahba 1979). Scores of classes become probabilities
    by a temperature that suits what cross-validation would have predicted.

    Args:
      features, elsewhere: float [n, width] of the examples to learn from and of those to judge.

    Returns:
      float64 [examples elsewhere, outputs].
    """
    if not (np.isfinite(features).all() and np.isfinite(elsewhere).all()):
        return None
    wanted = _wanted(targets, outputs)
    centre, mean = features.mean(axis=0, dtype=np.float64), wanted.mean(axis=0)
    weights, left_out = _ridge(features - centre, wanted - mean)
    scores = (elsewhere - centre) @ weights + mean
    if loss not in (*ONE_CLASS, *MANY_CLASSES):
        return scores
    foreseen = wanted - left_out
    surprises = [_surprise(wanted, _probable(foreseen, loss, t), loss) for t in _TEMPERATURES]
    return _probable(scores, loss, float(_TEMPERATURES[int(np.argmin(surprises))]))


def _wanted(targets: np.ndarray, outputs: int) -> np.ndarray:
    return np.eye(outputs)[targets] if targets.ndim == 1 else targets.astype(np.float64)


def _ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [width, outputs] of the best strength, and what it misses of examples left out [n, outputs].

    Both `x` and `y` are centred. The smaller of x xᵀ and xᵀ x is inverted.
    """
    count, width = x.shape
    is_dual = count < width
    gram = x @ x.T if is_dual else x.T @ x
    size = len(gram)
    unit = float(np.trace(gram)) / size or 1.0
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for strength in _STRENGTHS * unit:
        inverse = np.linalg.inv(gram + strength * np.eye(size))
        weights = x.T @ (inverse @ y) if is_dual else inverse @ (x.T @ y)
        # In the dual form exact even where almost nothing is missed.
        missed = strength * (inverse @ y) if is_dual else y - x @ weights
        freedom = count - 1 - size + strength * float(np.trace(inverse))
        left_out = missed * (count / max(freedom, 1e-9))
        error = float(np.mean(np.square(left_out)))
        if best is None or error < best[0]:
            best = error, weights, left_out
    assert best is not None
    return best[1], best[2]


def _probable(scores: np.ndarray, loss: str, temperature: float) -> np.ndarray:
    if loss in MANY_CLASSES:
        return 1 / (1 + np.exp(np.clip((0.5 - scores) / temperature, -500, 500)))
    powers = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def _surprise(wanted: np.ndarray, said: np.ndarray, loss: str) -> float:
    """Cross entropy."""
    tiny = 1e-12
    found = wanted * np.log(said + tiny)
    if loss in MANY_CLASSES:
        found = found + (1 - wanted) * np.log(1 - said + tiny)
    return -float(found.mean())
