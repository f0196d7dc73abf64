"""The lives of a run: a process each, what it said, how it ended, and what becomes of it on the way."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType

from benchmarks.torture.jobs import Job

SLOWEST = 300.0  # seconds
LOOK = 0.01  # seconds between two looks at a process
BEGUN = r"goes on after step (\d+)|begins at step (0)"
STORM = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said; `seconds` from the first signal that it was sent to its end."""

    status: int
    said: str
    seconds: float = 0.0

    @property
    def saved(self) -> int:
        """The last step that it said to be saved."""
        return max((int(step) for step in re.findall(r"^saved step (\d+)$", self.said, re.MULTILINE)), default=0)

    @property
    def began_after(self) -> int | None:
        """The step after which it went on; none where it did not get so far, or had nothing left to do."""
        found = re.search(BEGUN, self.said)
        return int(found[1] or found[2]) if found else None

    def has_lost(self, saved: int) -> bool:
        """Whether it made steps again that were said to be saved."""
        return self.began_after is not None and self.began_after < saved

    def is_fault(self, allowed: frozenset[int]) -> bool:
        """Whether it ended otherwise than it may, or with a traceback where nothing but a signal ended it."""
        return self.status not in allowed or ("Traceback" in self.said and self.status in (0, 5, 70, 75))


class Life:
    """A process of a run, from its start to its end; whoever waits for it looks at what it says."""

    def __init__(
        self,
        job: Job,
        run: Path,
        said: Path,
        environment: Mapping[str, str] | None = None,
        each: Callable[[], None] = lambda: None,
    ):
        self.job, self.run = job, run
        self._file, self._each = said, each
        with said.open("w", encoding="utf-8") as out:
            self._process = subprocess.Popen(job.command(run), stdout=out, stderr=subprocess.STDOUT, env=environment)
        self._struck: float | None = None

    def __enter__(self) -> Life:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self.is_alive:
            self._process.kill()
        self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def is_struck(self) -> bool:
        """Whether it was alive when it was sent its first signal."""
        return self._struck is not None

    @property
    def said(self) -> str:
        """Up to now."""
        return self._file.read_text(encoding="utf-8", errors="replace")

    def has_said(self, pattern: str) -> bool:
        """Whether there is a line like this."""
        return re.search(pattern, self.said, re.MULTILINE) is not None

    def until(self, condition: Callable[[], bool], seconds: float = SLOWEST) -> bool:
        """Waits for what is to come true while it lives; whether it did."""
        end = time.monotonic() + seconds
        while self.is_alive and time.monotonic() < end:
            self._each()
            if condition():
                return True
            time.sleep(LOOK)
        return False

    def rest(self, seconds: float) -> None:
        """Lets it live for a while."""
        self.until(lambda: False, seconds)

    def send(self, number: signal.Signals) -> None:
        """A signal, if it lives."""
        if self.is_alive:
            self._struck = self._struck or time.monotonic()
            self._process.send_signal(number)

    def ended(self) -> Ended:
        """Waits for its end, and kills what does not come to one."""
        self.rest(SLOWEST)
        seconds = time.monotonic() - (self._struck or time.monotonic())
        if self.is_alive:
            self._process.kill()
            return Ended(70, f"{self.said}\nit does not end", seconds)
        return Ended(self._process.wait(), self.said, seconds)


# ---- What becomes of lives


@dataclass(frozen=True)
class Strike:
    """What is done to a life, at a moment that is drawn.

    `statuses` are those that it may then end with, beside those of a job that is asked to end; `strikes` is what each
    strike is called in the table.
    """

    do: Callable[[Life, Random], None]
    statuses: frozenset[int]
    strikes: str


@dataclass
class Hunt:
    """What became of one run that was struck again and again."""

    outcome: str = ""
    strikes: int = 0
    training: int = 0  # strikes after it had begun, or gone on
    seconds: float = 0.0  # the longest time from a strike to the end
    statuses: list[int] = field(default_factory=list)


def _some_moment(life: Life, draw: Random) -> None:
    """Most lives go on until they train or save, so that a run comes to its end; some do not get so far."""
    kind = draw.random()
    if kind < 0.2:
        life.rest(draw.uniform(0.0, 6.0))
    elif kind < 0.5:
        life.until(lambda: life.has_said(BEGUN))
        life.rest(draw.uniform(0.0, 2.0))
    else:
        life.until(lambda: life.has_said(r"^saved step"))
        life.rest(draw.uniform(0.0, 0.3))


def _kill(life: Life, draw: Random) -> None:
    _some_moment(life, draw)
    life.send(signal.SIGKILL)


def _ask(life: Life, draw: Random) -> None:
    _some_moment(life, draw)
    life.send(signal.SIGTERM)


def _storm(life: Life, draw: Random) -> None:
    """A burst at any moment, or at a save; or the same again, or Ctrl-C, after a second: it is obeyed at once."""
    kind = draw.choice(["any", "saving", "twice"])
    if kind == "twice":
        life.until(lambda: life.has_said(BEGUN))
        first = draw.choice(STORM)
        life.send(first)
        life.rest(draw.uniform(1.05, 1.5))
        life.send(draw.choice([first, signal.SIGINT]))
        return
    if kind == "saving":
        life.until(lambda: life.job.is_saving(life.run))
    else:
        _some_moment(life, draw)
    for _ in range(draw.randrange(1, 200)):
        life.send(draw.choice(STORM))
        time.sleep(0.001)


def _by(signals: Sequence[signal.Signals]) -> frozenset[int]:
    """How a process ends that has not yet taken these signals, or obeys at once."""
    return frozenset([*(-number for number in signals), *(128 + number for number in signals)])


STRIKES = {
    "random": Strike(_kill, frozenset({0, -signal.SIGKILL}), "kills"),
    "term": Strike(_ask, _by([signal.SIGTERM]), "SIGTERMs"),
    "storm": Strike(_storm, _by(STORM), "storms"),
}
