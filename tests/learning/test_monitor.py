"""What a run concludes from its evaluations."""

from __future__ import annotations

import math

import pytest

from finetune.errors import UserError
from finetune.learning.monitor import (
    Rules,
    Watch,
    ends,
    from_numbers,
    goal_of,
    rolled_back,
    seen,
    share_of_rate,
    value_of,
)


def after(values: list[float], rules: Rules) -> list[Watch]:
    """The watch after each evaluation, at steps 10, 20, …"""
    watches, watch = [], Watch()
    for number, value in enumerate(values, 1):
        # As if each step were resumed from a checkpoint.
        watch = seen(from_numbers(watch.numbers()), rules, 10 * number, value)
        watches.append(watch)
    return watches


def test_the_best_is_the_lowest_or_the_highest_and_the_first_of_equals():
    assert [w.best_step for w in after([3, 2, 2, 4, 1], Rules("min"))] == [10, 20, 20, 20, 50]
    assert [w.best_step for w in after([3, 2, 2, 4, 4], Rules("max"))] == [10, 10, 10, 40, 40]


def test_what_is_not_finite_is_never_the_best_and_no_progress():
    watches = after([math.nan, math.inf, 2.0, math.nan, 1.0], Rules("min"))
    assert [w.best_step for w in watches] == [-1, -1, 30, 30, 50]
    assert [w.idle for w in watches] == [1, 2, 0, 1, 0]
    assert after([math.inf, 2.0], Rules("max"))[-1].best == 2.0


def test_a_run_ends_after_so_many_evaluations_without_progress():
    rules = Rules("min", stop_early=2)
    assert [ends(w, rules) for w in after([5, 5, 4, 4, 4], rules)] == [False, False, False, False, True]
    assert not any(ends(w, Rules("min")) for w in after([5] * 50, Rules("min")))


def test_progress_is_measured_from_the_last_progress_and_the_best_is_the_best():
    watches = after([1.0, 0.95, 0.9, 0.85], Rules("min", min_delta=0.125))
    assert [w.idle for w in watches] == [0, 1, 2, 0]
    assert [w.best for w in watches] == [1.0, 0.95, 0.9, 0.85]


def test_the_rate_falls_at_each_plateau_anew():
    rules = Rules("max", plateau=2, factor=0.5)
    watches = after([1, 1, 1, 1, 1, 2, 2, 2], rules)
    assert [share_of_rate(w, rules) for w in watches] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_a_rollback_keeps_the_best_and_halves_the_rate():
    rules = Rules("min", plateau=1, factor=0.5)
    *_, saved, _, now = after([3, 4, 2, 5], rules)
    back = rolled_back(saved, now)
    assert (back.best, back.best_step, back.idle, back.rollbacks) == (2, 30, 1, 1)
    assert share_of_rate(saved, rules) == 0.5
    assert share_of_rate(back, rules) == 0.25
    assert rolled_back(saved, back).rollbacks == 2


@pytest.mark.parametrize(
    ("metric", "goal"), [("loss", "min"), ("accuracy", "max"), ("b/f1", "max"), ("mae", "min"), ("macro_recall", "max")]
)
def test_the_name_of_a_metric_says_which_way_is_better(metric: str, goal: str):
    assert goal_of(metric, None) == goal_of(metric, goal) == goal
    with pytest.raises(UserError, match="leave it out"):
        goal_of(metric, {"min": "max", "max": "min"}[goal])


def test_a_metric_that_does_not_say_it_needs_a_goal():
    assert goal_of("lift", "max") == "max"
    with pytest.raises(UserError, match=r"eval.goal=min or eval.goal=max"):
        goal_of("lift", None)
    with pytest.raises(UserError, match=r"did you mean accuracy"):
        goal_of("acuracy", None)


def test_a_metric_that_no_evaluation_gives_is_named_with_those_that_there_are():
    assert value_of("mae", {"loss": 1.0, "mae": 2.0}) == 2.0
    with pytest.raises(UserError, match=r"'auc'; there are loss, accuracy"):
        value_of("auc", {"loss": 1.0, "accuracy": 2.0})
