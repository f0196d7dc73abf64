"""The recipes there are, or the runs in a folder and what came out of them.

usage: python -m finetune list [FOLDER] [--json]

  FOLDER            whose runs are listed, those of sweeps in folders of it too; without it the recipes are, and
                    the runs in runs/

options:
      --json        for programs

examples:
  python -m finetune list
  python -m finetune list runs
  python -m finetune list runs --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune import recipe_files
from finetune.errors import UserError, printable
from finetune.parser import Parser
from finetune.remote.fetching import run_at_hand
from finetune.results.run_files import is_run
from finetune.results.run_folder import record_for_people

RUNS = "runs"  # where a recipe that does not say otherwise leaves its run
DEEPEST = 4  # folders within folders that are looked into
USAGE = "write list [FOLDER] [--json]"


def show(words: list[str]) -> int:
    """Prints recipes and runs."""
    options = _options(words)
    folder = Path(run_at_hand(options.folder or RUNS, but=("checkpoints", "model", "best", "tensorboard")))
    if options.folder is not None and not folder.is_dir():
        there = "is a file" if folder.exists() else "is not there"
        raise UserError("recipe", options.folder, f"this folder {there}", "name a folder of runs, e.g. runs")
    found = [entry(run) for run in runs_in(folder)]
    found.sort(key=lambda run: (run["started"] or "", run["run"]))
    known = {} if options.folder else {n: recipe_files.headline(p) for n, p in sorted(recipe_files.known().items())}
    if options.json:
        print(
            json.dumps({**({} if options.folder else {"recipes": known}), "runs": found}, indent=1, ensure_ascii=False)
        )
        return 0
    width = max(map(len, known), default=0)
    lines = [f"{name:<{width}}  {said}".rstrip() for name, said in known.items()]
    if found:
        lines += [""] * bool(lines) + table(found)
    elif options.folder:
        lines.append(f"{options.folder} holds no run")
    for line in lines:
        print(printable(line))
    return 0


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser("list", USAGE)
    parser.add_argument("folder", metavar="FOLDER", nargs="?")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def runs_in(folder: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """The run folders in a folder, or that folder itself."""
    if is_run(folder):
        yield folder
    elif depth and folder.is_dir():
        for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
            yield from runs_in(inner, depth - 1)


def entry(run: Path) -> dict[str, Any]:
    """What its record says of a run: `status` is finished, pruned, unfinished, or unknown where it cannot be read."""
    record = record_for_people(run)
    metrics = {name: value for name, value in (record.get("metrics") or {}).items() if name != "loss"}
    metric = next((name for name in metrics if not name.endswith("/loss")), None)
    status = record.get("status")
    return {
        "run": str(run),
        "status": "unknown" if not record else status if status in ("finished", "pruned") else "unfinished",
        "step": record.get("step") if status == "finished" else _saved(run),
        "metric": metric,
        "value": metrics.get(metric or ""),
        "interval": (record.get("intervals") or {}).get(metric or ""),
        "best": record.get("best"),
        "started": record.get("started"),
    }


def _saved(run: Path) -> int | None:
    """The step of the newest checkpoint."""
    steps = [path.stem.rpartition("-")[2] for path in (run / "checkpoints").glob("*.index")]
    return max((int(step) for step in steps if step.isdigit()), default=None)


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each run, the oldest first."""
    rows = [["run", "status", "step", "result", "best", "started"]]
    for run in found:
        best = run["best"]
        rows.append(
            [
                run["run"],
                run["status"],
                "" if run["step"] is None else str(run["step"]),
                _result(run),
                f"{best['metric']} {best['value']:.4g} at {best['step']}" if best else "",
                (run["started"] or "")[:16].replace("T", " "),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _result(run: Mapping[str, Any]) -> str:
    if run["value"] is None:
        return ""
    ends = f" ({run['interval'][0]:.3f} to {run['interval'][1]:.3f})" if run["interval"] else ""
    return f"{run['metric']} {run['value']:.3f}{ends}"
