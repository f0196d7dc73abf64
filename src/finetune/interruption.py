"""What a run does when it is asked to end: it goes on to where nothing is lost, saves, and ends with status 75.

Schedulers ask by SIGTERM, SIGUSR1 or SIGUSR2, people by SIGINT, a terminal that closes by SIGHUP. The same signal
again, or SIGINT after another, is obeyed at once, wherever the run is: what is on the disk is whole at any time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: it was no fault, the same command goes on
AGAIN = 1.0  # seconds: what follows sooner is the same request, for schedulers and shells send several signals at once

GoesOn = Callable[[int, Mapping[str, float]], bool]  # (step, what an evaluation gave) -> whether to train on


class Interrupted(BaseException):
    """The run was asked to end, and nothing stands against it; the text says by what.

    As `KeyboardInterrupt`, it is no fault that anybody should catch on the way.
    """


class Interruption:
    """Whether a run was asked to end, and whether it may be ended anywhere or only where it asks.

    `by` is the name of the signal, empty as long as nobody asked.
    """

    def __init__(self) -> None:
        self.by = ""
        self._is_awaited = False

    def check(self) -> None:
        """Raises `Interrupted` if somebody has asked. To be called where nothing would be lost."""
        if self.by:
            raise Interrupted(self.by)

    def begin(self) -> None:
        """A run begins: nothing is under way yet, and a request ends it at once, also one that is there already."""
        self._is_awaited = False
        self.check()

    def wait(self) -> None:
        """From here on a request waits for the next `check`; after the last one there is nothing left to end."""
        self._is_awaited = True

    def ask(self, number: int) -> None:
        """Somebody has asked; what follows the first request must not disturb what that has begun."""
        is_first, self.by = not self.by, self.by or signal.Signals(number).name
        if is_first and not self._is_awaited:
            raise Interrupted(self.by)


def ignore_signals() -> None:
    """For a process that ends: the rest of a storm of signals must not change its status."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def heeding_signals() -> Iterator[Interruption]:
    """Takes the signals that ask a process to end, but for those that it was started to ignore, as `nohup` does it.

    The handler itself writes nothing. That somebody asks again is seen by a thread, which the interpreter tells of a
    signal through a pipe: Python's handlers have to wait until a long call of TensorFlow is over.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():  # where Python takes none
        yield interruption
        return
    taken = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    hear, tell = os.pipe()
    os.set_blocking(tell, False)
    before = {number: signal.signal(number, lambda number, _: interruption.ask(number)) for number in taken}
    woken = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(hear, frozenset(taken)), name="finetune-signals", daemon=True).start()
    try:
        yield interruption
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(tell)  # at which the thread ends


def take_signals_back() -> None:
    """Puts the handlers in their place again that Python knows of, after a library has taken them for itself."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)


def _listen(hear: int, taken: frozenset[int]) -> None:
    """Ends the process when it is asked again."""
    asked: dict[int, float] = {}
    with contextlib.closing(os.fdopen(hear, "rb", buffering=0)) as signals:
        while said := signals.read(1):
            if said[0] not in taken:
                continue
            if is_again(said[0], time.monotonic(), asked):
                os._exit(128 + said[0])  # what a shell reports of a process that a signal has ended
            asked.setdefault(said[0], time.monotonic())


def is_again(number: int, now: float, asked: Mapping[int, float]) -> bool:
    """Whether a signal wants the end at once, given when each of those before it came first.

    One of another kind does not, if it is no person's: it is the next step of a scheduler (Slurm's SIGTERM at the end
    of the time, after the SIGUSR1 that was asked for), which kills by itself what is too slow, and the save that is
    under way may be done by then.

    >>> is_again(signal.SIGTERM, 60.0, {signal.SIGUSR1: 0.0}), is_again(signal.SIGINT, 60.0, {signal.SIGUSR1: 0.0})
    (False, True)
    """
    before = list(asked.values()) if number == signal.SIGINT else [at for other, at in asked.items() if other == number]
    return bool(before) and now - min(before) > AGAIN
