"""How long a job takes to its first step under a Slurm on loopback, and what each way of ending it costs.

    python scripts/time_jobs.py

prints a line for each. The run is `vgg_2class_full`, which does not end by itself here; a checkpoint every 200 steps.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.slurm_on_loopback import running

RECIPE = ["recipe=vgg_2class_full", "run.dir=run", "engine.mode=default", "train.epochs=null", "train.steps=1000000"]
RECIPE += ["train.log_every_steps=1", "eval.every_steps=1000000", "checkpoint.every_steps=200"]
PREEMPT = ["sbatch", "--partition=high", "--cpus-per-task=4", "--output=/dev/null", "--wrap=true"]


class Job:
    """The job and what can be read of it."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.environment = folder, environment

    def submit(self) -> str:
        """Submits it, or submits it again; gives its id."""
        command = [sys.executable, "-m", "finetune", "submit", *RECIPE, "cluster=slurm"]
        return self._run(command).split()[1]

    def ask(self, *words: str) -> None:
        """Gives a command of Slurm's."""
        self._run(list(words))

    def log(self) -> str:
        """What the run has told."""
        path = self.folder / "run/train.log"
        return path.read_text() if path.exists() else ""

    def steps(self) -> list[int]:
        """The steps that were logged, in their order."""
        return [int(step) for step in re.findall(r"train \| step +(\d+) ", self.log())]

    def begins(self) -> int:
        """How often the run has begun."""
        return len(re.findall(r" (?:init|resume): ", self.log()))

    def _run(self, command: list[str]) -> str:
        how = {"cwd": self.folder, "env": self.environment, "capture_output": True, "text": True, "check": True}
        return subprocess.run(command, **how).stdout


def wait(is_there: Callable[[], object]) -> None:
    """Waits for something, for five minutes at most."""
    deadline = time.monotonic() + 300
    while not is_there():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def ended(job: Job, what: str, end: Callable[[], object]) -> None:
    """Ends a run in one way, and prints what was lost by it and how long it takes until the next new step."""
    at, begins = len(job.steps()), job.begins()
    wait(lambda: len(job.steps()) > at + 250)
    asked, reached = time.monotonic(), 0
    end()
    while job.begins() == begins:  # a run that goes on takes back what it had logged after its checkpoint
        reached = max([reached, *job.steps()[-1:]])
        time.sleep(0.05)
    resumed = int(re.findall(r"goes on after step (\d+)", job.log())[-1])
    wait(lambda: job.steps()[-1] > reached)
    took = time.monotonic() - asked
    print(f"{what:<46} {reached - resumed:>4} steps lost, {took:5.1f} s to the next new step", flush=True)


def killed(job: Job) -> None:
    """Ends the run by force, as a machine that has no memory left does it, and submits it again."""
    os.kill(json.loads((job.folder / "run/run.lock").read_text())["pid"], signal.SIGKILL)
    time.sleep(3)  # until Slurm knows that it is over
    job.submit()


def main() -> None:
    """Prints all of it."""
    with tempfile.TemporaryDirectory() as slurm, tempfile.TemporaryDirectory() as folder, running(Path(slurm)) as found:
        job = Job(Path(folder), {**os.environ, **found})
        began = time.monotonic()
        number = job.submit()
        print(f"{'submit returns':<46} after {time.monotonic() - began:5.1f} s", flush=True)
        wait(lambda: list(Path(folder).glob("run.job/1/events-0.txt")))
        print(f"{'the script begins':<46} after {time.monotonic() - began:5.1f} s", flush=True)
        wait(job.steps)
        print(f"{'the first step is logged':<46} after {time.monotonic() - began:5.1f} s", flush=True)
        ended(job, "the time is up (USR1), put back", lambda: job.ask("scancel", "--signal=USR1", "--batch", number))
        ended(job, "preempted (TERM), put back", lambda: job.ask(*PREEMPT))
        ended(job, "killed (KILL), submitted again", lambda: killed(job))


if __name__ == "__main__":
    main()
