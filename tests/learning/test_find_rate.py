"""The search for a learning rate: where it stops, and what it proposes."""

from __future__ import annotations

import math

import pytest

from finetune.errors import UserError
from finetune.learning.find_rate import HIGHEST, LOWEST, STEPS, Sweep, rate_at, steepest, sweep, valley


def textbook(number: int) -> float:
    """A flat beginning, a fall around 1e-3, and divergence from 1 on."""
    rate = rate_at(number)
    return 2.0 / (1.0 + (rate / 1e-3) ** 2) + 0.5 + (rate**4 if rate > 1 else 0.0)


def test_it_goes_from_the_lowest_to_the_highest_rate_by_equal_factors():
    assert rate_at(1) == LOWEST
    assert rate_at(STEPS) == pytest.approx(HIGHEST)
    assert rate_at(51) / rate_at(50) == pytest.approx(rate_at(2) / rate_at(1))


def test_it_stops_where_the_loss_diverges():
    found = sweep(textbook)
    assert 1.0 < found.rates[-1] < HIGHEST
    assert found.smooth[-1] > 4 * min(found.smooth)
    lowest = found.smooth.index(min(found.smooth))
    assert all(loss <= 4 * min(found.smooth) for loss in found.smooth[lowest:-1])


def test_it_proposes_rates_on_the_slope():
    found = sweep(textbook)
    for rate in (steepest(found), valley(found)):
        assert rate is not None
        assert 3e-4 < rate < 3e-2


def test_a_loss_that_is_no_number_ends_it():
    def step(number: int) -> float:
        if number == 30:
            raise UserError("numerics", "step 30", "the loss is nan")
        return textbook(number)

    assert len(sweep(step).rates) == 29


def test_a_first_loss_that_is_no_number_and_other_errors_are_told():
    def step(number: int) -> float:
        raise UserError(code, "step", "bad")

    for code in ("numerics", "data"):
        with pytest.raises(UserError, match=f"error.{code}. step: bad"):
            sweep(step)


def test_where_nothing_falls_nothing_is_proposed():
    rising = Sweep([rate_at(n) for n in range(1, 41)], [1.0] * 40, [1.0 + n for n in range(40)])
    assert (steepest(rising), valley(rising)) == (None, None)
    assert (steepest(Sweep([1.0], [1.0], [1.0])), valley(Sweep([], [], []))) == (None, None)


def test_a_bump_does_not_end_the_valley():
    losses = [*[9.0] * 20, *[9.0 - 0.2 * n + (0.5 if n % 7 == 3 else 0.0) for n in range(40)]]
    found = Sweep([rate_at(n) for n in range(1, 61)], losses, losses)
    middle = valley(found)
    assert middle is not None
    assert abs(math.log(middle / rate_at(40))) < math.log(rate_at(5) / rate_at(1))
