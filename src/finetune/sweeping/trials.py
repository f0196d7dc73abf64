"""One trial of a sweep, as a process of its own: what ends it, be it a signal, ends nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from finetune.errors import printable
from finetune.interruption import REQUEUE, Interruption, heeding_signals
from finetune.results.appending import Appending
from finetune.results.lock import LOCK, alone_in
from finetune.sweeping.one_gpu import one_of
from finetune.sweeping.wire import NAME, GoesOn, always, wire

STOP = "stop"  # a file whose being there asks every trial of the sweep to end
LOGS = "logs"
_PAUSE = 0.1  # seconds between two looks
_LAST = 50  # lines that are kept to be searched for an error


@dataclass(frozen=True)
class Trial:
    """One combination of values: the words that train it, those of them that are its own, and its run folder."""

    number: int
    words: tuple[str, ...]
    own: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """What people call it."""
        return " ".join(self.own) or str(self.folder)


@dataclass(frozen=True)
class Outcome:
    """How the process of a trial ended: its status, and the error that it said, if it said one."""

    number: int
    status: int
    error: str = ""


class Stopped(Exception):
    """Somebody has asked the sweep to end."""


@dataclass(frozen=True)
class Place:
    """Where trials run: the folder of the sweep, one for what is under way only, and what they share.

    `gpus` are there for one trial each; none where the trials run one after the other, and each has all of them.
    """

    folder: Path
    scratch: Path
    gpus: Sequence[str] = ()
    is_shown: bool = True  # what a trial says is on the terminal too, and not in its log only
    process: int = field(default_factory=os.getpid)  # that of the sweep

    @property
    def stop(self) -> Path:
        """Where somebody has asked the sweep to end, this is there."""
        return self.scratch / STOP

    def check(self) -> None:
        """Raises `Stopped` if somebody has."""
        if self.stop.exists():
            raise Stopped

    def log(self, trial: Trial) -> Path:
        """What the processes of a trial have said."""
        return self.folder / LOGS / f"{trial.folder.name}.log"


def run_trial(trial: Trial, place: Place, goes_on: GoesOn = always) -> Outcome:
    """Trains it, or goes on with it, in a process of its own; may be called in any process and thread.

    A trial that is asked to end is waited for: it saves first.
    """
    with contextlib.ExitStack() as held:
        if os.getpid() != place.process:  # a launcher's, to which terminals and schedulers send their signals as well
            interruption = held.enter_context(heeding_signals())
            interruption.wait()
            held.enter_context(passing_on(interruption, place.stop))
        try:
            place.check()
            _wait_for(trial, place)
            return _run(trial, place, goes_on)
        except Stopped:
            return Outcome(trial.number, REQUEUE)


def _wait_for(trial: Trial, place: Place) -> None:
    """Waits until no other process is in the run folder.

    It may be what is left of a sweep that was killed: its trials save when they notice, which takes a moment.
    """
    if (trial.folder / LOCK).exists():
        with alone_in(trial.folder, wait=True, check=place.check):
            pass


def _run(trial: Trial, place: Place, goes_on: GoesOn) -> Outcome:
    log = place.log(trial)
    log.parent.mkdir(parents=True, exist_ok=True)
    with one_of(place.gpus, trial.number, place.scratch, place.check) as shown, wire(goes_on) as end:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune", *trial.words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **shown, NAME: str(end.fileno())},
            pass_fds=[end.fileno()],
            start_new_session=True,  # or a terminal's signals came twice, and the second one ends it at once
        )
        end.close()  # that of the trial is the only one now
        last: deque[str] = deque(maxlen=_LAST)
        assert process.stdout is not None
        reading = threading.Thread(target=_read, args=(process.stdout, log, place.is_shown, last), daemon=True)
        reading.start()
        status = _ended(process, place.stop)
        reading.join(timeout=10)  # what a trial leaves behind may hold its output open
    return Outcome(trial.number, status, error_in(last, status))


def _ended(process: subprocess.Popen[bytes], stop: Path) -> int:
    """Waits for it; gives its status as a shell has it."""
    told = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(_PAUSE)
            return 128 - status if status < 0 else status
        if not told and stop.exists():
            process.send_signal(signal.SIGTERM)
            told = True


def _read(said: IO[bytes], log: Path, is_shown: bool, last: deque[str]) -> None:
    with said, contextlib.closing(Appending(log)) as kept:
        for line in said:
            text = line.decode(errors="backslashreplace")
            kept.write(text)
            last.append(text.rstrip("\n"))
            if is_shown:
                with contextlib.suppress(OSError, ValueError):  # whoever read along has gone
                    print(text, end="", flush=True)


def error_in(lines: Sequence[str], status: int) -> str:
    """The line of the error among the last lines that a process has said, or how it ended if it said none.

    >>> error_in(["init: runs/a", "error[numerics] loss: is NaN", "  at step 3"], 4)
    'error[numerics] loss: is NaN'
    >>> error_in(["init: runs/a"], 137)
    'ended by SIGKILL: from outside, or out of memory'
    """
    if not status:
        return ""
    if told := next((line for line in reversed(lines) if line.startswith("error[")), ""):
        return printable(told)
    if status > 128:
        try:
            name = signal.Signals(status - 128).name
        except ValueError:
            name = f"signal {status - 128}"
        return f"ended by {name}" + ": from outside, or out of memory" * (name == "SIGKILL")
    return printable(f"status {status}" + (f": {lines[-1]}" if lines else ""))


@contextmanager
def passing_on(interruption: Interruption, stop: Path) -> Iterator[None]:
    """Asks every trial to end, in whatever process it is watched, as soon as this one is asked to."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_PAUSE):
            if interruption.by:
                stop.touch()
                return

    watching = threading.Thread(target=watch, name="finetune-stop", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
