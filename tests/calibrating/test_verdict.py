"""Where doubt ends."""

from __future__ import annotations

from finetune.calibrating.verdict import is_faster


def test_one_round_says_nothing():
    assert not is_faster([4.0], [1.0])
    assert is_faster([4.0, 4.0], [1.0, 1.0])


def test_two_rounds_that_contradict_each_other_say_nothing():
    assert not is_faster([4.0, 4.0], [3.0, 4.5])
    assert is_faster([4.0, 4.0], [3.0, 3.2])
