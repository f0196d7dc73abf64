"""The learning rate is a function of the step."""

from __future__ import annotations

from itertools import pairwise

import pytest

from finetune.learning.schedules import DECAYS, share


@pytest.mark.parametrize("schedule", DECAYS)
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_whole_rate_is_reached_after_the_warm_up_and_never_passed(schedule, warmup):
    shares = [share(schedule, step, 10, warmup, end=0.01) for step in range(1, 11)]
    assert max(shares) == shares[max(warmup - 1, 0)] == 1.0
    assert min(shares) > 0.0
    assert shares[:warmup] == sorted(shares[:warmup])
    assert shares[warmup:] == sorted(shares[warmup:], reverse=True)


def test_cosine_is_half_way_in_the_middle():
    assert share("cosine", 6, 10, 0) == pytest.approx(0.5)


def test_a_warm_up_that_is_longer_than_the_run_only_rises():
    assert [share("cosine", step, 2, 4) for step in (1, 2)] == [0.25, 0.5]


def test_a_run_that_goes_on_behind_its_last_step_has_no_negative_rate():
    assert share("linear", 12, 10, 0) == 0.0


@pytest.mark.parametrize("schedule", ["linear", "cosine", "exponential"])
def test_a_schedule_falls_to_its_end(schedule: str):
    assert share(schedule, 11, 10, 0, end=0.25) == pytest.approx(0.25)
    assert share(schedule, 10, 10, 0, end=0.25) > 0.25


def test_an_exponential_falls_by_the_same_factor_each_step():
    shares = [share("exponential", step, 8, 2, end=0.01) for step in range(3, 9)]
    assert [b / a for a, b in pairwise(shares)] == pytest.approx([0.01 ** (1 / 6)] * 5)


def test_steps_and_shares_of_all_steps_name_the_same_falls():
    by_step = [share("step", step, 100, 5, decay_steps=[60, 90]) for step in range(1, 101)]
    assert by_step == [share("step", step, 100, 5, decay_steps=[0.6, 0.9]) for step in range(1, 101)]
    assert [by_step[at - 1] for at in (5, 60, 61, 90, 91, 100)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
