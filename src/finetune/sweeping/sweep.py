"""The story of a sweep: what is asked for, its trials, each a process of its own, and what came out of them."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from finetune.calibrating.machine import this_machine
from finetune.errors import UserError, printable
from finetune.interruption import REQUEUE, GoesOn, Interruption
from finetune.results import run_folder
from finetune.results.lock import alone_in
from finetune.run import say_finished
from finetune.sweeping import summary
from finetune.sweeping.asked import BASIC, Asked, Job, asked, launch
from finetune.sweeping.one_gpu import gpus
from finetune.sweeping.trials import Outcome, Place, Trial, passing_on, run_trial


def sweep(words: list[str], interruption: Interruption) -> int:
    """Trains each combination of values, or searches for good ones; gives the status of the first trial that failed.

    The same command goes on with what is missing.

    Raises:
      UserError: something is wrong with what is asked for, or the folder of the sweep cannot be written.
      Interrupted: somebody has asked it to end; its trials have saved.
    """
    found = asked(words)
    folder = Path(found.place)
    interruption.wait()
    with contextlib.ExitStack() as held:
        held.enter_context(alone_in(folder, wait=True, check=interruption.check))
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="finetune-")))
        at_once = found.launcher != BASIC or (bool(found.ranges) and found.at_once > 1)
        shared = gpus(os.environ, len(this_machine().gpus)) if at_once else []
        place = Place(folder, scratch, shared, is_shown=not at_once)
        with passing_on(interruption, place.stop):
            trials, outcomes = (_searched if found.ranges else _gone_through)(found, place)
        interruption.check()
        if place.stop.exists() or any(outcome.status == REQUEUE for outcome in outcomes):
            print("a trial was asked to end, and so the sweep ends; the same command goes on", file=sys.stderr)
            return REQUEUE
        for line in summary.finish(folder, trials, outcomes):
            print(printable(line), flush=True)
    return next((outcome.status for outcome in outcomes if outcome.status), 0)


def _gone_through(found: Asked, place: Place) -> tuple[Sequence[Trial], Sequence[Outcome]]:
    """Every combination, by Hydra's launcher."""
    trials = [_trial(number, job) for number, job in enumerate(found.jobs)]
    left = [trial for trial in trials if not is_over(trial, found.jobs[trial.number])]
    start = partial(_nth, left, len(trials), place)
    return trials, launch(found, [found.jobs[trial.number] for trial in left], start)


def _nth(left: Sequence[Trial], of: int, place: Place, number: int) -> Outcome:
    return told(left[number], of, place, partial(run_trial, left[number], place))


def _searched(found: Asked, place: Place) -> tuple[Sequence[Trial], Sequence[Outcome]]:
    """As many combinations as are asked for, found by Optuna."""
    from finetune.sweeping.search import search  # an extra

    composing = threading.Lock()  # Hydra has one state in all threads
    jobs: dict[int, Job] = {}

    def make(number: int, values: dict[str, str]) -> Trial:
        with composing:
            jobs[number] = found.job(values)
        return _trial(number, jobs[number])

    def run(trial: Trial, goes_on: GoesOn) -> Outcome:
        if is_over(trial, jobs[trial.number]):
            return Outcome(trial.number, 0)
        return told(trial, found.trials, place, partial(run_trial, trial, place, goes_on))

    return search(found, place, make, run)


def _trial(number: int, job: Job) -> Trial:
    return Trial(number, job.words, job.own, Path(job.composed.recipe.run.dir or "."))


def is_over(trial: Trial, job: Job) -> bool:
    """Whether nothing is left to be done of a trial; says so. TensorFlow is not needed for that."""
    recipe = job.composed.recipe
    try:
        folder = run_folder.claim(trial.folder, job.composed.yaml, recipe.run.allow_change)
    except UserError:  # the trial itself says it
        return False
    if folder.is_finished:
        say_finished(folder)
    elif folder.is_pruned:
        print(printable(f"{folder.record['result']}: {trial.folder}"), flush=True)
    return folder.is_finished or folder.is_pruned


def told(trial: Trial, of: int, place: Place, run: Callable[[], Outcome]) -> Outcome:
    """Runs a trial, and says before and after it what people want to know."""
    if place.stop.exists():
        return Outcome(trial.number, REQUEUE)
    print(printable(f"trial {trial.number + 1} of {of}: {trial.name}: {trial.folder}"), flush=True)
    outcome = run()
    if outcome.status == REQUEUE:  # no other one is to begin
        place.stop.touch()
    elif outcome.status:
        print(printable(f"failed: trial {trial.number + 1}: {outcome.error}"), file=sys.stderr, flush=True)
    elif not place.is_shown:
        result = run_folder.read_record(trial.folder).get("result", "")
        print(printable(f"trial {trial.number + 1}: {result}"), flush=True)
    return outcome
