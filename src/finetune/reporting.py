"""The page of a run, or one page for several.

usage: python -m finetune report RUN [RUN …] [options]

  RUN                 a run folder, finished or not, or a folder of runs

options:
      --out FILE      FILE.html; without it report.html in the folder that was named, or in the one that holds all

examples:
  python -m finetune report runs/vgg_2class
  python -m finetune report runs
  python -m finetune report runs/vgg_2class runs/vgg_2class_lora --out both.html
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from finetune.errors import UserError, printable
from finetune.pages import comparison, page
from finetune.parser import Parser
from finetune.remote.fetching import run_at_hand
from finetune.remote.places import is_remote
from finetune.results.run_files import is_run

USAGE = "write report RUN [RUN …] [--out FILE.html]; RUN is a run folder, or a folder of them"


def report(words: list[str]) -> int:
    """Writes a page and says where it is."""
    options = _options(words)
    if options.out is None and any(map(is_remote, options.runs)):
        raise UserError("recipe", "--out", "not given, and a run is not on this machine", "add --out FILE.html")
    options.runs = [run_at_hand(given) for given in options.runs]
    runs = list(dict.fromkeys(run for given in options.runs for run in _runs(given)))
    out = None if options.out is None else Path(options.out)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    several = len(runs) > 1 or not is_run(Path(options.runs[0]))
    place = (
        comparison.write(runs, out or _common(options.runs) / page.PAGE) if several else page.write(runs[0], out=out)
    )
    print(printable(f"report: {place}"))
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = Parser("report", USAGE)
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument("--out", metavar="FILE.html")
    options = parser.parse_args(words)
    if options.out is not None and not options.out.endswith((".html", ".htm")):
        raise UserError("recipe", "--out", f"'{options.out}' does not end in .html", "a report is one HTML file")
    if options.out is not None and Path(options.out).is_dir():
        raise UserError("recipe", "--out", f"'{options.out}' is a folder", "name a file in it")
    return options


def _runs(given: str) -> list[Path]:
    """The run folder itself, or those in it, as a sweep leaves them.

    Raises:
      UserError: there are none.
    """
    folder = Path(given)
    if is_run(folder):
        return [folder]
    found = sorted(path for path in folder.glob("*") if is_run(path)) if folder.is_dir() else []
    if not found:
        what = "holds no run" if folder.is_dir() else "is not there" if not folder.exists() else "is a file"
        raise UserError("recipe", given, what, "name a run folder, e.g. runs/vgg_2class")
    return found


def _common(given: Sequence[str]) -> Path:
    """The folder that holds all that was named: a page about them lies there."""
    if len(given) == 1:
        return Path(given[0])
    return Path(os.path.relpath(os.path.commonpath([Path(name).resolve().parent for name in given])))
