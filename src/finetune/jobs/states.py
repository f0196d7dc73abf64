"""What a scheduler says of a task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """Whether a task waits or runs, and why it waits or where it runs; neither for one that is over."""

    waits: bool = False
    runs: bool = False
    why: str = ""
