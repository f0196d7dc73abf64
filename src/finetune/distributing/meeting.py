"""Workers meet before TensorFlow joins them: the chief waits until all have come, and then all go on at once.

TensorFlow's own meeting is one call in which no signal is heard, and which names nobody who is missing (2.21). This one
is at the port of the chief, which TensorFlow's server takes as soon as it is over.
"""

from __future__ import annotations

import errno
import json
import queue
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import Any

from finetune.distributing.cluster import Cluster, host_and_port
from finetune.errors import UserError, printable, shortlist

_PAUSE = 0.2  # seconds between two looks at who has come, and whether this run is asked to end
_SILENT = 3.0  # seconds after which people are told who is waited for
_AGAIN = 10.0  # seconds until they are told of somebody else
_ATTEMPT = 5.0  # seconds for one attempt to reach the chief
_GRACE = 5.0  # seconds that a worker waits longer than the chief, who says in the end why
_LONGEST = 1 << 20  # bytes of one word: a thousand addresses have less
_LINES = 4  # of an error, below its first
_FOREIGN = "it does not speak as workers do"


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)  # stdout is the chief's alone


def meet(
    cluster: Cluster, wait: float, tell: Callable[[str], None] = _say, check: Callable[[], None] = lambda: None
) -> None:
    """Returns in each of the workers once all have come.

    Args:
      wait: for how many seconds.
      tell: is told who is waited for.
      check: is called while it waits, and may raise.

    Raises:
      UserError: somebody has not come, the port is another's, or the chief is that of other workers.
    """
    begin = partial(_Waiting, wait, tell, check)
    with closing(_own_port(cluster, begin())) as port:
        if cluster.is_chief:
            _receive(cluster, port, begin())
        else:
            _visit(cluster, begin)


class _Waiting:
    """For how long, and what people were told of it."""

    def __init__(self, wait: float, tell: Callable[[str], None], check: Callable[[], None]):
        self.wait, self.tell, self._check = wait, tell, check
        self._began = time.monotonic()
        self._told, self._told_at = "", self._began + _SILENT - _AGAIN

    def goes_on(self, for_whom: str, longer: float = 0.0) -> bool:
        """Whether there is time left; says in a while for whom it is."""
        self._check()
        now = time.monotonic()
        if for_whom != self._told and now - self._told_at >= _AGAIN:
            self.tell(f"waiting for {for_whom}")
            self._told, self._told_at = for_whom, now
        return now - self._began < self.wait + longer


class _Gone(Exception):
    """Whoever was at the other end has left, or is no worker; the text says which."""


class _Line:
    """A connection that carries words, each of them a line of JSON."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(_PAUSE)
        self._connection, self._heard = connection, b""

    def fileno(self) -> int:
        """For selectors."""
        return self._connection.fileno()

    def close(self) -> None:
        """At which the other end hears that there is nothing more."""
        self._connection.close()

    def say(self, **word: Any) -> None:
        """Says it; whether anybody is there shows where the next is heard."""
        with suppress(OSError):
            self._connection.sendall(json.dumps(word).encode() + b"\n")

    def hear(self) -> dict[str, Any] | None:
        """The next word; None if there is none yet.

        Raises:
          _Gone: there will be none.
        """
        if b"\n" not in self._heard:
            try:
                more = self._connection.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError as error:
                raise _Gone(_reason(error)) from error
            if not more:
                raise _Gone("the connection was closed")
            self._heard += more
        word, end, rest = self._heard.partition(b"\n")
        if not end and len(word) <= _LONGEST:
            return None
        self._heard = rest
        try:
            said = json.loads(word) if end else None
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise _Gone(_FOREIGN)
        return said


def _own_port(cluster: Cluster, waiting: _Waiting) -> socket.socket:
    """The port of this worker, held until TensorFlow's server takes it; a run before this one may still be ending."""
    _, number = host_and_port(cluster.workers[cluster.index])
    while True:
        try:
            return _bound(number, listens=cluster.is_chief)
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
            if not is_taken or not waiting.goes_on(f"port {number} of this machine, which another process has"):
                what = f"port {number} of {cluster.said} is not to be had ({_reason(error)})"
                todo = "end what has it, or give this worker another one"
                raise UserError("machine" if is_taken else "recipe", cluster.origin, what, todo) from error
            time.sleep(_PAUSE)


def _bound(number: int, listens: bool) -> socket.socket:
    """A port at all addresses of this machine, as TensorFlow's server takes it: its own name may mean loopback here."""
    is_dual = socket.has_dualstack_ipv6()
    port = socket.socket(socket.AF_INET6 if is_dual else socket.AF_INET)
    try:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is left of connections is not in the way
        if is_dual:
            port.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        port.bind(("", number))
        if listens:
            port.listen(128)
            port.settimeout(_PAUSE)
    except BaseException:
        port.close()
        raise
    return port


