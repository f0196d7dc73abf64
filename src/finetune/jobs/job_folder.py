"""The folder of a job: what was submitted, to whom, and what became of it.

It lies beside the run folder, RUN.job/N for the N-th time that the run was submitted, so that it is there before the
run is, and none of its files is taken for one of the run's.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetune import __version__
from finetune.errors import UserError
from finetune.results.checkpoints import cannot_be_written, write_text

RECORD = "job.json"
SCRIPT = "job.sh"
CODE = "code"
CANCELLED = "cancelled"  # is there once somebody has cancelled the job: it is not to begin again; cancelled-1: one task
ENDING = ".job"

# What the script writes into a task's events, with the time before it.
STARTED, ENDED, AGAIN = "started", "ended with", "begins again"
_EVENT = re.compile(r"\S+ \S+ job: (.*)")


@dataclass(frozen=True)
class Job:
    """A submission: `runs` are the run folders of its tasks, by their numbers."""

    folder: Path
    kind: str
    id: str
    host: str  # that it was submitted on
    runs: tuple[Path, ...]

    def is_cancelled(self, task: int) -> bool:
        """Whether somebody has cancelled it, or this task of it."""
        return any((self.folder / name).exists() for name in (CANCELLED, f"{CANCELLED}-{task}"))


@dataclass(frozen=True)
class Events:
    """What the script has told of one task."""

    starts: int = 0
    process: int | None = None  # the number of the last start's script
    status: int | None = None  # with which the last start has ended; None: it has not, or not by itself
    goes_on: bool = False  # it asked to begin again


def beside(run: Path) -> Path:
    """The folder of all jobs of a run."""
    return run if run.name.endswith(ENDING) else run.with_name(run.name + ENDING)


def next_folder(jobs: Path) -> Path:
    """Where the next job goes."""
    return jobs / str(max(_numbers(jobs), default=0) + 1)


def newest(run: Path) -> Job | None:
    """The last job of a run; None if there is none."""
    jobs = beside(run)
    numbers = [number for number in _numbers(jobs) if (jobs / str(number) / RECORD).is_file()]
    return read(jobs / str(max(numbers))) if numbers else None


def newest_with(run: Path, places: Iterable[Path]) -> Job | None:
    """The last of the jobs submitted into these folders that has a run as one of its tasks; None if there is none."""
    found = None
    for record in (record for place in places for record in place.glob(f"*{ENDING}/*/{RECORD}")):
        with suppress(UserError):  # one that cannot be read is another run's, as far as anybody can say
            job = read(record.parent)
            found = later(found, job if task_of(job, run) is not None else None)
    return found


def later(one: Job | None, other: Job | None) -> Job | None:
    """The one of two jobs that was submitted after the other."""
    return max((job for job in (one, other) if job), key=_submitted, default=None)


def task_of(job: Job, run: Path) -> int | None:
    """The number of the task that is a run, whatever links lead to it; None if none is."""
    real = run.resolve()
    return next((task for task, other in enumerate(job.runs) if other.resolve() == real), None)


def make(folder: Path) -> None:
    """Makes the folder of a job.

    Raises:
      UserError: that cannot be, or somebody else has made it at the same time.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(
            "recipe", str(folder), "somebody else submits this run now", "look at submit --status"
        ) from None
    except OSError as error:
        raise cannot_be_written(folder, error) from error


def remove(folder: Path) -> None:
    """Removes the folder of a job that nobody took, and what was made for it alone."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # there were jobs before
        folder.parent.rmdir()


def write(job: Job) -> None:
    """Stores what was submitted."""
    record = {
        "cluster": job.kind,
        "id": job.id,
        "host": job.host,
        "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "finetune": __version__,
        "runs": [str(run) for run in job.runs],
    }
    write_text(job.folder / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read(folder: Path) -> Job:
    """What was submitted.

    Raises:
      UserError: its record cannot be read.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        runs = tuple(Path(run) for run in record["runs"])
        return Job(folder, record["cluster"], record["id"], record["host"], runs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"cannot be read ({type(error).__name__})"
        raise UserError("recipe", str(folder / RECORD), what, f"remove {folder} if no job runs from it") from None


def mark_cancelled(job: Job, tasks: Collection[int]) -> None:
    """Has these tasks of a job not begin again, whoever starts them."""
    for name in [CANCELLED] if len(tasks) == len(job.runs) else [f"{CANCELLED}-{task}" for task in tasks]:
        (job.folder / name).touch()


def recipe_of(folder: Path, task: int | str) -> Path:
    """The frozen recipe of a task."""
    return folder / f"frozen-{task}.yaml"  # a file named recipe.yaml would make this a run folder


def output_of(folder: Path, task: int | str) -> Path:
    """What a task has printed."""
    return folder / f"output-{task}.log"


def events_of(folder: Path, task: int | str) -> Path:
    """What the script has told of a task."""
    return folder / f"events-{task}.txt"


def events(folder: Path, task: int) -> Events:
    """What has become of a task, as far as the script could tell."""
    path = events_of(folder, task)
    return told(path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else [])


def told(lines: Sequence[str]) -> Events:
    """What the lines of a task's events mean.

    >>> told(["2026-01-01 12:00:00 job: started on node1, process 7", "2026-01-01 12:01:00 job: ended with 3"])
    Events(starts=1, process=None, status=3, goes_on=False)
    """
    found = Events()
    for line in lines:
        what = match[1] if (match := _EVENT.match(line)) else ""
        last = what.rpartition(" ")[2]
        if what.startswith(STARTED):
            found = Events(found.starts + 1, int(last) if last.isdigit() else None)
        elif what.startswith(ENDED):
            status = what.removeprefix(ENDED).split(",")[0].strip()
            goes_on = AGAIN in what
            found = Events(found.starts, None, int(status) if status.isdigit() else None, goes_on)
    return found


def _submitted(job: Job) -> int:
    """When, as its record is written once; in its text are seconds only."""
    return (job.folder / RECORD).stat().st_mtime_ns


def _numbers(jobs: Path) -> list[int]:
    return [int(path.name) for path in jobs.glob("*") if path.name.isdigit()] if jobs.is_dir() else []
