"""What came out of a sweep: a page with one table and its curves, a file for programs, and the best run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finetune.pages import comparison
from finetune.pages.markup import Content, table, tag
from finetune.results.checkpoints import write_text
from finetune.results.run_files import RunFiles, is_run, read
from finetune.results.run_folder import read_record
from finetune.sweeping.trials import LOGS, Outcome, Trial

PAGE, FILE, BEST = "index.html", "sweep.json", "best"
DONE, PRUNED, FAILED, LEFT = "done", "pruned", "failed", "left"


def finish(folder: Path, trials: Sequence[Trial], outcomes: Iterable[Outcome]) -> list[str]:
    """Writes all of it into the folder of the sweep; gives the lines that people are told, the best run last."""
    failed = {outcome.number: outcome for outcome in outcomes if outcome.status}
    states = {trial.number: _state(trial, failed) for trial in trials}
    runs = {trial.number: read(trial.folder) for trial in trials if is_run(trial.folder)}
    best = best_of(run for number, run in runs.items() if states[number] == DONE)
    wrong = [trial for trial in trials if states[trial.number] == FAILED]
    beneath = _failures(wrong, failed, {trial.number: log_of(folder, trial) for trial in wrong})
    names = {str(trial.folder): trial.name for trial in trials}
    comparison.write([run.path for run in runs.values()], folder / PAGE, beneath, title=f"Sweep {folder.name}")
    entries = [_entry(folder, trial, states[trial.number], failed.get(trial.number)) for trial in trials]
    said = {"best": None if best is None else str(best.path), "trials": entries}
    write_text(folder / FILE, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    counts = {kind: list(states.values()).count(kind) for kind in (DONE, PRUNED, FAILED, LEFT)}
    counted = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    lines = [f"sweep: {len(trials)} trial{'s' * (len(trials) != 1)}: {counted}"]
    lines += [f"  failed: {t.name}: {failed[t.number].error}; log: {log_of(folder, t)}" for t in wrong]
    lines.append(f"report: {folder / PAGE}")
    if best is None:
        return [*lines, "best: none, for no trial has come to its end with a result"]
    link(folder / BEST, best.path)
    return [
        *lines,
        f"best: {best.path}: {', '.join(_results(best)) or best.record.get('result', '')}{_own(names, best)}",
    ]


def _state(trial: Trial, failed: Mapping[int, Outcome]) -> str:
    """What has become of a trial."""
    if trial.number in failed:
        return FAILED
    return {"finished": DONE, "pruned": PRUNED}.get(read_record(trial.folder).get("status", ""), LEFT)


def log_of(folder: Path, trial: Trial) -> Path:
    """Where all is that a trial has said."""
    return folder / LOGS / f"{trial.folder.name}.log"


def best_of(runs: Iterable[RunFiles]) -> RunFiles | None:
    """The best run, as the page sorts them; None where none has a result."""
    order = sorted((run for run in runs if comparison.yardstick(run) is not None), key=comparison.rank)
    return order[0] if order else None


def link(place: Path, target: Path) -> None:
    """A link to a folder, in the place of an older one; where the file system has none, the page has it alone."""
    aside = place.with_name(f".{place.name}.new")
    with suppress(OSError):
        aside.unlink(missing_ok=True)
        aside.symlink_to(os.path.relpath(target.resolve(), place.parent.resolve()), target_is_directory=True)
        os.replace(aside, place)


def _results(run: RunFiles) -> list[str]:
    said = []
    for name, found in comparison.results(run).items():
        if found["value"] is not None:
            ends = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f}, 95 %)"
            said.append(f"{name} {found['value']:.3f}{ends}")
    return said


def _own(names: Mapping[str, str], run: RunFiles) -> str:
    own = names.get(str(run.path), "")
    return f"; {own}" if own and own != str(run.path) else ""


def _failures(wrong: Sequence[Trial], failed: Mapping[int, Outcome], logs: Mapping[int, Path]) -> Content:
    """The trials that failed, with what they said."""
    if not wrong:
        return None
    rows: list[list[Content]] = []
    for trial in wrong:
        log = logs[trial.number]
        there = tag("a", log.name, href=quote(f"{LOGS}/{log.name}")) if log.is_file() else ""
        rows.append([trial.folder.name, trial.name, failed[trial.number].error, there])
    return [tag("h2", "Failed"), table(["run", "values", "what it said", "log"], rows)]


def _entry(folder: Path, trial: Trial, state: str, outcome: Outcome | None) -> dict[str, Any]:
    return {
        "run": str(trial.folder),
        "status": state,
        "values": list(trial.own),
        "words": list(trial.words),
        **({} if outcome is None else {"exit": outcome.status, "error": outcome.error}),
        "log": str(log_of(folder, trial)),
    }
