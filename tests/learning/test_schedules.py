"""The learning rate is a function of the step."""

from __future__ import annotations

import pytest

from finetune.learning.schedules import DECAYS, share


@pytest.mark.parametrize("schedule", DECAYS)
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_whole_rate_is_reached_after_the_warm_up_and_never_passed(schedule, warmup):
    shares = [share(schedule, step, 10, warmup) for step in range(1, 11)]
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
