"""Lets a cluster train: recipe and code are frozen as they are, and the job goes on by itself until it is done.

usage: python -m finetune submit recipe=NAME [key=value …] cluster=KIND [cluster.key=value …]
       python -m finetune submit --status|--logs|--cancel RUN

  recipe=NAME       as for training, with any key=value
  cluster=KIND      slurm, kubernetes, or local (a process of this machine that outlives the terminal); or a file
                    clusters/NAME.yaml of the current folder, or a path ending in .yaml, with `kind:` and other keys
  cluster.key=value time, notice, nodes, tasks, cpus, gpus, mem, partition, account, qos, at_once, lines, setup,
                    python; for kubernetes image, volumes, namespace (jobs/cluster_words.py says what they mean)
  RUN               a run folder, one of a sweep too, what submit has printed of a sweep, or the words that were
                    submitted

options:
  -m, --multirun    a run for each combination of comma-separated values, as one array
      --dry-run     print the script, or the manifest, and do nothing
      --status      print whether the job of a run waits, runs or is over, and the last step that is saved
      --logs        print what the job of a run has printed; -f, --follow: go on until it is over
      --cancel      take the job of a run out of the queue, or ask it to save and to end

examples:
  python -m finetune submit recipe=vgg_2class cluster=slurm cluster.time=4:00:00 cluster.gpus=1
  python -m finetune submit -m recipe=vgg_2class train.learning_rate=1e-2,1e-3 cluster=slurm cluster.at_once=4
  python -m finetune submit --status runs/vgg_2class
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune import submitted
from finetune.check import check_with_all
from finetune.compose import Composed, anchored, compose, run_dir
from finetune.errors import UserError, printable
from finetune.jobs import cluster_words, detached, job_folder, kubernetes, sbatch
from finetune.jobs.cluster_words import KUBERNETES, LOCAL, SLURM, Cluster
from finetune.jobs.freezing import freeze
from finetune.jobs.job_folder import Job
from finetune.jobs.job_script import Order, script
from finetune.parser import Parser
from finetune.plan import make_plan
from finetune.remote.places import is_remote
from finetune.results import run_folder
from finetune.sweeping.asked import asked

USAGE = "write submit recipe=NAME … cluster=KIND, or submit --status RUN"


@dataclass(frozen=True)
class _Runs:
    """What is to be submitted: whole recipes, and the folder that their job is called by."""

    composed: Sequence[Composed]
    place: Path
    is_sweep: bool


def submit(words: list[str]) -> int:
    """Submits what the words say, or tells of what was submitted."""
    options, rest = _options(words)
    asked = [name for name in ("status", "logs", "cancel") if getattr(options, name)]
    if len(asked) > 1 or (asked and options.dry_run):
        raise UserError("recipe", "submit", "one thing at a time", USAGE)
    if options.follow and asked != ["logs"]:
        raise UserError("recipe", "--follow", "goes with --logs", "add --logs, or leave it out")
    if asked:
        job, tasks = _job(rest, options.multirun, f"--{asked[0]}")
        if options.logs:
            return submitted.logs(job, tasks, options.follow)
        return (submitted.status if options.status else submitted.cancel)(job, tasks)
    ours = [word for word in rest if cluster_words.is_word(word)]
    theirs = [word for word in rest if not cluster_words.is_word(word)]
    runs = _runs(theirs, options.multirun)
    cluster = cluster_words.settled(ours)
    unfinished = [composed for composed in runs.composed if _has_work(composed)]
    if not unfinished:
        return 0
    return _submit(_Runs(unfinished, runs.place, runs.is_sweep), cluster, words, options.dry_run)


def _options(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser("submit", USAGE)
    parser.add_argument("--multirun", "-m", action="store_true")
    for name in ("--dry-run", "--status", "--logs", "--cancel"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--follow", "-f", action="store_true")
    options, rest = parser.parse_known_args(words)
    if unknown := [word for word in rest if word.startswith("-")]:
        raise UserError("recipe", "submit", f"unrecognized arguments: {unknown[0]}", USAGE)
    return options, rest


def _runs(words: list[str], is_sweep: bool) -> _Runs:
    """The recipes that the words mean."""
    if not is_sweep:
        composed = anchored(compose(words))
        return _Runs([composed], _place(composed, words), False)
    each = [anchored(job.composed) for job in asked(words).jobs]
    if not each:
        what = "chooses values as it goes, and these jobs are submitted at once"
        raise UserError("recipe", "--multirun", what, "give the values: key=1e-2,1e-3")
    folders = [composed.recipe.run.dir for composed in each]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError("recipe", "run.dir", f"'{twice[0]}' is the folder of several runs", "leave run.dir out")
    # As a run's folder is a function of its words, so is the name of a sweep.
    place = Path(os.path.abspath(run_dir(each[0].recipe.name, words)))
    return _Runs(each, place, True)


def _place(composed: Composed, words: Sequence[str]) -> Path:
    """The folder that the job of a run lies beside: its own, or what that would be if it were on this machine."""
    there = composed.recipe.run.dir or "."
    return Path(os.path.abspath(run_dir(composed.recipe.name, words))) if is_remote(there) else Path(there)


def _has_work(composed: Composed) -> bool:
    """Whether there is anything left to train; refuses what `train` would refuse before it imports TensorFlow."""
    recipe = composed.recipe
    check_with_all(recipe)
    if is_remote(recipe.run.dir):  # the job itself looks there
        make_plan(recipe)
        return True
    folder = run_folder.claim(Path(recipe.run.dir or "."), composed.yaml, recipe.run.allow_change)
    if folder.is_finished:
        print(f"finished: {folder.path} (step {folder.record['step']}): {folder.record['result']}")
        return False
    run_folder.check_same(folder.record, make_plan(recipe).digests, recipe.run.allow_change)
    return True


def _submit(runs: _Runs, cluster: Cluster, words: Sequence[str], is_dry: bool) -> int:
    before = None if is_dry else submitted.newest(runs.place)
    if before and submitted.is_there(*before):
        what = f"job {submitted.name(*before)} is there for it already"
        raise UserError("recipe", str(runs.place), what, "see submit --status, or end it with submit --cancel")
    folder = job_folder.next_folder(job_folder.beside(runs.place))
    name = kubernetes.name_of(runs.place, folder.name) if cluster.kind == KUBERNETES else runs.place.name
    order = Order(folder, name, len(runs.composed), runs.is_sweep, Path.cwd(), words)
    text = script(order, cluster)
    yaml = kubernetes.manifest(order, cluster) if cluster.kind == KUBERNETES else ""
    if is_dry:
        print(yaml or text, end="")
        return 0
    if cluster.kind == KUBERNETES:
        kubernetes.check_mounted(cluster, {"where the run goes": runs.place, "the current folder": order.here})
    if cluster.kind == SLURM:
        sbatch.check_there()
    job_folder.make(folder)
    try:
        freeze(folder, [(composed.recipe, composed.yaml) for composed in runs.composed], order.here)
        (folder / job_folder.SCRIPT).write_text(text, encoding="utf-8")
        if yaml:
            (folder / kubernetes.MANIFEST).write_text(yaml, encoding="utf-8")
        number = _hand_over(cluster, folder) or name
        folders = tuple(Path(c.recipe.run.dir or ".") for c in runs.composed) if runs.is_sweep else (runs.place,)
        job_folder.write(Job(folder, cluster.kind, number, os.uname().nodename, folders))
    except UserError:
        job_folder.remove(folder)
        raise
    for line in _told(cluster, folder, number, runs):
        print(printable(line))
    return 0


def _hand_over(cluster: Cluster, folder: Path) -> str:
    """The id that the scheduler gives to a job; none where somebody else hands it over."""
    if cluster.kind == KUBERNETES:
        return ""
    return sbatch.hand_over(folder) if cluster.kind == SLURM else detached.hand_over(folder)


def _told(cluster: Cluster, folder: Path, number: str, runs: _Runs) -> Iterator[str]:
    """The two lines that a submission is told in."""
    if cluster.kind == KUBERNETES:
        yield f"kubectl apply -f {shlex.quote(str(folder / kubernetes.MANIFEST))}"
    else:
        yield f"job: {number} ({'process on this machine' if cluster.kind == LOCAL else cluster.kind})"
    yield f"runs: {len(runs.composed)}, see submit --status {runs.place}" if runs.is_sweep else f"run: {runs.place}"


def _job(words: list[str], is_sweep: bool, option: str) -> tuple[Job, Sequence[int]]:
    """The newest job of a run folder, or of the run that words mean, and which of its tasks are meant."""
    if not words:
        raise UserError("recipe", option, "of which run?", f"write submit {option} RUN, or recipe=NAME …")
    if len(words) == 1 and "=" not in words[0]:
        place = Path(os.path.abspath(words[0]))
    else:
        place = _runs([word for word in words if not cluster_words.is_word(word)], is_sweep).place
    found = submitted.newest(place)
    if found is None:
        raise UserError("recipe", option, f"'{place}' was not submitted", "name the run folder that submit has printed")
    return found
