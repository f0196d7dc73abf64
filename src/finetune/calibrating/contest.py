"""Settings measured against each other, in turns; whoever is faster for sure stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Protocol

from finetune.calibrating.setting import Choice, Setting
from finetune.calibrating.verdict import is_faster
from finetune.calibrating.work import Work

SHARE = 0.05  # of the time that a job takes, which measuring may take
MOST_ROUNDS = 5


@dataclass(frozen=True)
class Times:
    """Seconds of one batch: in the forward pass of an evaluation, and in a training step."""

    forward: float
    step: float


@dataclass(frozen=True)
class Ready:
    """What a contender says when it has compiled: what TensorFlow really does in it, and the times of its second run.

    `work` is what the job has to do, as counted with all that is known there.
    """

    onednn: bool
    gpus: int
    work: Work
    times: Times


class Failed(Exception):
    """A contender that does not run, or not in time; the message says why."""


class Contender(Protocol):
    """A setting at work."""

    ready: Ready

    def turn(self) -> Times:
        """One more run. Raises `Failed`."""
        ...

    def close(self) -> None:
        """Lets go of it."""
        ...


Enter = Callable[[Setting], Contender]  # raises Failed


def contest(
    enter: Enter,
    base: Setting,
    changes: Callable[[Ready], Iterable[Mapping[str, Any]]],
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """The best setting that is found from `base` on, one change after the other, each against the best so far.

    A change is taken that saves time for sure, and is not even tried when measuring has taken its share of the job.
    """
    began = clock()
    try:
        best, setting = enter(base), base
    except Failed as why:
        return _unmeasured(base, why)
    times = best.ready.times
    end = began + SHARE * best.ready.work.seconds(times.forward, times.step)
    said = []
    try:
        for change in changes(best.ready):
            candidate = replace(setting, **change)
            if clock() >= end:
                said.append(f"engine: {candidate.words()} is not tried: measuring has taken its share of the job")
                continue
            winner, line = _challenge(best, setting, candidate, enter, lambda: clock() < end)
            said.append(line)
            if winner is not None:
                best.close()
                best, setting = winner, candidate
    except Failed as why:  # what the best so far was measured against counts for nothing if it does not last
        return _unmeasured(base, why)
    finally:
        best.close()
    return Choice(setting, (f"engine: {setting.words()}, as measured", *said))


def _challenge(
    best: Contender, setting: Setting, candidate: Setting, enter: Enter, has_time: Callable[[], bool]
) -> tuple[Contender | None, str]:
    """The candidate at work if it is the faster one, and what people are told.

    Raises:
      Failed: the best so far has ended.
    """
    try:
        other = enter(candidate)
    except Failed as why:
        return None, f"engine: {candidate.words()} is left out: {why}"
    won = False
    try:
        if candidate.onednn is not None and other.ready.onednn != candidate.onednn:
            return None, f"engine: {candidate.words()} is left out: this TensorFlow does not take it"
        rounds: list[tuple[Times, Times]] = []
        # One round says nothing of chance.
        while len(rounds) < 2 or (len(rounds) < MOST_ROUNDS and has_time()):
            before = best.turn()
            try:
                rounds.append((before, other.turn()))
            except Failed as why:
                return None, f"engine: {candidate.words()} is left out: {why}"
        work = best.ready.work
        old, new = ([work.seconds(t.forward, t.step) for t in side] for side in zip(*rounds, strict=True))
        won = is_faster(old, new)
        return other if won else None, _said(candidate, setting, work, rounds, won)
    finally:
        if not won:
            other.close()


def _unmeasured(base: Setting, why: Failed) -> Choice:
    return Choice(base, (f"engine: {base.words()} (not measured: {why})",))


def _said(new: Setting, old: Setting, work: Work, rounds: list[tuple[Times, Times]], won: bool) -> str:
    names = [name for name, count in (("forward", work.forwards), ("step", work.steps)) if count]
    parts = []
    for name in names:
        before, after = (median(getattr(times, name) for times in side) for side in zip(*rounds, strict=True))
        parts.append(f"{name} {after:.3g} s, {before:.3g} s with {old.words()}")
    return f"engine: {new.words()}: {'; '.join(parts)}: {'taken' if won else 'not taken'}"
