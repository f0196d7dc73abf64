"""What is given to the thread is done in its order, and no failure is lost."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from functools import partial

import pytest

from finetune.running.beside import Beside


def fail() -> None:
    raise ValueError("full")


def test_works_are_done_in_their_order_beside_what_goes_on():
    done: list[int] = []
    started, let = threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        let.wait(10)
        done.append(0)

    with closing(Beside()) as beside:
        beside.do(slow)
        assert started.wait(10)
        beside.do(partial(done.append, 1))
        assert done == []
        let.set()
        beside.wait()
        assert done == [0, 1]


def test_no_more_than_two_wait():
    let, given = threading.Event(), []
    with closing(Beside()) as beside:

        def give() -> None:
            for number in range(3):
                beside.do(partial(let.wait, 10))
                given.append(number)

        giving = threading.Thread(target=give)
        giving.start()
        time.sleep(0.3)
        assert given == [0, 1]
        let.set()
        giving.join(10)
        assert given == [0, 1, 2]


@pytest.mark.parametrize("how", ["do", "wait", "look"])
def test_a_failure_is_raised_where_the_next_is_asked_for(how):
    with closing(Beside()) as beside:
        beside.do(fail)
        time.sleep(0.1)
        with pytest.raises(ValueError, match="full"):
            {"do": lambda: beside.do(lambda: None), "wait": beside.wait, "look": beside.look}[how]()


def test_to_look_waits_for_nothing():
    let = threading.Event()
    with closing(Beside()) as beside:
        for _ in range(2):
            beside.do(partial(let.wait, 10))
        began = time.monotonic()
        beside.look()
        assert time.monotonic() - began < 5
        let.set()


def test_what_follows_a_failure_is_not_done():
    let, done = threading.Event(), []

    def later() -> None:
        let.wait(10)
        fail()

    with closing(Beside()) as beside:
        beside.do(later)
        beside.do(partial(done.append, 1))
        let.set()
        with pytest.raises(ValueError, match="full"):
            beside.wait()
    assert done == []


def test_the_end_waits_for_what_is_under_way_and_raises_nothing():
    done: list[int] = []
    with closing(Beside()) as beside:
        beside.do(lambda: (time.sleep(0.2), done.append(1))[1])
        beside.do(fail)
    assert done == [1]
