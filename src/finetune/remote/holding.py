"""One process at a time in a run folder that lies elsewhere, as far as that can be had without locks.

Who wants it leaves a mark there, looks a moment later whether the mark is still its own, and renews it as long as it is
there. A mark that nobody renews is that of a process that was ended from outside. Who finds the mark of another in the
place of its own has lost the folder, and writes nothing more. It takes a write that is under way for longer than
`SETTLE` to have two of them in one folder, and then it is until the next renewal or save of the first.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from finetune.errors import UserError
from finetune.remote import courier
from finetune.remote.places import within

MARK = "run.lock"
BEAT = 20.0  # seconds between two renewals
PATIENCE = 3  # renewals that may fail to come
SETTLE = 2.0  # seconds in which others who came at the same moment have left their marks
_PAUSE = 0.2

Check = Callable[[], None]


@contextmanager
def alone_at(
    url: str, wait: bool, tell: Callable[[str], None], check: Check = lambda: None, beat: float = BEAT
) -> Iterator[Check]:
    """Holds a folder; gives a function that raises where another process has it now.

    Args:
      wait: whether to wait for another process that has it.
      check: is called while it waits, and may raise.

    Raises:
      UserError: another process has it, or it cannot be written.
    """
    place = within(url, MARK)
    own = {"token": uuid.uuid4().hex, "pid": os.getpid(), "host": socket.gethostname(), "since": _now(), "beat": 0}
    _take(place, own, wait, tell, check, beat)

    def still() -> None:
        there = _mark(place)
        if there is None or there["token"] != own["token"]:
            todo = "see that no other job has this folder; the same command goes on from the last save there"
            raise UserError("recipe", "run.dir", f"'{url}': {_whose(there)} has it now", todo)

    def renew() -> None:
        while not over.wait(beat):
            own["beat"] += 1
            with suppress(OSError, UserError):  # a network that is away for a while; who lost it is told by `still`
                still()
                _leave_mark(place, own)

    over = threading.Event()
    renewing = threading.Thread(target=renew, name="finetune-holding", daemon=True)
    renewing.start()
    try:
        yield still
    finally:
        over.set()
        renewing.join()
        with suppress(OSError, UserError):
            still()
            courier.remove(place)


def _take(place: str, own: dict[str, Any], wait: bool, tell: Callable[[str], None], check: Check, beat: float) -> None:
    seen, since, told = None, time.monotonic(), False
    while True:
        there = _mark(place)
        if there != seen:
            is_renewed, seen, since = seen is not None and there is not None, there, time.monotonic()
            if is_renewed and not wait:
                todo = "wait for it with run.wait=true, or name another run.dir"
                raise UserError("recipe", "run.dir", f"'{_folder(place)}' is in use by {_whose(there)}", todo)
        is_left = there is not None and (_is_gone(there) or time.monotonic() - since > PATIENCE * beat)
        if is_left:
            tell(f"{_whose(there)} was ended from outside: killed, out of memory, or without power")
        if there is None or is_left:
            _leave_mark(place, own)
            _rest(SETTLE if beat == BEAT else beat, check)
            if (_mark(place) or {}).get("token") == own["token"]:
                return
            continue
        if not told:
            tell(f"waiting for {_folder(place)}: whether {_whose(there)} is still there")
            told = True
        _rest(beat / 10, check)


def _rest(seconds: float, check: Check) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(_PAUSE, left))


def _mark(place: str) -> dict[str, Any] | None:
    """Whose it is; one that cannot be read is nobody's."""
    seen = courier.stat(place)
    if seen is None:
        return None
    try:
        found = json.loads(courier.read(place, 0, max(seen.size, 1)))
        return found if isinstance(found, dict) and "token" in found else {"token": ""}
    except FileNotFoundError:  # removed in between
        return None
    except ValueError:
        return {"token": ""}


def _leave_mark(place: str, own: dict[str, Any]) -> None:
    courier.write(place, json.dumps(own).encode())


def _is_gone(mark: dict[str, Any]) -> bool:
    """Whether it is of this machine, and its process is none any more."""
    if mark.get("host") != socket.gethostname() or not isinstance(mark.get("pid"), int):
        return False
    try:
        os.kill(mark["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _whose(mark: dict[str, Any] | None) -> str:
    if not mark or not {"pid", "host", "since"} <= mark.keys():
        return "another process"
    return f"process {mark['pid']} on {mark['host']} since {mark['since']}"


def _folder(place: str) -> str:
    return place.removesuffix(f"/{MARK}")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
