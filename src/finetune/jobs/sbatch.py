"""Slurm, by its own commands: sbatch, squeue and scancel."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from finetune.errors import UserError
from finetune.jobs.job_folder import SCRIPT, Job
from finetune.jobs.states import State

# A controller that is busy or away lets its commands wait; nobody wants to wait with them for longer.
_PATIENCE = 60
# With some of an array waiting, the scancel of Slurm 22.05 repeats a signal to the others as long as they run, from the
# fifth second on. The script of a job passes it on once.
_ONCE = 3
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED")
_RUNNING = ("RUNNING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING")


def check_there() -> None:
    """Refuses to go on where jobs cannot be submitted.

    Raises:
      UserError: there is no sbatch.
    """
    if shutil.which("sbatch") is None:
        todo = "submit on a machine that has Slurm, or see the script with --dry-run"
        raise UserError("recipe", "cluster", "there is no sbatch on this machine", todo)


def hand_over(folder: Path) -> str:
    """Submits the script of a job; gives its id.

    Raises:
      UserError: Slurm takes no such job.
    """
    answer = _asked(["sbatch", "--parsable", str(folder / SCRIPT)])
    if answer.returncode:
        said = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in answer.stderr.splitlines()]
        raise UserError(
            "recipe", "cluster", f"Slurm refuses the job: {'; '.join(filter(None, said)) or 'without a word'}"
        )
    return answer.stdout.strip().partition(";")[0]


def states(job: Job) -> dict[int, State] | None:
    """What Slurm knows of each task of a job; None if it cannot be asked.

    Tasks that are long over it has forgotten.
    """
    if shutil.which("squeue") is None:
        return None
    form = "%K|%T|%r|%N"
    answer = _asked(["squeue", "--noheader", "--array", "--states=all", f"--jobs={job.id}", f"--format={form}"])
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    return dict(map(_state, answer.stdout.split("\n")[:-1]))


def cancel(job: Job, tasks: Collection[int]) -> None:
    """Takes what waits of some tasks out of the queue, and asks what runs of them to save and to end.

    A plain scancel would do too, but Slurm ends a job by force half a minute after it, saved or not.
    """
    known = {task: state for task, state in (states(job) or {}).items() if task in tasks}
    name = {task: job.id if len(job.runs) == 1 and not is_array(job) else f"{job.id}_{task}" for task in known}
    # Waiting ones first, so that nothing has to be repeated where it is all of them.
    if waiting := [name[task] for task, state in known.items() if state.waits]:
        _asked(["scancel", *waiting])
    if running := [name[task] for task, state in known.items() if state.runs]:
        _begun(["scancel", "--signal=USR1", "--batch", *running])


def is_array(job: Job) -> bool:
    """Whether a job was submitted as an array."""
    return "\n#SBATCH --array=" in (job.folder / SCRIPT).read_text(encoding="utf-8")


def _state(line: str) -> tuple[int, State]:
    """A line of squeue's.

    >>> _state("N/A|PENDING|BeginTime|"), _state("3|RUNNING|None|node1")
    ((0, State(waits=True, runs=False, why='BeginTime')), (3, State(waits=False, runs=True, why='node1')))
    """
    index, state, reason, nodes = line.split("|")
    task = int(index) if index.isdigit() else 0
    if state in _WAITING:
        return task, State(waits=True, why=reason if reason != "None" else "")
    return task, State(runs=True, why=nodes) if state in _RUNNING else State()


def _begun(command: Sequence[str]) -> None:
    """Starts what may repeat itself, and leaves it to that."""
    none = subprocess.DEVNULL
    asks = subprocess.Popen(command, stdin=none, stdout=none, stderr=none, start_new_session=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        asks.wait(_ONCE)


def _asked(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    raise UserError("recipe", "cluster", f"{command[0]} has not answered for {_PATIENCE} s", "try again later")
