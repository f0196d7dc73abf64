"""Commands that are watched: when they said each line, how long they took, and the most memory that they had.

Several can compute in turns, so that a machine which is slow for a while is slow for each of them alike. All but one
are stopped, by a signal; what counts is the time that a command was let run.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

NEVER = r"(?!)"


@dataclass
class Watched:
    """A command, and what is known of it so far. As a context it is started, and stopped before it does anything."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    lines: list[tuple[float, str]] = field(default_factory=list)  # seconds that it had run by then, and what was said
    whole: float = 0.0  # seconds that it was let run
    memory: int = 0  # the most that was resident, in bytes
    has_ended: bool = False

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # so that its own processes stop with it
        )
        assert self._process.stdout is not None
        self._said, self._rest = self._process.stdout, b""
        self._signal(signal.SIGSTOP)
        return self

    def __exit__(self, *raised: Any) -> None:
        if not self.has_ended:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._said.close()

    def turn(self, until: str) -> None:
        """Lets it run until it says a line with the pattern `until`, or has ended.

        Raises:
          RuntimeError: it failed; with its last words.
        """
        began, before = time.monotonic(), self.whole
        self._signal(signal.SIGCONT)
        while not self.has_ended:
            said = os.read(self._said.fileno(), 2**16)
            self.whole = before + time.monotonic() - began
            if self._hears(said, until):
                break
            if not said:
                self._end()
        if not self.has_ended:
            self._signal(signal.SIGSTOP)
            self._look_at_memory()
            self.whole = before + time.monotonic() - began
            if select.select([self._said], [], [], 0)[0]:  # said while it was being stopped
                self._hears(os.read(self._said.fileno(), 2**16), until)

    def _hears(self, said: bytes, until: str) -> bool:
        *lines, self._rest = (self._rest + said).split(b"\n")
        new = [line.decode(errors="replace").rstrip() for line in lines]
        self.lines += [(self.whole, line) for line in new]
        return any(re.search(until, line) for line in new)

    def _end(self) -> None:
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.has_ended, self.memory = True, used.ru_maxrss * 1024
        if status:
            raise RuntimeError("\n".join(line for _, line in self.lines[-5:]))

    def _look_at_memory(self) -> None:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self._process.pid}/status").read_text())
        self.memory = int(found[1]) * 1024 if found else self.memory

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)


def watched(command: Sequence[str], environment: Mapping[str, str]) -> Watched:
    """A command that has run to its end, alone.

    Raises:
      RuntimeError: it failed; with its last words.
    """
    with Watched(command, environment) as one:
        one.turn(NEVER)
    return one


def in_turns(each: Sequence[Watched], until: str, turns: int) -> None:
    """Each takes so many turns, one after the other; what has not ended then is killed.

    Raises:
      RuntimeError: one failed; with its last words.
    """
    with ExitStack() as stack:
        # Or what is stopped would stay, stopped, when this process is told to end.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        stack.callback(signal.signal, signal.SIGTERM, before)
        for one in each:
            stack.enter_context(one)
        for _ in range(turns):
            for one in each:
                if not one.has_ended:
                    one.turn(until)


def at(one: Watched, pattern: str) -> float:
    """When the first line was said in which a pattern is."""
    return next(when for when, line in one.lines if re.search(pattern, line))


def trained(one: Watched) -> list[tuple[int, float]]:
    """(step, when) of each line about training; the last of those that were heard at once."""
    found = [(re.search(r"train \| step +(\d+)", line), when) for when, line in one.lines]
    last = {when: int(match[1]) for match, when in found if match}
    return [(step, when) for when, step in last.items()]


def of_a_step(one: Watched) -> list[float]:
    """The seconds of a step, from each line about training to the next."""
    return [(end - began) / (last - first) for (first, began), (last, end) in pairwise(trained(one))]
