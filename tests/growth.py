"""How much a piece of work is, by a measure that no other work on the machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def calls_made(work: Callable[[], Any]) -> int:
    """How many functions it calls, those of Python and those written in C.

    >>> calls_made(lambda: [abs(n) for n in range(100)]) - calls_made(lambda: [abs(n) for n in range(10)])
    90
    """
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count
