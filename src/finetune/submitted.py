"""What has become of a job: whether it waits, runs or is over, what it has printed, and how it is cancelled."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.errors import UserError, printable
from finetune.jobs import detached, job_folder, kubernetes, sbatch
from finetune.jobs.cluster_words import KUBERNETES, SLURM
from finetune.jobs.job_folder import Job
from finetune.jobs.states import State
from finetune.listing import RUNS, entry

_PAUSE = 1.0  # seconds between two looks at what a job has printed;
_LOOKS = 5  # at every fifth the scheduler is asked whether it is over: all its users ask the same one


def newest(place: Path) -> tuple[Job, Sequence[int]] | None:
    """The newest job of a run or a sweep, with all its tasks, or of a sweep that a run is of, with its task there."""
    # A sweep is called by a folder in runs/, and its runs lie beside that unless they say where. What runs here is
    # known by the path of its script, so that a way without links comes last.
    swept = job_folder.newest_with(place, [place.parent, Path(RUNS).absolute(), place.resolve().parent])
    job = job_folder.later(job_folder.newest(place), swept)
    if job is None:
        return None
    task = job_folder.task_of(job, place) if job == swept else None
    return job, range(len(job.runs)) if task is None else [task]


def name(job: Job, tasks: Sequence[int]) -> str:
    """What a job is called, or one of its tasks by itself."""
    return f"{job.id}_{tasks[0]}" if len(tasks) == 1 < len(job.runs) else job.id


def states(job: Job) -> dict[int, State] | None:
    """What the scheduler says of the tasks that it knows; None if it cannot be asked from here."""
    if job.kind == KUBERNETES:
        return None
    return sbatch.states(job) if job.kind == SLURM else detached.states(job)


def is_there(job: Job, tasks: Sequence[int]) -> bool:
    """Whether the scheduler has any of these tasks that waits or runs."""
    return any(state.waits or state.runs for task, state in (states(job) or {}).items() if task in tasks)


def status(job: Job, tasks: Sequence[int]) -> int:
    """Prints whether each task waits, runs or is over, and the last step that is saved."""
    known = states(job)
    for task in tasks:
        run = job.runs[task]
        print(printable(f"{name(job, [task])}: {', '.join(_about(job, task, run, known))}: {run}"))
    return 0


def _about(job: Job, task: int, run: Path, known: dict[int, State] | None) -> Iterator[str]:
    """What there is to say of a task, the most important first."""
    told, found = job_folder.events(job.folder, task), entry(run)
    state = None if known is None else known.get(task, State())
    yield _standing(job.is_cancelled(task), told, found["status"] == "finished", state)
    if told.starts > 1:
        yield f"requeued {told.starts - 1} time{'s' * (told.starts > 2)}"
    if found["step"] is not None:
        yield f"step {found['step']} saved"


def _standing(is_cancelled: bool, told: job_folder.Events, is_finished: bool, state: State | None) -> str:
    """Whether a task waits, runs or is over, from what its run, its scheduler and its script say."""
    if is_finished and told.status == 0:
        return "done"
    if state and state.waits:
        return f"pending ({state.why})" if state.why else "pending"
    if state and state.runs:
        return "asked to save and to end" if is_cancelled else f"running on {state.why}" if state.why else "running"
    if is_finished and (told.starts or state):  # else it was finished before, and is to train for longer
        return "done"
    if is_cancelled:
        return "cancelled"
    if told.status is not None and not told.goes_on:
        return f"failed with status {told.status} (see submit --logs)"
    if state is None:
        return "running, as far as its files say" if told.starts else "not begun, as far as its files say"
    return "failed: it was ended from outside" if told.starts else "gone before it began"


def logs(job: Job, tasks: Sequence[int], follow: bool) -> int:
    """Prints what each task has printed."""
    seen = dict.fromkeys(tasks, 0)
    goes_on = True
    while goes_on:
        goes_on = follow and is_there(job, tasks)
        for _ in range(_LOOKS if goes_on else 1):
            for task in tasks:
                seen[task] = _print_from(job_folder.output_of(job.folder, task), seen[task], len(tasks) > 1)
            time.sleep(_PAUSE if goes_on else 0)
    if not any(seen.values()):
        print("nothing was printed yet")
    return 0


def _print_from(path: Path, position: int, named: bool) -> int:
    """Prints the whole lines of a file from a place on; gives the place behind them."""
    if not path.is_file():
        return position
    with path.open("rb") as file:
        file.seek(position)
        text = file.read()
    text = text[: text.rfind(b"\n") + 1]
    if text and named:
        print(f"==> {path.name} <==")
    sys.stdout.write(text.decode("utf-8", errors="replace"))
    sys.stdout.flush()
    return position + len(text)


def cancel(job: Job, tasks: Sequence[int]) -> int:
    """Sees to it that none of these tasks begins again, and that what runs of them saves."""
    called = name(job, tasks)
    if states(job) is not None and not is_there(job, tasks):
        print(f"job {called} is over already")
        return 0
    if job.kind == KUBERNETES and len(tasks) < len(job.runs):
        what = f"'{job.runs[tasks[0]]}' is one of {len(job.runs)} runs of a job that kubectl deletes as a whole"
        raise UserError("recipe", "--cancel", what, f"name {job.folder.parent} for all of them")
    job_folder.mark_cancelled(job, tasks)
    if job.kind == KUBERNETES:
        print(f"kubectl delete -f {shlex.quote(str(job.folder / kubernetes.MANIFEST))}")
        return 0
    (sbatch if job.kind == SLURM else detached).cancel(job, tasks)
    print(f"cancelled: job {called}; what runs of it saves and ends, and submit --status says when")
    return 0
