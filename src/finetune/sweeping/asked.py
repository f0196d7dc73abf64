"""What a command line with `--multirun` asks for: its trials or the ranges to search, and who launches them.

The other leaf of the door to Hydra: its grammar of several values is read here, and its launchers are called.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from finetune import keys, packaged
from finetune.check import check
from finetune.compose import Composed, compose_prepared, explained, for_hydra, key_in, prepared
from finetune.errors import UserError
from finetune.names import did_you_mean
from finetune.remote.places import is_remote

SWEEPER, LAUNCHER, DIR = "hydra/sweeper", "hydra/launcher", "hydra.sweep.dir"
GRID, SEARCH, BASIC = "basic", "optuna", "basic"
TRIALS, AT_ONCE = "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs"
_SETTINGS = {TRIALS: 20, AT_ONCE: 1}  # of a search; as many trials as in Hydra's own plug-in
# Hydra's word -> the packages that it takes; all are in our extra
_NEEDED = {(SWEEPER, SEARCH): "optuna", (LAUNCHER, "joblib"): "hydra-joblib-launcher"}


@dataclass(frozen=True)
class Interval:
    """Numbers to search between two ends, both included; `is_log` where ratios count and not differences."""

    low: float
    high: float
    is_whole: bool
    is_log: bool


@dataclass(frozen=True)
class Choices:
    """Values to choose from, as a command line has them."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run of a sweep: the words that train it alone, those of them that are its own, and what they compose."""

    words: tuple[str, ...]
    own: tuple[str, ...]
    composed: Composed


@dataclass(frozen=True)
class Asked:
    """A sweep as it was asked for.

    `jobs` are all combinations of a grid. A search has none: it has `ranges`, by key, in which it finds the values of
    each job itself; `trials` is how many, `at_once` how many of them at the same time.
    """

    place: str
    jobs: tuple[Job, ...]
    ranges: Mapping[str, Interval | Choices]
    trials: int
    at_once: int
    launcher: str
    _line: tuple[str, ...]
    _hydra: tuple[str, ...]
    _files: Mapping[str, str]  # a recipe's name -> what the user called it

    def job(self, values: Mapping[str, str]) -> Job:
        """The job in which the searched keys have these values.

        Raises:
          UserError: the recipe does not take them.
        """
        line = [f"{key_in(word)}={values.get(key_in(word)) or word.partition('=')[2]}" for word in self._line]
        return _job(line, self.ranges.keys(), self._files)


def asked(words: list[str]) -> Asked:
    """What the words of a command line ask for, after every recipe that can be told now has been checked.

    Raises:
      UserError: there is something wrong with them.
    """
    own = [word for word in words if not for_hydra(word)]
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words if for_hydra(word)}
    sweeper = given.get(SWEEPER, GRID)
    _check_settings(given, sweeper)
    line = prepared(own, sweep=True)
    parsed = OverridesParser.create().parse_overrides(line)
    ranges = {o.get_key_element(): _range(o, sweeper) for o in parsed if o.is_sweep_override()}
    names = line[0].partition("=")[2].replace("'", "").split(",")
    choices = next(word.partition("=")[2] for word in reversed(own) if key_in(word) == "recipe")
    files = dict(zip(names, choices.split(","), strict=True))
    is_search = sweeper == SEARCH
    if is_search and not ranges:
        todo = "write several values, or an interval: 'train.learning_rate=tag(log,interval(1e-5,1e-1))'"
        raise UserError("recipe", f"{SWEEPER}={SEARCH}", "there is nothing to search", todo)
    settings = {key: _number(key, given.get(key, str(default))) for key, default in _SETTINGS.items()}
    found = Asked(
        place=given.get(DIR) or sweep_dir(names, own, sweeper),
        jobs=() if is_search else tuple(_job(list(one), ranges.keys(), files) for one in _combined(parsed)),
        ranges=ranges if is_search else {},
        trials=settings[TRIALS],
        at_once=settings[AT_ONCE],
        launcher=given.get(LAUNCHER, BASIC),
        _line=tuple(line),
        _hydra=tuple(f"{key}={value}" for key, value in given.items() if key not in (SWEEPER, DIR, *_SETTINGS)),
        _files=files,
    )
    told = found.jobs or [found.job(corner) for corner in _corners(found.ranges)]
    for job in told:  # all are good before the first one takes an hour
        check(job.composed.recipe)
    _refuse_one_folder(told)
    if not is_search:
        _launching(found, _nothing)
    return found


