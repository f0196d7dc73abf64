"""Which GPU a trial sees."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from finetune.sweeping.one_gpu import VISIBLE, gpus, in_turn, one_of


@pytest.mark.parametrize(
    ("environment", "count", "found"),
    [
        ({}, 0, []),
        ({}, 2, ["0", "1"]),
        ({VISIBLE: "2, 0"}, 4, ["2", "0"]),
        ({VISIBLE: "GPU-1a2b,MIG-3c"}, 4, ["GPU-1a2b", "MIG-3c"]),
        ({VISIBLE: ""}, 4, []),
        ({VISIBLE: "0,-1,1"}, 4, ["0"]),
    ],
)
def test_those_that_this_process_may_use(environment: dict[str, str], count: int, found: list[str]):
    assert gpus(environment, count) == found


def test_each_trial_begins_at_another():
    assert [in_turn(number, 2)[0] for number in range(4)] == [0, 1, 0, 1]
    assert in_turn(3, 0) == []


class Enough(Exception):
    pass


def ends() -> None:
    raise Enough


def test_a_trial_takes_the_first_that_is_free_and_waits_for_one(tmp_path: Path):
    with ExitStack() as under_way:
        take = lambda number: under_way.enter_context(one_of(["0", "1"], number, tmp_path, ends))[VISIBLE]  # noqa: E731
        assert [take(0), take(2)] == ["0", "1"]
        with pytest.raises(Enough):
            take(3)
        waited = []

        def another() -> None:
            with one_of(["0", "1"], 3, tmp_path, lambda: None) as shown:
                waited.append(shown)

        waiting = threading.Thread(target=another)
        waiting.start()
        assert waited == []
    waiting.join()
    assert waited in ([{VISIBLE: "0"}], [{VISIBLE: "1"}])


def test_a_gpu_that_is_named_twice_takes_two_trials(tmp_path: Path):
    with one_of(["5", "5"], 0, tmp_path, ends) as one, one_of(["5", "5"], 1, tmp_path, ends) as other:
        assert one == other == {VISIBLE: "5"}


def test_without_gpus_nothing_is_hidden(tmp_path: Path):
    with one_of([], 3, tmp_path, ends) as shown:
        assert shown == {}
