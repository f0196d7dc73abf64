"""The course of a run: its phases one after the other, and where in them it is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from finetune import recipe
from finetune.errors import UserError
from finetune.learning.monitor import goal_of
from finetune.learning.schedules import share
from finetune.names import did_you_mean
from finetune.recipe import Train
from finetune.surgery.source import Source
from finetune.surgery.variants import Variants, make_variants

_KEYS = {field.name for field in fields(recipe.Phase)}
_SAVED = "course"  # the scope of the standing in a checkpoint


@dataclass(frozen=True)
class Phase:
    """A part of the training: what learns in it, by which rule, and how long.

    It is over after the step `last`, or when `patience` evaluations in a row were not better than the best one before
    by `metric`; None means that this does not end it. `goal` is min or max where the metric does not say it. `key` is
    where the recipe has it, empty where the run is one.
    """

    variants: Variants
    train: Train
    name: str = ""
    key: str = ""
    last: int | None = None
    patience: int | None = None
    metric: str = "loss"
    goal: str | None = None

    def share_of_rate(
        self, began: int, steps: int, left: Callable[[], float] = lambda: 1.0
    ) -> Callable[[int], float] | None:
        """The share of the learning rate that a step of the run takes, of what is left of it; None if all take it all.

        Args:
          began: the step after which the phase began.
          steps: of the whole run.
        """
        train = self.train
        if train.schedule == "constant" and not train.warmup_steps and train.on_nan == "stop":
            return None
        length = (steps if self.last is None else self.last) - began
        end, at, by = train.schedule_end, train.decay_steps, train.decay_rate
        return lambda step: share(train.schedule, step - began, length, train.warmup_steps, end, at, by) * left()


@dataclass(frozen=True)
class Standing:
    """Where a run is in its course: state, for no step number tells when a plateau was found.

    `began` has the step after which each phase so far began. Of the phase under way, `best` is the best metric (the
    least, or with a minus sign the most), `waited` the number of evaluations since, and `frozen` the digest of the
    variables that it does not change, as they were when it began. An evaluation that was interrupted is owed: `owes`.
    """

    began: tuple[int, ...] = (0,)
    best: float = math.inf
    waited: int = 0
    frozen: str = ""
    owes: bool = False

    @property
    def number(self) -> int:
        """The place of the phase under way."""
        return len(self.began) - 1

    def seen(self, phase: Phase, metrics: Mapping[str, float]) -> Standing:
        """After one more evaluation."""
        if phase.patience is None:
            return self
        falls = goal_of(phase.metric, phase.goal) == "min"
        value = metrics[phase.metric] if falls else -metrics[phase.metric]
        if value < self.best:
            return replace(self, best=value, waited=0)
        return replace(self, waited=self.waited + 1)

    def is_over(self, phase: Phase, step: int) -> bool:
        """Whether the phase under way ends with this step."""
        by_step = phase.last is not None and step >= phase.last
        return by_step or (phase.patience is not None and self.waited >= phase.patience)

    def at(self, phases: Sequence[Phase], step: int) -> Standing:
        """The standing with which the step after this one is made: in the next phase, if this one is over."""
        standing = self
        while not self.owes and standing.number < len(phases) - 1 and standing.is_over(phases[standing.number], step):
            standing = Standing((*standing.began, step))
        return standing

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            f"{_SAVED}/began": np.array(self.began, np.int64),
            f"{_SAVED}/best": np.float64(self.best),
            f"{_SAVED}/waited": np.int64(self.waited),
            f"{_SAVED}/frozen": self.frozen.encode(),
            f"{_SAVED}/owes": np.int64(self.owes),
        }


def standing_in(saved: Mapping[str, np.ndarray]) -> Standing:
    """The standing that a checkpoint holds; a recipe without phases leaves one only of an evaluation that is owed."""
    if f"{_SAVED}/began" not in saved:
        return Standing()
    began, best, waited, frozen = (saved[f"{_SAVED}/{name}"] for name in ("began", "best", "waited", "frozen"))
    owes = bool(saved.get(f"{_SAVED}/owes", False))  # older checkpoints do not say it
    return Standing(tuple(int(step) for step in began), float(best), int(waited), bytes(frozen.item()).decode(), owes)


def make_course(
    asked: Sequence[recipe.Phase],
    source: Source,
    stop_gradient: bool | list[str],
    learn: Sequence[Sequence[Any]],
    train: Train,
    learn_decay: float | None = None,
    lora: recipe.Lora | None = None,
) -> tuple[Phase, ...]:
    """The phases that a recipe asks for, at least one; none of them has an end yet.

    Args:
      stop_gradient, learn, train, learn_decay, lora: what holds where a phase does not say otherwise.

    Raises:
      UserError: what a phase says does not fit the source; it names `phases[1].learn`.
    """
    if not asked:
        return (Phase(make_variants(source, stop_gradient, learn, learn_decay, lora), train),)
    phases = []
    for number, own in enumerate(asked):
        barriers = stop_gradient if own.stop_gradient is None else own.stop_gradient
        with naming(key := f"phases[{number}]"):
            words = source, barriers, learn if own.learn is None else own.learn
            variants = make_variants(*words, None, lora)
            if learn_decay is not None and (variants.rates() or variants.adapters):
                variants = make_variants(*words, learn_decay, lora)
        phases.append(Phase(variants, _train(own, train), own.name, key))
    return tuple(phases)


def with_ends(
    phases: Sequence[Phase],
    asked: Sequence[recipe.Phase],
    steps_in: Callable[[float], int],
    metric: str = "loss",
    goal: str | None = None,
) -> tuple[Phase, ...]:
    """The phases with what ends each.

    Args:
      steps_in: the number of steps in so many epochs.
      metric, goal: what a plateau is one of where a phase does not say otherwise, and which way is better.

    Raises:
      UserError: a phase ends before the one before it, or its schedule needs an end that it has not.
    """
    found: list[Phase] = []
    for phase, own in zip(phases, asked, strict=False):
        last = own.until.step if own.until.epoch is None else steps_in(own.until.epoch)
        watched = (metric, goal) if own.until.metric in (None, metric) else (own.until.metric, None)
        with _at(f"{phase.key}.until.metric"):
            goal_of(*watched)
        ends = dict(zip(("metric", "goal"), watched, strict=True))
        found.append(replace(phase, last=last, patience=own.until.plateau, **ends))
        _check_end(found[-1], found[:-1], is_last=len(found) == len(asked))
    return tuple(found) or tuple(phases)


def _train(own: recipe.Phase, train: Train) -> Train:
    """How the phase trains: what it says itself, and the rest as in the recipe."""
    said = {name: value for name in vars(own).keys() & vars(train).keys() if (value := getattr(own, name)) is not None}
    if own.optimizer not in (None, train.optimizer):
        said = {"optimizer_args": {}, **said}  # the recipe's are those of another optimizer
    return replace(train, **said)


def _check_end(phase: Phase, before: Sequence[Phase], is_last: bool) -> None:
    ends = [other.last for other in before if other.last is not None]
    if phase.last is not None and ends and phase.last <= ends[-1]:
        what = f"ends with step {phase.last}, and a phase before it with step {ends[-1]}"
        raise UserError("recipe", f"{phase.key}.until", what, "steps and epochs count from the beginning of the run")
    if not is_last and phase.last is None and phase.train.schedule not in ("constant", "plateau"):
        what = f"'{phase.train.schedule}' falls towards the end of the phase, and nobody knows when a plateau comes"
        raise UserError("recipe", f"{phase.key}.schedule", what, "write schedule: constant, or add a step to until")


def check_metrics(phases: Sequence[Phase], metrics: Iterable[str]) -> None:
    """Refuses a plateau of something that an evaluation does not give.

    Raises:
      UserError: with what it gives.
    """
    for phase in phases:
        if phase.patience is not None and phase.metric not in (known := list(metrics)):
            what = f"an evaluation gives {', '.join(known)}, and no '{phase.metric}'"
            raise UserError("recipe", f"{phase.key}.until.metric", what, did_you_mean(phase.metric, known))


def unreached(phases: Sequence[Phase], steps: int) -> list[str]:
    """A line about each phase that a run of so many steps does not come to."""
    return [
        f"warning: phase {later.name} is not reached: the run ends with step {steps}, {before.name} with {before.last}"
        for before, later in pairwise(phases)
        if before.last is not None and before.last >= steps and before.patience is None
    ]


@contextmanager
def _at(where: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(error.code, where, error.what, error.todo) from error


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Lets an error name the phase at `key`, where it is about something that a phase may say; no key names none."""
    try:
        yield
    except UserError as error:
        where = error.where.removeprefix("train.")
        if not key or re.split(r"\W", where)[0] not in _KEYS:
            raise
        raise UserError(error.code, f"{key}.{where}", error.what, error.todo, *error.more) from error