def sweep_dir(names: Sequence[str], words: Iterable[str], sweeper: str = GRID) -> str:
    """Where a sweep lies: a function of its recipes and of what is swept, never of the clock or of how it is launched.

    >>> sweep_dir(["vgg_2class"], ["recipe=vgg_2class", "run.seed=0,1"])
    'sweeps/vgg_2class-77b25d6e'
    """
    telling = sorted((word for word in words if key_in(word) != "recipe"), key=key_in)
    text = "\n".join([*telling, *([SWEEPER + sweeper] if sweeper != GRID else [])])
    return f"sweeps/{'+'.join(names)}" + (f"-{hashlib.sha256(os.fsencode(text)).hexdigest()[:8]}" if text else "")


def launch(asked: Asked, jobs: Sequence[Job], start: Callable[[int], Any]) -> list[Any]:
    """Has Hydra's launcher call `start` with the place of each job; gives what it returned.

    `start` is called in this process or in others, as the launcher has it.
    """
    with tempfile.TemporaryDirectory() as scratch:  # launchers make a folder, and nobody wants it
        launcher = _launching(asked, start, scratch)
        lines = [[word for word in job.composed.overrides if not for_hydra(word)] for job in jobs]
        return [done.return_value for done in launcher.launch(lines, initial_job_idx=0)] if jobs else []


def _launching(asked: Asked, start: Callable[[int], Any], scratch: str = ".") -> Any:
    """Hydra's launcher, set up.

    Raises:
      UserError: there is none of that name, or it does not take what it is given.
    """
    words = [f"{DIR}={scratch}", *asked._hydra, asked._line[0]]
    try:
        with hydra.initialize_config_dir(str(packaged.configs()), version_base="1.3"):
            door = GlobalHydra.instance().hydra
            assert door is not None
            config = door.compose_config(
                config_name="finetune", overrides=words, run_mode=RunMode.MULTIRUN, with_log_configuration=False
            )
            context = HydraContext(config_loader=door.config_loader, callbacks=Callbacks(config))
        return Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=partial(_task, start=start), config=config
        )
    except (HydraException, OmegaConfBaseException, ImportError, RuntimeError) as error:
        raise explained(error) from error


def _task(config: DictConfig, start: Callable[[int], Any]) -> Any:
    return start(HydraConfig.get().job.num)


def _nothing(number: int) -> None:
    """What is started where it is only to be seen whether it could be."""


# What is asked


def _check_settings(given: Mapping[str, str], sweeper: str) -> None:
    if sweeper not in (GRID, SEARCH):
        todo = did_you_mean(sweeper, [GRID, SEARCH]) or f"write {SWEEPER}={SEARCH}, or leave it out"
        raise UserError("recipe", SWEEPER, f"'{sweeper}' is not one of {GRID}, {SEARCH}", todo)
    unknown = [key for key in given if key.startswith("hydra.sweeper") and key not in _SETTINGS]
    if unknown or (sweeper == GRID and _SETTINGS.keys() & given.keys()):
        where = unknown[0] if unknown else min(_SETTINGS.keys() & given.keys())
        todo = f"there are {', '.join(_SETTINGS)}, both of {SWEEPER}={SEARCH}"
        raise UserError("recipe", where, "is nothing that this sweep has", todo)
    if sweeper == SEARCH and given.get(LAUNCHER, BASIC) != BASIC:
        todo = f"leave it out, and write {AT_ONCE}=2 for two trials at once"
        raise UserError("recipe", LAUNCHER, f"{SWEEPER}={SEARCH} starts its trials itself", todo)
    for word in given.items():
        if (package := _NEEDED.get(word)) and not _is_installed(package):
            raise UserError("recipe", "=".join(word), f"{package} is not installed", "pip install 'finetune[sweep]'")


