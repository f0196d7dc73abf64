"""What a run folder holds, read back for people: of a finished run, of one under way, and of one that was killed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune.judging.findings import EVALUATION, PREDICTIONS
from finetune.recipe_files import flat, parse
from finetune.results.run_folder import RECIPE, record_for_people

METRICS = "metrics.jsonl"
LOG = "train.log"
PICTURE = "graph.svg"
GLIMPSES = "examples.json"

_BEGINNINGS = ("init: ", "resume: ")  # of the log's lines with which a process begins
# What is told of the page is not yet there when that is written, and an error may be one of a process that never began.
_AFTERWARDS = ("report: ", "error[", "interrupted by ")
_TIME = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class RunFiles:
    """The files of one run; what is not there, or not yet, is empty.

    `recipe` has dotted keys. `entries` are the lines of `metrics.jsonl`, `predictions` those of `predictions.csv` by
    column, and `log` those of `train.log` without their times. `glimpses` show some held-out examples, by their line:
    {"image": a data URI} or {"text": words}. `seconds` is how long its processes have trained in all.
    """

    path: Path
    recipe_yaml: str
    recipe: Mapping[str, Any]
    record: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    predictions: Mapping[str, Sequence[str]]
    log: Sequence[str]
    seconds: float
    picture: bytes
    glimpses: Mapping[int, Mapping[str, str]]

    @property
    def name(self) -> str:
        """What the run is called: its folder's name."""
        return self.path.resolve().name

    @property
    def is_finished(self) -> bool:
        """Whether it came to its end."""
        return self.record.get("status") == "finished"

    @property
    def step(self) -> int:
        """The last step that is known of."""
        return max([self.record.get("step", 0), *(entry["step"] for entry in self.entries)])

    def of_phase(self, phase: str) -> list[Mapping[str, Any]]:
        """The numbers that were logged of `train`, `eval`, `probe` or `rollback`."""
        return [entry for entry in self.entries if entry["phase"] == phase]


def is_run(path: Path) -> bool:
    """Whether a folder is a run folder, as far as its files say."""
    return (path / RECIPE).is_file()


def read(path: Path) -> RunFiles:
    """What there is in a run folder.

    Raises:
      UserError: its recipe is none.
    """
    recipe_yaml = _text(path / RECIPE)
    log = _text(path / LOG).splitlines()
    graph = path / PICTURE
    return RunFiles(
        path=path,
        recipe_yaml=recipe_yaml,
        recipe=flat(parse(recipe_yaml, str(path / RECIPE))),
        record=record_for_people(path),
        entries=entries(path),
        evaluation=_mapping(path / EVALUATION),
        predictions=_columns(path / PREDICTIONS),
        log=[line[len("2000-01-01 00:00:00 ") :] for line in log],
        seconds=_seconds(log),
        picture=graph.read_bytes() if graph.is_file() else b"",
        glimpses={int(line): shown for line, shown in _mapping(path / GLIMPSES).items()},
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _mapping(path: Path) -> dict[str, Any]:
    """A JSON file's; they are written at once, so that what cannot be read is another's and no business of ours."""
    with contextlib.suppress(ValueError):
        found = json.loads(_text(path) or "{}")
        return found if isinstance(found, dict) else {}
    return {}


def entries(folder: Path) -> list[dict[str, Any]]:
    """The lines of its `metrics.jsonl` that are whole; none where there is no such file."""
    found = []
    for line in _text(folder / METRICS).splitlines():
        with contextlib.suppress(ValueError):  # one that is being written, or was cut short by a kill
            entry = json.loads(line)
            if isinstance(entry, dict) and {"step", "phase"} <= entry.keys():
                found.append(entry)
    return found


def first_numbers(folder: Path, phase: str) -> dict[str, Any]:
    """What was logged of a phase at step 0, before any training; nothing if it was not."""
    return next((entry for entry in entries(folder) if entry["phase"] == phase and entry["step"] == 0), {})


def _columns(path: Path) -> dict[str, list[str]]:
    names, *rows = [row for row in csv.reader(io.StringIO(_text(path))) if row] or [[]]
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _seconds(log: Sequence[str]) -> float:
    """How long the processes lived that wrote a log, each counted from its first line to its last."""
    seconds, began, last = 0.0, None, None
    for line in log:
        if line[20:].startswith(_AFTERWARDS):
            continue
        try:
            now = datetime.strptime(line[:19], _TIME)
        except ValueError:  # a traceback
            continue
        if began is None or line[20:].startswith(_BEGINNINGS):
            seconds += (last - began).total_seconds() if began and last else 0.0
            began = now
        last = now
    return seconds + ((last - began).total_seconds() if began and last else 0.0)
