"""How far something has come that may take long before a run has a log: nothing is said of what is soon done."""

from __future__ import annotations

import sys
import time
from typing import Any

AFTER = 3.0  # seconds until something is said
BETWEEN = 30.0  # seconds from one line to the next, where there is no terminal for a bar


class Progress:
    """Tells on stderr, for what a command answers stands on stdout.

    Args:
      what: what the lines begin with.
      of: how many there are of the `things`.
    """

    def __init__(self, what: str, of: int, things: str):
        self._what, self._of, self._things = what, of, things
        self._next = time.monotonic() + AFTER
        self._bar: Any = None
        self.is_told = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def at(self, count: int) -> None:
        """So many are done."""
        if self._bar is not None:
            self._bar.update(count - self._bar.n)
        elif time.monotonic() >= self._next and count < self._of:
            said = f"{count} of {self._of} {self._things} are looked at"
            self.say(said if self.is_told else f"{said}; this takes a while")
            self.is_told, self._next = True, time.monotonic() + BETWEEN
            if sys.stderr.isatty():
                from tqdm import tqdm

                self._bar = tqdm(total=self._of, initial=count, unit="file", dynamic_ncols=True, leave=False)

    def say(self, text: str) -> None:
        """A line, after the bar if there is one."""
        self._close()
        print(f"{self._what}: {text}", file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
