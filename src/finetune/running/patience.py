"""Patience with a disk: what it does not take is tried again, as long as somebody may be making room."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from finetune.errors import UserError
from finetune.results.checkpoints import cannot_be_written

PATIENCE = 600.0  # seconds that a run waits for the disk where it cannot go on without
PAUSE = 2.0  # seconds between two attempts then

T = TypeVar("T")


def patiently(tell: Callable[[str], None], check: Callable[[], None], do: Callable[..., T], *words: object) -> T:
    """Does something that writes, again and again where the disk does not take it; gives what it gives.

    Args:
      tell: is told once.
      check: is called between two attempts, and may raise.

    Raises:
      UserError: the disk does not take it for so long that nobody seems to see to it.
    """
    end, refused = time.monotonic() + PATIENCE, None
    while True:
        try:
            given = do(*words)
        except (UserError, OSError) as error:
            is_told, refused = refused is not None, of_the_disk(error)
        else:
            if refused is not None:
                tell("storage: the disk takes it again")
            return given
        if time.monotonic() > end:
            raise refused
        if not is_told:
            tell(f"warning: {refused.where}: {refused.what}; the run waits, and tries again")
        check()
        time.sleep(PAUSE)


def of_the_disk(error: UserError | OSError) -> UserError:
    """The same as an error of storage; raises it if it is another."""
    if isinstance(error, OSError):
        return cannot_be_written(Path(error.filename or "a file of the run"), error)
    if error.code != "storage":
        raise error
    return error
