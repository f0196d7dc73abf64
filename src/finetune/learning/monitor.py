"""What a run concludes from its evaluations: which was the best, whether the rate falls, and whether to stop.

A state machine of six numbers. They are saved in every checkpoint, so that a resumed run concludes the same.

Patience counts as `EarlyStopping` and `ReduceLROnPlateau` of Keras do: after so many evaluations without progress.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from finetune.errors import UserError
from finetune.names import did_you_mean

if TYPE_CHECKING:
    import numpy as np

GOALS = ("min", "max")
TENSOR = "finetune/monitor"  # of a checkpoint
RETRY_RATE = 0.5  # what a rollback leaves of the learning rate
RETRIES = 3  # a run that has gone back so often does not suffer from its learning rate

# The last of these words in the name of a metric says which way is better.
_BETTER_LOW = ("ae", "brier", "ece", "error", "hamming", "loss", "mae", "mse", "perplexity", "rmse")
_BETTER_HIGH = (
    "accuracy",
    "ap",
    "auc",
    "dice",
    "f1",
    "iou",
    "kappa",
    "map",
    "mcc",
    "pearson",
    "precision",
    "r2",
    "recall",
    "spearman",
)
_GOAL_OF = {**dict.fromkeys(_BETTER_LOW, "min"), **dict.fromkeys(_BETTER_HIGH, "max")}


@dataclass(frozen=True)
class Rules:
    """What is asked of an evaluation, and what follows if it brings no progress.

    Progress is an improvement by more than `min_delta`; the best evaluation is the best by however little.
    """

    goal: str = "min"
    min_delta: float = 0.0
    stop_early: int | None = None  # evaluations without progress after which the run ends
    plateau: int | None = None  # evaluations without progress after which the learning rate falls
    factor: float = 1.0  # to which share of itself it falls


@dataclass(frozen=True)
class Watch:
    """What is known so far; a step of -1 is none."""

    best: float = math.nan
    best_step: int = -1
    mark: float = math.nan  # the value that the next progress is measured from
    idle: int = 0  # evaluations since the last progress
    flat: int = 0  # evaluations since the last progress or the last fall of the rate
    falls: int = 0
    rollbacks: int = 0

    def numbers(self) -> np.ndarray:
        """float64 [7], for a checkpoint."""
        import numpy as np  # here, for recipes are checked before there is time to import it

        return np.asarray(astuple(self), np.float64)


def from_numbers(numbers: np.ndarray) -> Watch:
    """The watch that a checkpoint holds.

    >>> from_numbers(Watch(0.25, 14, 0.25).numbers())
    Watch(best=0.25, best_step=14, mark=0.25, idle=0, flat=0, falls=0, rollbacks=0)
    """
    best, best_step, mark, *counts = numbers.tolist()
    return Watch(best, int(best_step), mark, *map(int, counts))


def watch_in(saved: Mapping[str, np.ndarray]) -> Watch:
    """The watch that the tensors of a checkpoint hold; a new one if they hold none."""
    return from_numbers(saved[TENSOR]) if TENSOR in saved else Watch()


def anew(watch: Watch) -> Watch:
    """The watch with which a phase begins: its own rate has not fallen, and nothing has been waited for."""
    return replace(watch, idle=0, flat=0, falls=0)


def seen(watch: Watch, rules: Rules, step: int, value: float) -> Watch:
    """The watch after one more evaluation.

    A value that is not finite is never the best.

    >>> seen(seen(Watch(), Rules(), 5, 0.5), Rules(), 10, 0.75)
    Watch(best=0.5, best_step=5, mark=0.5, idle=1, flat=1, falls=0, rollbacks=0)
    """
    if _gain(rules.goal, watch.best, value) > 0:
        watch = replace(watch, best=value, best_step=step)
    if _gain(rules.goal, watch.mark, value) > rules.min_delta:
        return replace(watch, mark=value, idle=0, flat=0)
    watch = replace(watch, idle=watch.idle + 1, flat=watch.flat + 1)
    if rules.plateau is not None and watch.flat >= rules.plateau:
        return replace(watch, flat=0, falls=watch.falls + 1)
    return watch


def _gain(goal: str, before: float, now: float) -> float:
    if not math.isfinite(now):
        return -math.inf
    if math.isnan(before):
        return math.inf
    return now - before if goal == "max" else before - now


def ends(watch: Watch, rules: Rules) -> bool:
    """Whether the run has waited long enough for progress."""
    return rules.stop_early is not None and watch.idle >= rules.stop_early


def share_of_rate(watch: Watch, rules: Rules) -> float:
    """The share of the learning rate that plateaus and rollbacks leave."""
    return rules.factor**watch.falls * RETRY_RATE**watch.rollbacks


def rolled_back(saved: Watch, now: Watch) -> Watch:
    """The watch of a run that goes back to a checkpoint: the best model stays the best, the rest is as it was saved."""
    return replace(saved, best=now.best, best_step=now.best_step, rollbacks=now.rollbacks + 1)


def goal_of(metric: str, given: str | None) -> str:
    """Whether less (min) or more (max) of a metric is better.

    Raises:
      UserError: the name does not say it and the recipe neither, or they contradict each other.

    >>> goal_of("top_5_accuracy", None), goal_of("head/mean_absolute_error", None)
    ('max', 'min')
    """
    words = [re.sub(r"^top\d+$", "accuracy", word) for word in re.split(r"[^a-z0-9]+", metric.lower())]
    known = next((_GOAL_OF[word] for word in reversed(words) if word in _GOAL_OF), None)
    if known is None and given is None:
        what = f"'{metric}' does not say whether less or more of it is better"
        todo = did_you_mean(metric.lower(), _GOAL_OF) or "add eval.goal=min or eval.goal=max"
        raise UserError("recipe", "eval.metric", what, todo)
    if known is not None and given not in (None, known):
        what = f"{given}, but of {metric} {'less' if known == 'min' else 'more'} is better"
        raise UserError("recipe", "eval.goal", what, "leave it out")
    return known or str(given)


def value_of(metric: str, metrics: Mapping[str, float]) -> float:
    """The watched number of an evaluation.

    Raises:
      UserError: there is none of that name.
    """
    if metric not in metrics:
        what = f"no evaluation of this run gives '{metric}'; there are {', '.join(metrics)}"
        raise UserError("recipe", "eval.metric", what, did_you_mean(metric, metrics))
    return metrics[metric]
