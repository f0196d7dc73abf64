"""The wire between a sweep and one of its trials, which are processes: numbers go up, and whether to go on comes down.

When the sweep ends, however it does, the system cuts the wire, and the trial saves and ends as if it had been asked to.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from finetune.interruption import GoesOn

NAME = "FINETUNE_WIRE"  # of the environment: the number of the trial's end
_ON, _ENOUGH = b"+", b"-"


def always(step: int, found: Mapping[str, float]) -> bool:
    """Nothing is given up."""
    return True


@contextmanager
def wire(goes_on: GoesOn = always) -> Iterator[socket.socket]:
    """The trial's end of a new wire, to be handed to its process; at this end `goes_on` answers, in a thread."""
    ours, theirs = socket.socketpair()
    answering = threading.Thread(target=_answer, args=(ours, goes_on), name="finetune-wire", daemon=True)
    with ours, theirs:
        answering.start()
        try:
            yield theirs
        finally:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            answering.join()


def _answer(ours: socket.socket, goes_on: GoesOn) -> None:
    with contextlib.suppress(OSError), ours.makefile("rb") as lines:
        for line in lines:
            step, found = json.loads(line)
            numbers = {name: math.nan if value is None else value for name, value in found.items()}
            ours.sendall(_ON if goes_on(step, numbers) else _ENOUGH)


def held(environment: MutableMapping[str, str]) -> GoesOn | None:
    """What asks at the trial's end whether to go on; None in a process that is no trial.

    From now on this process is asked to end when the wire is cut. No process that it starts holds the wire.
    """
    told = environment.pop(NAME, "")
    try:
        end = socket.socket(fileno=int(told))
    except (ValueError, OSError):
        return None
    end.set_inheritable(False)
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(end, heard), name="finetune-wire", daemon=True).start()

    def goes_on(step: int, found: Mapping[str, float]) -> bool:
        finite = {name: float(value) if math.isfinite(value) else None for name, value in found.items()}
        try:
            end.sendall(json.dumps([step, finite]).encode() + b"\n")
        except OSError:  # it was cut, and the process has been told
            return True
        return heard.get() != _ENOUGH

    return goes_on


def _listen(end: socket.socket, heard: queue.SimpleQueue[bytes]) -> None:
    with contextlib.suppress(OSError):
        while said := end.recv(1):
            heard.put(said)
    heard.put(_ON)  # whoever waits for an answer
    os.kill(os.getpid(), signal.SIGTERM)
