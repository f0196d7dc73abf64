from __future__ import annotations

import numpy as np
import pytest

from finetune.pages.axes import apart, scale, ticks


@pytest.mark.parametrize(
    "values", [[0.0], [3.0], [-2.0, -2.0], [0.0, 1e-12], [1e-30, 1e30], [5, 1e9], [-1e-7, 4], [0.5, 6.0]]
)
def test_all_values_lie_on_a_scale_and_so_do_its_ticks(values: list[float]):
    for may_be_log in (False, True):
        made = scale(values, 10.0, 110.0, may_be_log)
        assert all(9.9 <= made(value) <= 110.1 for value in values)
        there = made.ticks()
        assert 1 <= len(there) <= 12
        assert there == sorted(set(there))
        assert all(made.low <= tick <= made.high for tick in there)


def test_a_logarithmic_scale_is_for_what_spans_decades_and_is_positive():
    assert scale([0.01, 1.0], 0, 1, may_be_log=True).is_log
    assert not scale([0.0, 1.0], 0, 1, may_be_log=True).is_log
    assert not scale([0.5, 1.0], 0, 1, may_be_log=True).is_log
    assert not scale([0.01, 1.0], 0, 1).is_log
    made = scale([0.01, 1.0], 0.0, 100.0, may_be_log=True)
    assert made(0.1) == pytest.approx(50.0)
    assert made.ticks() == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]


def test_ticks_are_round():
    for low, high in np.random.default_rng(0).uniform(-5, 5, (50, 2)):
        if high > low:
            steps = np.diff(ticks(low, high))
            assert np.allclose(steps, steps[0] if len(steps) else 0)
            assert f"{float(steps[0]) if len(steps) else 1:e}"[0] in "125"


def test_labels_stay_in_order_and_apart():
    random = np.random.default_rng(1)
    for _ in range(50):
        places = random.uniform(0, 100, 6).tolist()
        moved = apart(places, 12.0, 0.0, 100.0)
        order = np.argsort(places)
        assert np.all(np.diff(np.array(moved)[order]) >= 12.0 - 0.2)
        assert min(moved) >= 0
        assert max(moved) <= 100
    assert apart([], 12.0, 0.0, 100.0) == []
    assert apart([50.0, 50.0], 10.0, 0.0, 100.0) == [45.0, 55.0]
