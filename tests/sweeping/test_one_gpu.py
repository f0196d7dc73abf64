"""Which GPU a trial sees."""

from __future__ import annotations

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
    assert [in_turn(number, ["a", "b"])[0] for number in range(4)] == ["a", "b", "a", "b"]
    assert in_turn(3, []) == []


def test_a_trial_takes_the_first_that_is_free_and_shares_only_where_none_is(tmp_path: Path):
    with ExitStack() as under_way:
        take = lambda number: under_way.enter_context(one_of(["0", "1"], number, tmp_path))[VISIBLE]  # noqa: E731
        assert [take(0), take(2), take(3), take(4)] == ["0", "1", "1", "0"]
    with one_of(["0", "1"], 2, tmp_path) as shown:
        assert shown == {VISIBLE: "0"}


def test_without_gpus_nothing_is_hidden(tmp_path: Path):
    with one_of([], 3, tmp_path) as shown:
        assert shown == {}
