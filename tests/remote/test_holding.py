"""One process at a time in a folder that has no locks."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from finetune.errors import UserError
from finetune.interruption import Interrupted
from finetune.remote.holding import MARK, alone_at
from tests.remote.cloud import Cloud

BEAT = 0.3  # seconds


def hold(url="gs://bucket/run", wait=False, check=lambda: None):
    told: list[str] = []
    return alone_at(url, wait, told.append, check, beat=BEAT), told


def leave(bucket: Cloud, **how) -> None:
    mark = {"token": "t", "pid": 1, "host": "other", "since": "2026-01-01 00:00:00", "beat": 0, **how}
    bucket.put(f"run/{MARK}", json.dumps(mark).encode())


def test_a_folder_is_held_and_let_go(bucket: Cloud):
    held, told = hold()
    with held as still:
        still()
        mark = json.loads(bucket.objects[f"run/{MARK}"])
        assert (mark["pid"], mark["host"]) == (os.getpid(), socket.gethostname())
        time.sleep(3 * BEAT)
        assert json.loads(bucket.objects[f"run/{MARK}"])["beat"] > 0
    assert bucket.objects.keys() <= {"run/"}
    assert told == []


def test_a_second_one_is_refused_by_name(bucket: Cloud):
    first, _ = hold()
    with first:
        second, told = hold()
        with (
            pytest.raises(UserError, match=rf"'gs://bucket/run' is in use by process {os.getpid()} on .* since"),
            second,
        ):
            pass
    assert "waiting for gs://bucket/run" in told[0]


def test_a_second_one_waits_if_it_is_asked_to(bucket: Cloud):
    first, _ = hold()
    order = []

    def come() -> None:
        second, _ = hold(wait=True)
        with second:
            order.append("second")

    with first:
        thread = threading.Thread(target=come)
        thread.start()
        time.sleep(5 * BEAT)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_mark_that_nobody_renews_is_taken(bucket: Cloud):
    leave(bucket)
    began = time.monotonic()
    held, told = hold()
    with held:
        assert time.monotonic() - began > 3 * BEAT
    assert (
        told[-1] == "process 1 on other since 2026-01-01 00:00:00 was ended from outside: killed, out of memory, or "
        "without power"
    )


def test_a_mark_of_a_process_that_this_machine_has_no_more_is_taken_at_once(bucket: Cloud):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    leave(bucket, host=socket.gethostname(), pid=int(ended.stdout))
    held, told = hold()
    with held:
        assert len(told) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 7}'])
def test_a_mark_that_cannot_be_read_is_nobodys(bucket: Cloud, content: bytes):
    bucket.put(f"run/{MARK}", content)
    held, told = hold()
    with held:
        assert told[-1].startswith("another process was ended from outside")


def test_who_lost_it_is_told_and_takes_nothing_away(bucket: Cloud):
    held, _ = hold()
    with held as still:
        leave(bucket, beat=1)
        with pytest.raises(UserError, match=r"process 1 on other since .* has it now"):
            still()
    assert json.loads(bucket.objects[f"run/{MARK}"])["host"] == "other"


def test_of_two_who_come_at_once_one_gets_it(bucket: Cloud):
    got, refused = [], []
    barrier = threading.Barrier(4)

    def come(number: int) -> None:
        held, _ = hold()
        barrier.wait()
        try:
            with held:
                got.append(number)
                time.sleep(6 * BEAT)
        except UserError:
            refused.append(number)

    threads = [threading.Thread(target=come, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)


def test_a_wait_ends_when_the_run_is_asked_to(bucket: Cloud):
    leave(bucket)

    def check() -> None:
        raise Interrupted("SIGTERM")

    held, _ = hold(wait=True, check=check)
    with pytest.raises(Interrupted), held:
        pass
