"""Train a new head on a trained TensorFlow-1 model.

usage: python -m finetune recipe=NAME [key=value …]      train, or continue, or say that it is done
       python -m finetune VERB [words …]                    VERB --help says which

  recipe=NAME       a recipe of ours, of recipes/NAME.yaml in the current folder, or a path ending in .yaml
  key=value         any key of the recipe; `--cfg job` prints them all

verbs:
{verbs}

options:
  -m, --multirun    a sweep: train once for each combination of comma-separated values; see docs/sweeps.md
      --dry-run     do all that comes before the training, two steps of it, and write nothing
      --find-lr     look for a learning rate instead: up to 100 steps, lr.svg in the run folder, nothing trained
  -c, --cfg job     print the recipe as composed, and stop (--resolve: with interpolations filled in)
      --check-data  say everything that is wrong or odd with the data, and stop (0 if it is good, else 2)
  -h, --help        print this and stop
      --version     print the version and stop

examples:
  python -m finetune recipe=vgg_2class
  python -m finetune recipe=vgg_2class train.steps=500 train.learning_rate=3e-4
  python -m finetune recipe=vgg_2class source.path=vgg16.ckpt data.path=images data.preprocess=vgg
  python -m finetune recipe=mine.yaml 'learn=[["conv5/.*", 0.1]]' stop_gradient=false
  python -m finetune --multirun recipe=vgg_2class train.learning_rate=1e-2,1e-3,1e-4
  python -m finetune inspect vgg16.ckpt --recipe mine.yaml
  python -m finetune evaluate runs/vgg_2class new_images
  python -m finetune export runs/vgg_2class --to savedmodel
  python -m finetune report runs
  python -m finetune submit recipe=vgg_2class cluster=slurm cluster.time=4:00:00

A run leaves everything in its run folder, run.dir (runs/NAME, with a digest of the overrides if there are any).
The same command again continues that run.

exit status: 0 done, 2 recipe or usage, 3 bad or refused model, 4 numerics, 5 storage, 70 a bug of ours, 75 asked to
end by a signal and saved, a device failed, or a worker did not come: the same command goes on (the same signal again:
128 + its number).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import errno
import importlib
import importlib.util
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import __version__, recipe_files
from finetune.errors import UserError, printable
from finetune.interruption import REQUEUE, Interrupted, Interruption, heeding_signals, ignore_signals
from finetune.large_pages import restart_with_them
from finetune.names import did_you_mean

if TYPE_CHECKING:
    from finetune.compose import Composed

# Hydra and everything heavier is imported where it is needed: `--help` answers at once, and a recipe is known to be
# good before the seconds that TensorFlow takes.

# What a disk or its owner says; any other OSError is a bug of ours.
_STORAGE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,  # what `ulimit -f` allows
    errno.ESTALE,  # a network file system of which the server has lost the file
    errno.ETIMEDOUT,  # or does not answer
    errno.ENOTCONN,  # or whose process at this end has died
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)

CHECK_DATA = "--check-data"
FIND_RATE = "--find-lr"
DRY_RUN = "--dry-run"
BUG = 70
PIPE = 141  # what a shell reports for SIGPIPE
BY_HAND = 130  # what a shell reports for SIGINT


def main(words: list[str] | None = None) -> int:
    """Runs one command line; returns its exit status."""
    is_whole_process, words = words is None, sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        if words[0] in VERBS and words[0] != "train":
            print(help_of(words[0]))
            return 0
        verbs = "\n".join(f"  {name:<17} {what}" for name, (_, _, what) in VERBS.items())
        print((__doc__ or "").format(verbs=verbs).rstrip())
        return 0
    if words[:1] == ["--version"]:
        print(f"finetune {__version__}")
        return 0
    if is_whole_process:
        restart_with_them()
    try:
        status = guarded(lambda: _dispatch(words))
        if is_whole_process and status == REQUEUE:
            ignore_signals()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return BY_HAND


def guarded(action: Callable[[], int | None], log: Path | None = None) -> int:
    """The exit status of `action`; what ends it is said on stderr, and with the traceback in `log`, that of its run."""
    try:
        return action() or 0
    except UserError as error:
        _tell(str(error), None if error.where == "run.dir" else log)  # that is about a folder of another run
        return error.status
    except Interrupted as by:
        _tell(f"interrupted by {by}; the same command goes on", log, "")
        return REQUEUE
    except BrokenPipeError:  # whoever read along has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - stays open until the end
        return PIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _STORAGE:
            where = str(error.filename or "a file of the run")
            storage = UserError("storage", where, str(error.strerror), "see to it, then give the same command again")
            _tell(str(storage), log)
            return storage.status
        bug = f"error[bug] {type(error).__name__}: {error}; please report it"
        kept = _kept(log, printable(bug), traceback.format_exc())
        if os.environ.get("FINETUNE_DEBUG") == "1":
            print(traceback.format_exc(), file=sys.stderr)
        more = f"the traceback is in {log}" if kept else "FINETUNE_DEBUG=1 shows the traceback"
        _tell(printable(f"{bug} ({more})"))
        return BUG


def _tell(text: str, log: Path | None = None, trace: str | None = None) -> None:
    """Says on stderr what ended a run, and in its log with the traceback, that of the error under way."""
    _kept(log, text, traceback.format_exc() if trace is None else trace)
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(text, file=sys.stderr)


def train(words: list[str]) -> int:
    """train what the recipe says; needs no verb"""
    from finetune.compose import compose, print_recipe

    instead = [word for word in (CHECK_DATA, FIND_RATE, DRY_RUN) if word in words]
    flags, overrides = _flags([word for word in words if word not in instead])
    if instead and len(others := [*instead, *flags]) > 1:
        what = f"goes with one recipe and not with {others[1]}"
        raise UserError("recipe", others[0], what, "leave one of them out")
    if instead == [CHECK_DATA]:
        return _check_data(compose(overrides))
    if "--cfg" in flags:
        return print_recipe(flags, overrides)
    with heeding_signals() as interruption:
        if flags:
            from finetune.sweeping.sweep import sweep

            return sweep(overrides, interruption)
        return _start(compose(overrides), interruption, *instead)


# Verb -> the room that opens with its help, the function in it that takes the words after it, and what it is for.
VERBS = {
    "train": ("finetune.__main__", "train", "train what the recipe says; needs no verb"),
    "list": ("finetune.listing", "show", "print the recipes, or the runs of a folder"),
    "inspect": ("finetune.showing", "show", "print what a pair is and where it can be cut"),
    "evaluate": ("finetune.evaluating", "evaluate", "print how good a finished run is, on these examples or others"),
    "export": ("finetune.exporting", "export", "hand a finished run on as a SavedModel, TFLite, ONNX …"),
    "predict": ("finetune.predicting", "predict", "print what a finished run says of new images or rows"),
    "extract": ("finetune.extracting", "extract", "write the features at the cut to a file"),
    "submit": ("finetune.submitting", "submit", "let a cluster train: Slurm, Kubernetes, or a process that stays here"),
    "report": ("finetune.reporting", "report", "write the page of a run, or one for several"),
}


def help_of(verb: str) -> str:
    """What the room of a verb says of it, without importing what it needs."""
    spec = importlib.util.find_spec(VERBS[verb][0])
    code = Path(str(spec and spec.origin)).read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(code)) or ""


def _dispatch(words: list[str]) -> int:
    first = words[0] if words else ""
    if first in VERBS:
        room, function, _ = VERBS[first]
        return getattr(importlib.import_module(room), function)(words[1:])
    if first[:1].isalpha() and first.replace("-", "_").isidentifier() and first not in recipe_files.known():
        raise UserError("recipe", first, f"no such verb; the verbs are {', '.join(VERBS)}", did_you_mean(first, VERBS))
    return train(words)


def _start(composed: Composed, interruption: Interruption, *instead: str) -> int:
    from finetune.check import check_with_all

    check_with_all(composed.recipe)
    from finetune.remote.places import is_remote
    from finetune.sweeping.wire import held

    how: dict[str, Any] = {{FIND_RATE: "find_rate", DRY_RUN: "dry_run"}[word]: True for word in instead}
    if (goes_on := held(os.environ)) is not None:
        how["goes_on"] = goes_on
    how["interruption"] = interruption
    if is_remote(composed.recipe.run.dir):
        return guarded(lambda: _run_elsewhere(composed, how))
    return _run(composed, how)


def _run(composed: Composed, how: dict[str, Any]) -> int:
    from finetune.run import run

    log = None if how.keys() & {"find_rate", "dry_run"} else Path(composed.recipe.run.dir or ".") / "train.log"
    return guarded(lambda: run(composed.recipe, composed.yaml, composed.overrides, **how), log)


def _run_elsewhere(composed: Composed, how: dict[str, Any]) -> int:
    """Works in a folder of this machine, from which what is whole is sent to where the run lies."""
    from finetune.distributing.cluster import find_cluster
    from finetune.remote.mirroring import at_home

    recipe, check = composed.recipe, how["interruption"].check
    cluster = find_cluster(recipe.distribute, recipe.run.workers, recipe.run.worker, os.environ)
    writes = "dry_run" not in how and (cluster is None or cluster.is_chief)
    how["interruption"].begin()
    with at_home(str(recipe.run.dir), recipe.run.wait, writes, check, _say) as (folder, send):
        there = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, dir=str(folder)))
        return _run(dataclasses.replace(composed, recipe=there), {**how, "send": send})


def _say(line: str) -> None:
    print(printable(line), flush=True)


def _check_data(composed: Composed) -> int:
    from finetune.check import check

    check(composed.recipe)
    from finetune.checkup import check_data

    return check_data(composed.recipe)


def _flags(words: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags that we take, in their long form, and the other words."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--resolve", action="store_true")
    try:
        options, rest = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError("recipe", "command line", str(error), "see --help") from None
    if unknown := [word for word in rest if word.startswith("-")]:
        plain = unknown[0].lstrip("-")
        todo = f"did you mean {plain}?" if "=" in plain else "see --help"
        raise UserError("recipe", unknown[0], "no such option", todo)
    if options.cfg and options.multirun:
        raise UserError("recipe", "--cfg", "prints one recipe, not those of --multirun", "leave one of the two out")
    if options.resolve and not options.cfg:
        raise UserError("recipe", "--resolve", "goes with --cfg", "add --cfg job")
    shown = ["--cfg", options.cfg] if options.cfg else []
    return shown + ["--resolve"] * options.resolve + ["--multirun"] * options.multirun, rest


def _kept(log: Path | None, text: str, trace: str) -> bool:
    """Adds what ended a run to its log, if there is a run folder that no other process is in; whether it did."""
    if log is None:
        return False
    from finetune.results.lock import LOCK
    from finetune.results.run_folder import RECIPE

    try:
        if not (log.parent / RECIPE).is_file() or (log.parent / LOCK).exists():
            return False
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            lines = "".join(f"{printable(line)}\n" for line in trace.splitlines())
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n{lines}")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
