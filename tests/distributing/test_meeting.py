"""Workers wait for each other at the chief's port, and say who is missing, who is a stranger, and who has left."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune.distributing import meeting
from finetune.distributing.cluster import Cluster
from finetune.distributing.meeting import meet
from finetune.errors import MAX_LINES, UserError
from finetune.interruption import Interrupted, Interruption

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the benchmarks are in no package that is installed
from benchmarks.ports import free_ports

LONG = 30.0  # seconds: nothing here waits for so long


def addresses(count: int, host: str = "127.0.0.1") -> tuple[str, ...]:
    return tuple(f"{host}:{port}" for port in free_ports(count))


class Guest(threading.Thread):
    """One worker that comes to the meeting, and what became of it."""

    def __init__(
        self,
        workers: tuple[str, ...],
        index: int,
        wait: float = LONG,
        check: Callable[[], None] = lambda: None,
    ):
        super().__init__(daemon=True)
        self.cluster, self.wait, self.check = Cluster(workers, index, "run.workers"), wait, check
        self.said: list[str] = []
        self.failed: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            meet(self.cluster, self.wait, self.said.append, self.check)
        except BaseException as error:
            self.failed = error

    @property
    def has_gone_on(self) -> bool:
        self.join(LONG)
        assert not self.is_alive()
        if self.failed is not None:
            raise self.failed
        return True

    def error(self) -> str:
        with pytest.raises(UserError) as raised:
            assert self.has_gone_on
        assert raised.value.status == (75 if raised.value.code == "machine" else 2)
        return str(raised.value)

    def until(self, pattern: str) -> None:
        end = time.monotonic() + LONG
        while not any(re.search(pattern, line) for line in self.said):
            assert self.is_alive(), self.failed
            assert time.monotonic() < end, self.said
            time.sleep(0.02)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """People are told of whatever there is, without delay."""
    monkeypatch.setattr(meeting, "_SILENT", 0.0)
    monkeypatch.setattr(meeting, "_AGAIN", 0.0)


@contextmanager
def caller(address: str) -> Iterator[socket.socket]:
    """Somebody who comes to a port as soon as it is open."""
    host, port = address.rsplit(":", 1)
    end = time.monotonic() + LONG
    while True:
        try:
            line = socket.create_connection((host, int(port)), LONG)
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
    with line:
        yield line


def introduced(line: socket.socket, workers: tuple[str, ...], index: Any) -> dict[str, Any]:
    line.sendall(json.dumps({"worker": index, "workers": workers}).encode() + b"\n")
    return json.loads(line.makefile("rb").readline())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_all_go_on_once_all_have_come(order: tuple[int, ...], host: str):
    workers = addresses(3, host)
    first, second = (Guest(workers, index) for index in order[:2])
    time.sleep(0.5)
    assert first.is_alive()
    assert second.is_alive()
    last = Guest(workers, order[2])
    assert first.has_gone_on
    assert second.has_gone_on
    assert last.has_gone_on
    for address in workers:  # TensorFlow's servers can take them
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", int(address.rsplit(":", 1)[1])))
            server.listen()


def test_a_meeting_after_a_meeting_has_the_same_ports():
    workers = addresses(2)
    for _ in range(10):
        both = [Guest(workers, index) for index in (1, 0)]
        assert all(one.has_gone_on for one in both)


def test_124_who_never_comes_is_named_by_all_who_have_come(at_once: None):
    workers = addresses(3)
    here = [Guest(workers, 0, wait=1.0), Guest(workers, 1, wait=5.0)]
    began = time.monotonic()
    errors = {one.error() for one in here}
    assert time.monotonic() - began < 4
    todo = "is each of them started, and can it be reached at this address?"
    assert [error.splitlines()[0].partition("; ")[2] for error in errors] == [todo, todo]
    for error in errors:
        assert error.startswith(f"error[machine] run.workers: worker 2 ({workers[2]}) has not come within ")
    assert f"waiting for worker 2 ({workers[2]})" in here[0].said
    assert here[1].said[-1] == f"waiting for the others; the chief ({workers[0]}) says for whom"


def test_124_several_who_never_come_are_all_named_in_five_lines():
    workers = addresses(12)
    said = Guest(workers, 0, wait=0.1).error()
    assert said.startswith("error[machine] run.workers: 11 workers have not come within 0.1 seconds; ")
    assert len(said.splitlines()) <= MAX_LINES
    for number, address in enumerate(workers[1:], 1):
        assert f"worker {number} ({address})" in said


@pytest.mark.parametrize(
    ("chief", "reason"),
    [("127.0.0.1:PORT", "Connection refused"), ("nobody.invalid:PORT", "."), (f"{'x' * 64}:PORT", ".")],
)
def test_124_a_chief_who_cannot_be_reached_is_named_with_the_reason(chief: str, reason: str, at_once: None):
    port, own = free_ports(2)
    workers = (chief.replace("PORT", str(port)), f"127.0.0.1:{own}")
    worker = Guest(workers, 1, wait=1.0)
    first, second = worker.error().splitlines()
    assert first.startswith(f"error[machine] run.workers: the chief ({workers[0]}) has not come within 1 seconds; ")
    assert re.search(reason, second)
    assert worker.said[0] == f"waiting for the chief ({workers[0]})"


def test_a_worker_that_leaves_is_waited_for_again(at_once: None):
    workers = addresses(3)
    chief = Guest(workers, 0)
    with caller(workers[0]) as line:
        assert introduced(line, workers, 1) == {"come": True}
    chief.until(re.escape(f"worker 1 ({workers[1]}) is gone again: the connection was closed"))
    others = [Guest(workers, index) for index in (2, 1)]
    assert all(one.has_gone_on for one in [chief, *others])


def test_a_chief_that_leaves_is_waited_for_again(at_once: None):
    workers = addresses(2)
    with socket.create_server(("127.0.0.1", int(workers[0].rsplit(":", 1)[1]))) as door:
        worker = Guest(workers, 1)
        with door.accept()[0] as line:
            line.recv(1 << 16)
            line.sendall(b'{"come": true}\n')
            worker.until("waiting for the others")
    assert Guest(workers, 0).has_gone_on
    assert worker.has_gone_on


def test_a_worker_of_another_job_is_refused_by_name(at_once: None):
    workers = addresses(2)
    others = (workers[0], *addresses(2))
    chief, stranger = Guest(workers, 0), Guest(others, 2)
    assert stranger.error() == (
        f"error[recipe] run.workers: the chief ({workers[0]}) is that of other workers: {workers[0]}, {workers[1]}; "
        "start each worker once, and all with the same addresses"
    )
    chief.until(re.escape(f"is gone again: worker 2 of {', '.join(others)} is refused"))
    assert Guest(workers, 1).has_gone_on
    assert chief.has_gone_on


def test_a_second_process_that_says_it_is_the_same_worker_is_refused(at_once: None):
    workers = addresses(3)
    chief = Guest(workers, 0)
    with caller(workers[0]) as line, caller(workers[0]) as double, caller(workers[0]) as none:
        assert introduced(line, workers, 1) == {"come": True}
        assert introduced(double, workers, 1) == {"refused": f"another process is worker 1 ({workers[1]}) already"}
        assert introduced(none, workers, 3) == {"refused": "worker 3 is not one that the chief waits for"}
        assert Guest(workers, 2).has_gone_on
        assert chief.has_gone_on


def test_who_does_not_speak_as_workers_do_disturbs_nobody(at_once: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meeting, "_LONGEST", 1000)
    workers = addresses(2)
    chief = Guest(workers, 0)
    foreign = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"[1]\n",
        b'{"worker": true, "workers": []}\n',
        b"{}\n",
    ]
    foreign += [b"[" * 1001, b"[" * 900 + b"\n", b"\xff\n"]
    for number, words in enumerate(foreign, 1):
        with caller(workers[0]) as line:
            line.sendall(words)
            assert line.recv(10) == b""
        end = time.monotonic() + LONG
        while sum("it does not speak as workers do" in said for said in chief.said) < number:
            assert time.monotonic() < end, chief.said
            time.sleep(0.02)
    with caller(workers[0]):  # and says nothing
        assert Guest(workers, 1).has_gone_on
        assert chief.has_gone_on


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b'{"worker": 1}\n'])
def test_what_is_no_chief_at_the_address_of_the_chief_is_said(answer: bytes):
    workers = addresses(2)
    with socket.create_server(("127.0.0.1", int(workers[0].rsplit(":", 1)[1]))) as door:
        worker = Guest(workers, 1, wait=1.0)
        door.settimeout(LONG)
        while worker.is_alive():
            with door.accept()[0] as line:
                line.recv(1 << 16)
                line.sendall(answer)
            door.settimeout(1.0)
            worker.join(0.3)
    assert re.search("the connection was closed|it does not speak as workers do", worker.error().splitlines()[1])


@pytest.mark.parametrize("index", [0, 1])
def test_who_is_asked_to_end_does_not_wait(index: int):
    interruption = Interruption()
    waiting = Guest(addresses(2), index, check=interruption.check)
    time.sleep(0.3)
    interruption.by = "SIGTERM"
    asked = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM"):
        assert waiting.has_gone_on
    assert time.monotonic() - asked < 1


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_another_process_has_is_waited_for_and_named(index: int, at_once: None):
    workers = addresses(2)
    port = int(workers[index].rsplit(":", 1)[1])
    with socket.create_server(("127.0.0.1", port)):
        said = Guest(workers, index, wait=0.1).error()
        assert said.startswith(f"error[machine] run.workers: port {port} of worker {index} of 2 (")
        assert "Address already in use" in said
        both = [Guest(workers, number) for number in (0, 1)]
        both[index].until(f"waiting for port {port} of this machine, which another process has")
    assert all(one.has_gone_on for one in both)
