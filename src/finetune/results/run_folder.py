"""The folder that a run leaves: whether it is new, to be continued, finished, or another recipe's."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune.calibrating.machine import this_machine
from finetune.errors import UserError
from finetune.large_pages import are_on
from finetune.learning.course import Phase
from finetune.plan import Plan
from finetune.recipe import Recipe
from finetune.recipe_files import differences, flat, parse
from finetune.results import rates
from finetune.results.checkpoints import is_aside, sync_folder, tidy, write_text
from finetune.results.lock import LOCK

FORMAT = 1  # of all that is in a run folder; to be raised when an older finetune could no longer go on with it
RECIPE = "recipe.yaml"
RECORD = "run.json"
CHECKPOINTS = "checkpoints"
MODEL = "model"
BEST = "best"

# Keys that change how long a run goes on, or what it tells, and no value that it computes.
HARMLESS = (
    "run.dir",
    "run.wait",
    "run.wait_for_workers",
    "run.allow_change",
    "run.workers",
    "run.worker",
    "distribute",
    "train.steps",
    "train.epochs",
    "train.log_every_steps",
    "eval.",
    "checkpoint.",
)
HARMLESS += ("train.stop_early", "train.on_nan", "cache.mode", "cache.dir", "cache.max_gb")
WHO_AND_WHERE = ("run.dir", "run.wait", "run.wait_for_workers", "run.allow_change", "run.workers", "run.worker")
WHO_AND_WHERE += ("distribute",)
# What the numbers in the checkpoints were counted by.
HARMFUL = ("eval.metric", "eval.goal", "eval.min_delta")
LENGTHS = ("train.steps", "train.epochs")  # where a schedule falls towards the last step they are not harmless
# What TensorFlow takes from the environment.
_ENVIRONMENT = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
_ENVIRONMENT += ("XLA_FLAGS", "TF_XLA_FLAGS", "NVIDIA_TF32_OVERRIDE")


@dataclass(frozen=True)
class RunFolder:
    """A run folder as it was found; `record` is its `run.json`, empty if there is none."""

    path: Path
    record: Mapping[str, Any]
    changed: bool  # the recipe differs from the stored one, harmlessly

    @property
    def is_finished(self) -> bool:
        """Whether this very recipe has been trained to its end here."""
        return self.record.get("status") == "finished" and not self.changed

    @property
    def is_pruned(self) -> bool:
        """Whether it was given up, for other runs of its sweep were better."""
        return self.record.get("status") == "pruned" and not self.changed

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints for resuming."""
        return self.path / CHECKPOINTS

    @property
    def model(self) -> Path:
        """The folder of the finished pair."""
        return self.path / MODEL

    @property
    def best(self) -> Path:
        """The folder of the best evaluation's pair."""
        return self.path / BEST


def claim(path: Path, recipe_yaml: str, allowed: Sequence[str] = ()) -> RunFolder:
    """Looks at a run folder; writes nothing.

    Args:
      allowed: keys, or groups of them, that may differ from those of the run that is there.

    Raises:
      UserError: it holds a run of another recipe, or something that is no run.
    """
    stored = path / RECIPE
    if not path.exists():
        return RunFolder(path, {}, False)
    if not path.is_dir():
        raise UserError("recipe", "run.dir", f"'{path}' is a file", "name a folder")
    if not stored.exists():
        found = {f.name for f in path.iterdir() if not is_aside(f.name)}  # of a run killed before it had a recipe
        others = sorted(found - {rates.LINES, rates.PICTURE, LOCK})
        if others:
            what = f"'{path}' holds {others[0]} and is no run folder"
            raise UserError("recipe", "run.dir", what, "name a new or an empty folder")
        return RunFolder(path, {}, False)
    record = read_record(path)
    if record.get("format", FORMAT) > FORMAT:
        written = record.get("versions", {}).get("finetune", "a later one")
        what = f"'{path}' was written by finetune {written}, in a format that {_version('finetune')} does not know"
        raise UserError("recipe", "run.dir", what, "go on with that version, or name another run.dir")
    # A run that is older than a key had what is its default now.
    changes = differences(_stored_recipe(stored), recipe_yaml, flat(asdict(Recipe())))
    counted = HARMFUL if any((path / CHECKPOINTS).glob("*.index")) else ()
    asked = parse(recipe_yaml, "this recipe")
    harmless = tuple(key for key in HARMLESS if key != "eval." or not _goes_by_plateaus(asked))
    counted += LENGTHS if _falls_to_the_end(asked) else ()
    harmful = [c for c in changes if c[0] in counted or not c[0].startswith(harmless)]
    harmful = [c for c in harmful if not _is_allowed(c[0], allowed)]
    if harmful:
        shown = [f"  {key}: {old!r} there, {new!r} now" for key, old, new in harmful[:3]]
        what = f"'{path}' is the run of another recipe: {len(harmful)} keys differ"
        names = ",".join(dict.fromkeys(key for key, _, _ in harmful[:3]))
        todo = f"name another run.dir, or go on all the same with run.allow_change=[{names}]"
        raise UserError("recipe", "run.dir", what, todo, *shown)
    changes = [c for c in changes if c[0] not in WHO_AND_WHERE]
    return RunFolder(path, record, bool(changes))


