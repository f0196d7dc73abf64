"""One GPU for each of the trials that run at once."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
_PAUSE = 0.2  # seconds between two looks


def gpus(environment: Mapping[str, str], count: int) -> list[str]:
    """The GPUs that trials may take, as `CUDA_VISIBLE_DEVICES` names them; `count` is how many the machine has.

    >>> gpus({}, 2), gpus({"CUDA_VISIBLE_DEVICES": "3,5"}, 8), gpus({"CUDA_VISIBLE_DEVICES": "-1"}, 8)
    (['0', '1'], ['3', '5'], [])
    """
    if VISIBLE not in environment:
        return list(map(str, range(count)))
    named = [name.strip() for name in environment[VISIBLE].split(",")]
    hidden = next((place for place, name in enumerate(named) if name in ("", "-1")), len(named))
    return named[:hidden]  # CUDA sees none behind one that is none


def in_turn(number: int, count: int) -> list[int]:
    """The places of the GPUs in the order in which trial `number` would have them: the first one by its number.

    >>> in_turn(0, 3), in_turn(4, 3), in_turn(4, 0)
    ([0, 1, 2], [1, 2, 0], [])
    """
    first = number % count if count else 0
    return [*range(first, count), *range(first)]


@contextmanager
def one_of(there: Sequence[str], number: int, place: Path, check: Callable[[], None]) -> Iterator[dict[str, str]]:
    """What shows a trial one GPU only: the first in its turn that no other trial has, as soon as there is one.

    Whoever wants two trials on a GPU names it twice.

    Args:
      place: a folder of this sweep, in which a file for each GPU is locked as long as a trial has it.
      check: is called while it waits, and may raise.
    """
    while there:
        for turn in in_turn(number, len(there)):
            with (place / f"gpu-{turn}").open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                yield {VISIBLE: there[turn]}
                return
        check()
        time.sleep(_PAUSE)
    yield {}