def _receive(cluster: Cluster, door: socket.socket, waiting: _Waiting) -> None:
    """The part of the chief."""
    here: dict[int, _Line] = {}
    with ExitStack() as lines, selectors.DefaultSelector() as news:
        news.register(door, selectors.EVENT_READ)
        while missing := [number for number in range(1, len(cluster.workers)) if number not in here]:
            if not waiting.goes_on(shortlist([named(cluster, number) for number in missing], _LINES)):
                for line in here.values():
                    line.say(missing=missing)
                raise _absent(cluster, missing, waiting.wait)
            for key, _ in news.select(_PAUSE):
                if key.fileobj is door:
                    with suppress(OSError):  # whoever came has left already
                        line = lines.enter_context(closing(_Line(door.accept()[0])))
                        news.register(line, selectors.EVENT_READ, line)
                    continue
                try:
                    _greet(cluster, here, key.data)
                except _Gone as why:
                    gone = [number for number, line in here.items() if line is key.data]
                    who = named(cluster, gone[0]) if gone else "somebody who came"
                    waiting.tell(f"{who} is gone again: {why}")
                    here = {number: line for number, line in here.items() if line is not key.data}
                    news.unregister(key.data)
                    key.data.close()
        door.close()  # or TensorFlow's clients would come to it
        for line in here.values():
            line.say(go=True)


def _greet(cluster: Cluster, here: dict[int, _Line], line: _Line) -> None:
    """Takes in whoever says that it is one of the workers, or says why not.

    Raises:
      _Gone: it is none of them, or has left.
    """
    if (word := line.hear()) is None or line in here.values():
        return
    number, workers = word.get("worker"), word.get("workers")
    if type(number) is not int or not isinstance(workers, list):
        raise _Gone(_FOREIGN)
    if workers != list(cluster.workers):
        why = f"{named(cluster, 0)} is that of other workers: {shortlist(list(cluster.workers))}"
    elif not 0 < number < len(workers):
        why = f"worker {number} is not one that the chief waits for"
    elif number in here:
        why = f"another process is {named(cluster, number)} already"
    else:
        here[number] = line
        line.say(come=True)
        return
    line.say(refused=why)
    raise _Gone(f"worker {number} of {shortlist([str(one) for one in workers])} is refused, for {why}")


def _visit(cluster: Cluster, begin: Callable[[], _Waiting]) -> None:
    """The part of the others; a chief who leaves is waited for anew."""
    while True:
        with closing(_known_to_the_chief(cluster, begin())) as line, suppress(_Gone):
            waiting = begin()
            while waiting.goes_on(f"the others; {named(cluster, 0)} says for whom", _GRACE):
                word = line.hear() or {}
                if "go" in word:
                    return
                if "missing" in word:
                    raise _absent(cluster, word["missing"], waiting.wait)
            raise _absent(cluster, [0], waiting.wait, "it has come, and says nothing more")


def _known_to_the_chief(cluster: Cluster, waiting: _Waiting) -> _Line:
    """A line to the chief, who has taken this worker in."""
    why = ""
    while waiting.goes_on(named(cluster, 0)):
        try:
            line = _Line(_connected(cluster, waiting))
        except (OSError, UnicodeError) as error:  # the latter of a name that cannot be one
            why = _reason(error)
            time.sleep(_PAUSE)
            continue
        try:
            _introduce(cluster, line, waiting)
            return line
        except _Gone as gone:
            why = str(gone)
            line.close()
            time.sleep(_PAUSE)
        except BaseException:
            line.close()
            raise
    raise _absent(cluster, [0], waiting.wait, why)


def _introduce(cluster: Cluster, line: _Line, waiting: _Waiting) -> None:
    """Says who this is, and returns once the chief knows.

    Raises:
      _Gone: it was not the chief.
      UserError: the chief refuses it.
    """
    line.say(worker=cluster.index, workers=cluster.workers)
    end = time.monotonic() + _ATTEMPT
    while waiting.goes_on(named(cluster, 0)) and time.monotonic() < end:
        word = line.hear()
        if word is None:
            continue
        if "come" in word:
            return
        if "refused" in word:
            todo = "start each worker once, and all with the same addresses"
            raise UserError("recipe", cluster.origin, str(word["refused"]), todo)
        raise _Gone(_FOREIGN)
    raise _Gone("there is no answer")


def _connected(cluster: Cluster, waiting: _Waiting) -> socket.socket:
    """A connection to the chief, by a thread of its own: while the system looks up a name, Python hears no signal."""
    found: queue.SimpleQueue[socket.socket | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            found.put(socket.create_connection(host_and_port(cluster.workers[0]), _ATTEMPT))
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=connect, name="finetune-meeting", daemon=True).start()
    while waiting.goes_on(named(cluster, 0)):
        with suppress(queue.Empty):
            one = found.get(timeout=_PAUSE)
            if isinstance(one, Exception):
                raise one
            return one
    raise TimeoutError("there is no answer")


def named(cluster: Cluster, number: int) -> str:
    """A worker as people are told of it."""
    return f"{f'worker {number}' if number else 'the chief'} ({cluster.workers[number]})"


def _absent(cluster: Cluster, missing: Sequence[int], wait: float, why: str = "") -> UserError:
    """Names all that are missing, in few lines."""
    names = [named(cluster, number) for number in missing]
    within = f"within {wait:g} seconds"
    what = f"{names[0]} has not come {within}" if len(names) == 1 else f"{len(names)} workers have not come {within}"
    in_one = -(-len(names) // _LINES)
    rows = [", ".join(names[at : at + in_one]) for at in range(0, len(names), in_one)] if len(names) > 1 else []
    todo = "is each of them started, and can it be reached at this address?"
    return UserError("machine", cluster.origin, what, todo, *(f"  {row}" for row in (*rows, why) if row))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