def _is_allowed(key: str, allowed: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in allowed)


def _schedules(asked: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The schedule of each phase with what ends the phase; of a recipe without phases it is one that nothing ends."""
    of_all = (asked.get("train") or {}).get("schedule") or "constant"
    phases = asked.get("phases") or [{}]
    return [(phase.get("schedule") or of_all, phase.get("until") or {}) for phase in phases]


def _goes_by_plateaus(asked: Mapping[str, Any]) -> bool:
    """Whether evaluations decide how long something is trained, or at what rate.

    Early stopping does not: it ends a run sooner or later, as `train.steps` does, and changes none of its steps.
    """
    return any(schedule == "plateau" or until.get("plateau") for schedule, until in _schedules(asked))


def _falls_to_the_end(asked: Mapping[str, Any]) -> bool:
    """Whether the rate of some step depends on which step is the last one."""
    return any(
        schedule not in ("constant", "plateau") and until.get("step") is None and until.get("epoch") is None
        for schedule, until in _schedules(asked)
    )


def _stored_recipe(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError("recipe", str(path), "is no UTF-8 text", "put it back, or name another run.dir") from None


def read_record(path: Path) -> dict[str, Any]:
    """The `run.json` of a folder; empty if there is none.

    Raises:
      UserError: there is one that cannot be read; who went on without it would compare nothing with what was.
    """
    try:
        found = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError("storage", str(path / RECORD), f"cannot be read: {error.strerror}") from error
    except ValueError:  # no JSON, or no text
        found = None
    if not isinstance(found, dict):
        what, todo = "is no record of a run", "put it back, or remove it to go on without what it knows"
        raise UserError("storage", str(path / RECORD), what, todo)
    return found


def record_for_people(path: Path) -> dict[str, Any]:
    """The same for those who only look: empty too if it cannot be read."""
    try:
        return read_record(path)
    except UserError:
        return {}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Replaces the `run.json` of a folder at once."""
    write_text(path / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def add_to_record(path: Path, entries: Mapping[str, Any]) -> None:
    """Puts entries into the `run.json` of a folder, in the place of those of the same name."""
    write_record(path, {**read_record(path), **entries})


def prepare(folder: RunFolder, recipe_yaml: str) -> None:
    """Makes the folder, removes what a killed process left half written in it, and stores the recipe."""
    for place in (folder.path, folder.checkpoints):
        tidy(place)
    write_text(folder.path / RECIPE, recipe_yaml)  # first, for without it nothing is a run folder
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    sync_folder(folder.path)


def kept(record: Mapping[str, Any], phases: Sequence[Phase]) -> dict[str, list[str]]:
    """The tensors that a run keeps of each phase that it has begun; of one that says nothing of it, nothing."""
    return record.get("kept", {phase.name: [] for phase in phases})


def check_same(
    record: Mapping[str, Any], digests: Mapping[str, Mapping[str, str]], allowed: Sequence[str] = ()
) -> None:
    """Refuses to go on with a run whose source or data is not what it was, unless that is `allowed` by its key.

    Raises:
      UserError: naming what has changed.
    """
    for key, now in digests.items():
        before = record.get("digests", {}).get(key, now)
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed and not _is_allowed(key, allowed):
            what = f"{', '.join(changed)} changed since this run began"
            todo = f"name a new run.dir to begin anew, or go on all the same with run.allow_change=[{key}]"
            raise UserError("data" if key == "data.path" else "source", key, what, todo)


def conditions(workers: int = 1) -> dict[str, Any]:
    """What the bits of a run depend on, beside its recipe and its engine."""
    machine = this_machine()
    return {
        "tensorflow": _version("tensorflow"),
        "keras": _version("keras"),
        "numpy": _version("numpy"),
        "processor": machine.processor,
        "its instructions": machine.flags,  # processors of several kinds may have one name
        "cores": machine.cores,
        "GPU": ", ".join(machine.gpus) or "none",
        "workers": workers,
        **{name: os.environ.get(name, "unset") for name in _ENVIRONMENT},
    }


def other_conditions(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A warning where a run goes on under others than those that it began under.

    Of what an older version did not write down nothing is said.
    """
    before = record.get("conditions", {})
    changed = [
        f"{name} {before[name]} then, {now[name]} now" for name in now if before.get(name, now[name]) != now[name]
    ]
    said = f"warning: the last bits will not be those of an uninterrupted run: {'; '.join(changed)}"
    return [said] if changed else []


def provenance(plan: Plan, seed: int, overrides: Sequence[str], proof: Any, workers: int = 1) -> dict[str, Any]:
    """What made this run: enough to make it again. `proof`: a dataclass, of its load; None if there is none."""
    packages = ("finetune", "tensorflow", "keras", "numpy", "hydra-core")
    return {
        "format": FORMAT,
        "status": "running",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": "python -m finetune " + " ".join(sys.argv[1:]),
        "overrides": list(overrides),
        "source": str(plan.source.pair.meta),
        "data": {
            "training": len(plan.training),
            "held_out": len(plan.held_out),
            "classes": {task.name: list(task.classes) for task in plan.tasks},
        },
        "conditions": conditions(workers),
        "proof": asdict(proof) if proof else None,
        "seed": seed,
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "large_pages": are_on(os.environ),
        },
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
