"""A job as a process of this machine that nobody has to wait for: it outlives the terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from finetune.jobs import job_folder
from finetune.jobs.job_folder import SCRIPT, Job
from finetune.jobs.states import State

_LOOKS, _PAUSE = 20, 0.005  # seconds between looks at a process that has no words now


def hand_over(folder: Path) -> str:
    """Starts the script of a job; gives the number of its process."""
    # A shell that starts it and ends, so that it is nobody's child, in a session without a terminal.
    command = ["bash", "-c", 'bash "$0" > /dev/null 2>&1 < /dev/null & echo $!', str(folder / SCRIPT)]
    started = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True)
    return started.stdout.strip()


def states(job: Job) -> dict[int, State] | None:
    """What each task of a job does; None for one of another machine."""
    if job.host != os.uname().nodename:
        return None
    whole = _is_alive(int(job.id), job.folder)
    found: dict[int, State] = {}
    for task in range(len(job.runs)):
        told = job_folder.events(job.folder, task)
        runs = told.process is not None and _is_alive(told.process, job.folder)
        begins = whole and not job.is_cancelled(task) and (told.starts == 0 or told.goes_on)
        found[task] = State(waits=begins and not runs, runs=runs, why=job.host if runs else "")
    return found


def cancel(job: Job, tasks: Collection[int]) -> None:
    """Asks what runs of some tasks to save and to end; the others see that they are not to begin."""
    for task in tasks:
        process = job_folder.events(job.folder, task).process
        if process is not None and _is_alive(process, job.folder):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGUSR1)


def _is_alive(process: int, folder: Path) -> bool:
    """Whether a process is there and is still the script of this job: numbers are given again."""
    if Path("/proc/self").exists():  # where there is none, as on a Mac, there is ps; in a small image it may be missing
        return os.fsencode(folder / SCRIPT) in _words(process).split(b"\0")
    seen = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(process)], capture_output=True, text=True, check=False)
    return str(folder / SCRIPT) in seen.stdout


def _words(process: int) -> bytes:
    """The command of a process, as Linux has it; none if it is not there, or is over."""
    for _ in range(_LOOKS):  # while one program takes the place of another there is none either
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            break
        if words:
            return words
        time.sleep(_PAUSE)
    return b""
