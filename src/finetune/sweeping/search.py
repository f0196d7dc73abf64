"""A search for good values by Optuna: which ones are tried next, and which trials are given up on the way.

The study is a journal in the folder of the sweep: a line for each thing that has happened, synced before it counts.
What a trial is given depends on the seed, on its number and on the trials before it, and on no state of a process, so
that a search that was interrupted goes on as it would have gone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from finetune.errors import STATUS, UserError
from finetune.interruption import GoesOn
from finetune.pages.comparison import less_is_better, main_metrics, yardstick
from finetune.recipe_files import flat, parse
from finetune.results.run_files import is_run, read
from finetune.results.run_folder import read_record
from finetune.sweeping.asked import Asked, Choices, Interval, as_text, written
from finetune.sweeping.trials import Outcome, Place, Trial

STUDY = "study.journal"
_NAME, _RECIPE = "sweep", "recipe"
_LOCK = ".lock"  # of Optuna's own, which a killed process leaves behind

Ranges = Mapping[str, Interval | Choices]
_ERROR = "error"  # of a trial that failed

Make = Callable[[int, dict[str, str]], Trial]  # (number, values as words have them)
Run = Callable[[Trial, GoesOn], Outcome]


def search(asked: Asked, place: Place, make: Make, run: Run) -> tuple[list[Trial], list[Outcome]]:
    """Runs trials until the study has as many as were asked for; gives all that it has, and how processes ended.

    Raises:
      UserError: the folder holds the study of another recipe.
    """
    first = asked.job({key: written(one)[0] for key, one in asked.ranges.items()}).composed
    metric = main_metrics(flat(parse(first.yaml, "this recipe")))[0]
    study = open_study(place.folder / STUDY, less_is_better(metric), first.yaml)
    under_way = _Search(study, asked.ranges, asked.trials, first.recipe.run.seed, metric, make, run, place)
    with ThreadPoolExecutor(max_workers=asked.at_once) as pool:
        for working in [pool.submit(under_way.work) for _ in range(asked.at_once)]:
            working.result()
    under_way.trials.sort(key=lambda trial: trial.number)
    return under_way.trials, sorted(under_way.outcomes, key=lambda outcome: outcome.number)


def open_study(file: Path, less: bool, recipe_yaml: str) -> Any:
    """The study in a file, a new one if there is none.

    Only one process has it open, the one with the lock of the folder: what a killed one left half done is mended.

    Raises:
      UserError: it is another recipe's.
    """
    import optuna  # pyright: ignore[reportMissingImports] - an extra, and so imported where it is needed
    from optuna.storages.journal import JournalFileBackend  # pyright: ignore[reportMissingImports]

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what there is to be said, the sweep says
    Path(f"{file}{_LOCK}").unlink(missing_ok=True)
    _cut_off(file)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(file))),
        study_name=_NAME,
        direction="minimize" if less else "maximize",
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    if study.user_attrs.setdefault(_RECIPE, recipe_yaml) != recipe_yaml:
        todo = "remove that folder, or name another with hydra.sweep.dir=…"
        raise UserError("recipe", str(file.parent), "the recipe has changed since this search began", todo)
    study.set_user_attr(_RECIPE, recipe_yaml)
    return study


def _cut_off(file: Path) -> None:
    """Takes away a last line that was not written to its end: whatever came behind it would be part of it."""
    if file.exists() and not (content := file.read_bytes()).endswith(b"\n"):
        with file.open("r+b") as journal:
            journal.truncate(content.rfind(b"\n") + 1)


class _Search:
    """A search under way: `work` runs one trial after the other, in as many threads as there are to be at once."""

    def __init__(
        self, study: Any, ranges: Ranges, most: int, seed: int, metric: str, make: Make, run: Run, place: Place
    ):
        self._study, self._ranges, self._most, self._seed = study, ranges, most, seed
        self._metric, self._make, self._run, self._place = metric, make, run, place
        self._alone = threading.RLock()
        self._left = list(study.trials)  # those of earlier processes: to be shown, or gone on with
        self.trials: list[Trial] = []
        self.outcomes: list[Outcome] = []

    def work(self) -> None:
        """Runs trials until none is left to be run, or somebody has asked to end."""
        try:
            while not self._place.stop.exists() and (trial := self._next()) is not None:
                made = self._make(trial.number, _words(trial.params, self._ranges))
                if _ERROR in trial.user_attrs:  # it would fail again
                    outcome = Outcome(trial.number, STATUS["numerics"], trial.user_attrs[_ERROR])
                else:
                    outcome = self._run(made, self._judge(trial))
                with self._alone:
                    self.trials.append(made)
                    self.outcomes.append(self._tell(trial, made, outcome))
        except BaseException:  # the other threads need not go on for hours before it is told
            self._place.stop.touch()
            raise

    def _next(self) -> Any:
        import optuna  # pyright: ignore[reportMissingImports]

        with self._alone:
            if self._left:
                earlier = self._left.pop(0)
                if earlier.state != optuna.trial.TrialState.RUNNING:
                    return earlier
                trial = optuna.trial.Trial(self._study, earlier._trial_id)
            elif len(self._study.trials) >= self._most:
                return None
            else:
                self._study.sampler = optuna.samplers.TPESampler(seed=self._seed + len(self._study.trials))
                trial = self._study.ask()
            for key, one in self._ranges.items():  # what is known of an earlier one stays as it was
                _suggested(trial, key, one)
            return trial

    def _judge(self, trial: Any) -> GoesOn:
        def goes_on(step: int, found: Mapping[str, float]) -> bool:
            value = found.get(self._metric)
            if value is None or not math.isfinite(value):
                return True  # a loss that is no number ends a run by itself
            with self._alone:
                if step not in self._study.trials[trial.number].intermediate_values:  # a run that went back
                    trial.report(value, step)
                return not trial.should_prune()

        return goes_on

    def _tell(self, trial: Any, ran: Trial, outcome: Outcome) -> Outcome:
        """Puts into the study what came out; what could come out otherwise is left to be tried again."""
        from optuna.trial import TrialState  # pyright: ignore[reportMissingImports]

        if self._study.trials[trial.number].state != TrialState.RUNNING:
            return outcome
        if outcome.status == STATUS["numerics"]:
            trial.set_user_attr(_ERROR, outcome.error)
            self._study.tell(trial.number, state=TrialState.FAIL)
        if outcome.status:
            return outcome
        if read_record(ran.folder).get("status") == "pruned":
            self._study.tell(trial.number, state=TrialState.PRUNED)
            return outcome
        found = yardstick(read(ran.folder)) if is_run(ran.folder) else None
        if found is None:
            said = f"error[recipe] eval.metrics: the run has no {self._metric} to search by; are examples held out?"
            return Outcome(trial.number, STATUS["recipe"], said)
        self._study.tell(trial.number, found[1])
        return outcome


def _suggested(trial: Any, key: str, one: Interval | Choices) -> Any:
    if isinstance(one, Choices):
        return trial.suggest_categorical(key, one.values)
    if one.is_whole:
        return trial.suggest_int(key, int(one.low), int(one.high), log=one.is_log)
    return trial.suggest_float(key, one.low, one.high, log=one.is_log)


def _words(params: Mapping[str, Any], ranges: Ranges) -> dict[str, str]:
    return {key: as_text(one, params[key]) for key, one in ranges.items()}