def _is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def _number(key: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UserError("recipe", key, f"'{text}' is no whole number above 0", "e.g. 20")
    return int(text)


def _range(override: Override, sweeper: str) -> Interval | Choices:
    """What a key is to be searched in."""
    key, value = override.get_key_element(), override.value()
    if not isinstance(value, IntervalSweep):
        return Choices(tuple(override.sweep_string_iterator()))
    told = str(override.input_line).partition("=")[2]
    if sweeper == GRID:
        raise UserError("recipe", key, f"'{told}' is a range to search", f"add {SWEEPER}={SEARCH}, or write values")
    kind = keys.wanted(key)
    if kind not in ("a number", "a whole number"):
        raise UserError("recipe", key, f"'{told}' is a range of numbers, and this takes {kind}", "write values: a,b,c")
    low, high, is_log = value.start, value.end, "log" in value.tags
    if low is None or high is None or not low < high or (is_log and low <= 0):
        raise UserError("recipe", key, f"'{told}' holds nothing", "e.g. tag(log,interval(1e-5,1e-1))")
    return Interval(float(low), float(high), kind == "a whole number", is_log)


def _combined(parsed: Iterable[Override]) -> Iterable[tuple[str, ...]]:
    """Every combination of the values."""
    return itertools.product(*map(_values, parsed))


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _corners(ranges: Mapping[str, Interval | Choices]) -> list[dict[str, str]]:
    """Each end of each range once, all others at their first: what a search is checked by before it begins."""
    ends = {key: written(one) for key, one in ranges.items()}
    first = {key: values[0] for key, values in ends.items()}
    return [first, *({**first, key: value} for key, values in ends.items() for value in values[1:])]


def written(one: Interval | Choices) -> tuple[str, ...]:
    """The choices, or the ends of an interval, as a command line has them."""
    if isinstance(one, Choices):
        return one.values
    return (as_text(one, one.low), as_text(one, one.high))


def as_text(one: Interval | Choices, value: Any) -> str:
    """A value of a range as a command line has it.

    >>> as_text(Interval(1e-5, 1e-1, False, True), 0.0001), as_text(Interval(1, 9, True, False), 3.0)
    ('0.0001', '3')
    """
    if isinstance(one, Choices):
        return str(value)
    return str(int(value)) if one.is_whole else repr(float(value))


def _job(line: list[str], swept: Iterable[str], files: Mapping[str, str]) -> Job:
    composed, several = compose_prepared(line, line), {*swept}
    words = [f"recipe={files[_bare(word)]}" if key_in(word) == "recipe" else word for word in line]
    own = tuple(word for word in words if key_in(word) in several)
    return Job(tuple(words), own, composed)


def _bare(word: str) -> str:
    return word.partition("=")[2].strip("'")


def _refuse_one_folder(jobs: Iterable[Job]) -> None:
    """Two trials in one folder would be one run of two recipes."""
    by_folder: dict[str, list[Job]] = {}
    for job in jobs:
        by_folder.setdefault(str(job.composed.recipe.run.dir), []).append(job)
    for folder, there in by_folder.items():
        if is_remote(folder):
            what = f"'{folder}' is not on this machine, and the table of a sweep is made of folders that are"
            raise UserError("recipe", "run.dir", what, "leave it out, and copy what came out")
        if len(there) > 1:
            key = key_in(there[0].own[0]) if there[0].own else "run.seed"
            todo = f"leave it out, or write what differs into it: 'run.dir=runs/${{{key}}}'"
            raise UserError("recipe", "run.dir", f"{len(there)} trials of this sweep have the folder '{folder}'", todo)
