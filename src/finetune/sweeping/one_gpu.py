"""One GPU for each of the trials that run at once."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"


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


def in_turn(number: int, there: Sequence[str]) -> list[str]:
    """Which GPUs trial `number` would have, the first one by its number.

    >>> in_turn(0, ["0", "1", "2"]), in_turn(4, ["0", "1", "2"])
    (['0', '1', '2'], ['1', '2', '0'])
    """
    first = number % len(there) if there else 0
    return [*there[first:], *there[:first]]


@contextmanager
def one_of(there: Sequence[str], number: int, place: Path) -> Iterator[dict[str, str]]:
    """What shows a trial one GPU only: the first in its turn that no other trial has, or the first where all have one.

    Args:
      place: a folder of this sweep, in which a file for each GPU is locked as long as a trial has it.
    """
    wanted = in_turn(number, there)
    for name in wanted:
        with (place / f"gpu-{name.replace('/', '-')}").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield {VISIBLE: name}
            return
    yield {VISIBLE: wanted[0]} if wanted else {}
