from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from finetune.judging.intervals import bootstrap, interval, interval_of_mean, wilson
from finetune.judging.metrics import MANY, ONE, VALUES, Metric


@pytest.mark.parametrize(("right", "count"), [(116, 126), (0, 7), (7, 7), (1, 1), (5000, 10000)])
def test_a_share_has_the_interval_of_wilson(right, count):
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_accuracy_is_a_share():
    targets, outputs = np.zeros(126, int), np.eye(2)[[0] * 116 + [1] * 10]
    assert interval(ONE["accuracy"], targets, outputs, 0) == pytest.approx(wilson(116 / 126, 126))


def test_a_mean_has_the_interval_that_theory_gives_many_examples():
    values = np.random.default_rng(1).normal(3.0, 2.0, 4000)
    assert interval_of_mean(values, 0) == pytest.approx(
        (values.mean() - 1.96 * 2 / 4000**0.5, values.mean() + 1.96 * 2 / 4000**0.5), abs=0.01
    )


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(2)
    held = 0
    for trial in range(200):
        low, high = interval_of_mean(random.exponential(1.0, 60), trial) or (0, 0)
        held += low <= 1.0 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_they_are_a_function_of_the_seed():
    values = np.random.default_rng(3).random(50)
    assert interval_of_mean(values, 5) == interval_of_mean(values, 5) != interval_of_mean(values, 6)


def test_a_metric_of_all_examples_is_drawn_too():
    random = np.random.default_rng(4)
    targets = random.normal(size=(300, 1))
    outputs = targets + random.normal(size=(300, 1))
    low, high = interval(VALUES["pearson"], targets, outputs, 0) or (0, 0)
    theirs = stats.pearsonr(targets[:, 0], outputs[:, 0]).confidence_interval()
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_where_there_is_nothing_to_draw_there_is_none():
    one = np.ones((1, 1))
    assert interval(VALUES["mae"], one, one * 3, 0) is None
    assert interval(ONE["accuracy"], np.array([0]), np.array([[1.0, 0.0]]), 0) is not None
    assert interval_of_mean(np.array([1.0, np.nan]), 0) is None
    assert bootstrap(lambda draws: np.full(len(draws), np.nan), 5, 0, 200) is None
    # Draws of a class that is hardly there often have no value; most of these have.
    targets = np.array([0] * 30 + [1] * 2)
    assert interval(ONE["auc"], targets, np.random.default_rng(0).dirichlet([1, 1], 32), 0) is not None


@pytest.mark.parametrize(
    ("metrics", "targets", "width"),
    [
        ([ONE["accuracy"], ONE["log_loss"]], np.arange(10_000) % 100, 100),
        ([MANY["f1_micro"]], np.eye(20)[np.arange(10_000) % 20], 20),
        ([VALUES["mae"], VALUES["rmse"]], np.zeros((10_000, 1)), 1),
    ],
)
def test_the_usual_ones_of_ten_thousand_examples_take_about_a_second(metrics: list[Metric], targets, width):
    outputs = np.random.default_rng(0).random((10_000, width)).astype(np.float32)
    before = time.process_time()
    assert all(interval(metric, targets, outputs, 0) for metric in metrics)
    assert time.process_time() - before < 20  # one; minutes if each draw is made by itself
